// SPDX-License-Identifier: Apache-2.0

package fcm_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T, log *slog.Logger) providertest.Provider {
			p, err := fcm.New(fcm.Config{Account: keyFile(), TokenClient: &http.Client{Transport: &fakeOAuth{}}, Logger: log})
			if err != nil {
				t.Fatal(err)
			}
			return p
		},
		Notification: func() *push.Notification {
			return newNotification(func(n *push.Notification) { n.Title = "SECRET title" })
		},
		Secrets: []string{encodePKCS8(testKey()), "ya29.SECRET"},
		Rows:    allRows(t),
		ReadTitle: func(t *testing.T, r *wire.Request) string {
			var body struct {
				Message struct{ Notification struct{ Title string } }
			}
			if err := json.Unmarshal(r.Body, &body); err != nil {
				t.Fatal(err)
			}
			return body.Message.Notification.Title
		},
		FillPayload: func(text string, size int) *push.Notification {
			return newNotification(func(n *push.Notification) {
				n.Title, n.Body = "", strings.Repeat(text, size/len(text))+strings.Repeat("x", size%len(text))
			})
		},
		PayloadLimit:    4096,
		ExpiredResponse: wire.Response{Status: 401, Body: []byte(errorResponse(401, "UNAUTHENTICATED", generic401))}, CredentialAge: 5 * time.Minute,
	})
}

// allRows returns the error table with every sample of each row and an access token that is not
// fresh.
func allRows(t *testing.T) (rows []providertest.Row) {
	for _, r := range loadRows(t, "fcm") {
		for _, status := range r.statuses() {
			for i, s := range r.samples(status) {
				rows = append(rows, providertest.Row{
					Name: fmt.Sprintf("%v %d %d", r, status, i), Response: wire.Response{Status: status, Body: []byte(s.body)}, CredentialAge: 5 * time.Minute,
					Target: s.target, Verdict: providertest.VerdictFor(r.Class), Retryable: r.Retryable, EndpointFault: r.EndpointFault, ForgetToken: r.ForgetToken,
				})
			}
		}
	}
	return rows
}
