// SPDX-License-Identifier: Apache-2.0

package rest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/rest"
)

// endless waits for its deadline, and then knows nothing.
type endless struct{}

func (endless) Send(ctx context.Context, n *push.Notification) push.Receipt {
	<-ctx.Done()
	return push.Receipt{ID: n.ID, Outcome: push.Outcome{Reason: "NO_ENDPOINT"}}
}

func TestEveryNotificationHasItsVerdictInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key, hash := rest.NewKey()
		face, err := rest.New(rest.Config{
			Sender: endless{}, Limits: rest.Limits{SendTime: 3 * time.Second},
			Apps: map[string]rest.App{"shop": {Keys: []rest.Key{{Name: "test", Hash: hash, Scopes: []string{"send"}}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		request := httptest.NewRequest(http.MethodPost, "/v1/apps/shop/notifications", strings.NewReader(`{"platform":"fcm","token":"t"}`))
		request.Header.Set("Authorization", "Bearer "+key)
		answer := httptest.NewRecorder()
		face.ServeHTTP(answer, request)
		if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" || time.Since(began) != 3*time.Second {
			t.Errorf("%d after %v: %s", answer.Code, time.Since(began), answer.Body)
		}
	})
}
