// SPDX-License-Identifier: Apache-2.0

package webhook_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/webhook"
)

// A receiver verifies a message before it reads anything in it.
func ExampleVerifier_Verify() {
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3" // also in the gateway's configuration
	verifier, err := webhook.NewVerifier(secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	receive := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if err := verifier.Verify(r.Header, body); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		var message struct {
			Data struct {
				App    string       `json:"app"`
				Events []push.Event `json:"events"`
			} `json:"data"`
		}
		if err := json.Unmarshal(body, &message); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for _, event := range message.Data.Events {
			fmt.Println(message.Data.App, event.ID, event.Status)
		}
		w.WriteHeader(http.StatusNoContent) // after the events are stored: the gateway does not send them again
	}

	body := `{"type":"notification.events","data":{"app":"shop","events":[{"id":"019b4c5d","status":"unregistered"}]}}`
	for _, h := range []http.Header{header(time.Now(), body, secret), {}} { // a signed message and an unsigned one
		r := httptest.NewRequest(http.MethodPost, "/hooks", strings.NewReader(body))
		r.Header = h
		w := httptest.NewRecorder()
		receive(w, r)
		fmt.Println(w.Code)
	}
	// Output:
	// shop 019b4c5d unregistered
	// 204
	// 401
}
