// SPDX-License-Identifier: Apache-2.0

package apns_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func TestConformance(t *testing.T) {
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T, log *slog.Logger) providertest.Provider {
			signer, err := apns.NewSigner(apns.SignerConfig{Key: encodeP8(testKey()), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Logger: log})
			if err != nil {
				t.Fatal(err)
			}
			return newProvider(t, apns.Config{Topic: topic, Signer: signer})
		},
		Notification: func() *push.Notification {
			return newNotification(func(n *push.Notification) { n.Title = "SECRET title" })
		},
		Secrets: []string{string(encodeP8(testKey())), "bearer ey"},
		Rows:    allRows(t),
		ReadTitle: func(t *testing.T, r *wire.Request) string {
			var payload struct {
				APS struct{ Alert struct{ Title string } }
			}
			if err := json.Unmarshal(r.Body, &payload); err != nil {
				t.Fatal(err)
			}
			return payload.APS.Alert.Title
		},
		FillPayload: func(text string, size int) *push.Notification {
			return newNotification(withPayload(fill(`{"k":"`, text, `"}`, size)))
		},
		PayloadLimit:    4096,
		ExpiredResponse: wire.Response{Status: 403, Body: []byte(`{"reason":"ExpiredProviderToken"}`)}, CredentialAge: 30 * time.Minute,
	})
}

// allRows returns the error table with every sample body, and with a token old enough to be
// replaced.
func allRows(t *testing.T) (rows []providertest.Row) {
	for _, r := range loadRows(t, "apns") {
		for _, status := range r.statuses() {
			for i, body := range r.bodies() {
				rows = append(rows, providertest.Row{
					Name: fmt.Sprintf("%v %d %d", r, status, i), Response: r.recorded(status, body), CredentialAge: 30 * time.Minute,
					Verdict: providertest.VerdictFor(r.Class), Retryable: r.Retryable, EndpointFault: r.EndpointFault, ForgetToken: r.ForgetToken,
				})
			}
		}
	}
	return rows
}

// recorded is response without a connection.
func (r row) recorded(status int, body string) wire.Response {
	response, _ := r.response(status, body)(nil)
	return *response
}
