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

func TestApplePassesWhatEveryProviderMustPass(t *testing.T) {
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T, log *slog.Logger) providertest.Provider {
			signer, err := apns.NewSigner(apns.SignerConfig{Key: p8(theKey()), KeyID: "ABC123DEFG", TeamID: "DEF123GHIJ", Logger: log})
			if err != nil {
				t.Fatal(err)
			}
			return provider(t, apns.Config{Topic: topic, Signer: signer})
		},
		Notification: func() *push.Notification { return hello(func(n *push.Notification) { n.Title = "SECRET title" }) },
		Secrets:      []string{string(p8(theKey())), "bearer ey"},
		Rows:         everyRow(t),
		Shown: func(t *testing.T, r *wire.Request) string {
			var payload struct {
				APS struct{ Alert struct{ Title string } }
			}
			if err := json.Unmarshal(r.Body, &payload); err != nil {
				t.Fatal(err)
			}
			return payload.APS.Alert.Title
		},
		Filled:  func(text string, size int) *push.Notification { return hello(raw(filled(`{"k":"`, text, `"}`, size))) },
		Limit:   4096,
		Expired: wire.Response{Status: 403, Body: []byte(`{"reason":"ExpiredProviderToken"}`)}, Age: 30 * time.Minute,
	})
}

// everyRow is the whole table, with every body that makes a row what it is, and a token old enough to be replaced.
func everyRow(t *testing.T) (rows []providertest.Row) {
	for _, r := range rowsOf(t, "apns") {
		for _, status := range r.statuses() {
			for i, body := range r.bodies() {
				rows = append(rows, providertest.Row{
					Name: fmt.Sprintf("%v %d %d", r, status, i), Answer: wire.Response{Status: status, Body: []byte(body)}, After: 30 * time.Minute,
					Verdict: providertest.Verdict(r.Class), Retryable: r.Retryable, EndpointFault: r.Fault, ForgetToken: r.Forget,
				})
			}
		}
	}
	return rows
}
