// SPDX-License-Identifier: Apache-2.0

package webpush_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func TestConformance(t *testing.T) {
	private, err := testKey().PEM()
	if err != nil {
		t.Fatal(err)
	}
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T, _ *slog.Logger) providertest.Provider { return newProvider(t) },
		Notification: func() *push.Notification {
			return newNotification(func(n *push.Notification) { n.Title = "SECRET title" })
		},
		Secrets: []string{string(private), "vapid t=", "gAAAAABSECRETsubscription"},
		Rows:    allRows(t),
		ReadTitle: func(t *testing.T, r *wire.Request) string {
			text, err := testBrowser().decrypt(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			var shown struct{ Title string }
			if err := json.Unmarshal([]byte(text), &shown); err != nil {
				t.Fatal(err)
			}
			return shown.Title
		},
		FillPayload: func(text string, size int) *push.Notification {
			return newNotification(withPayload(strings.Repeat(text, size/len(text)) + strings.Repeat("x", size%len(text))))
		},
		PayloadLimit:    3993,
		ExpiredResponse: wire.Response{Status: 401}, CredentialAge: time.Hour,
	})
}

func allRows(t *testing.T) (rows []providertest.Row) {
	for _, r := range loadRows(t) {
		for _, status := range r.statuses() {
			for i, conn := range r.responses(status) {
				response, _ := conn(nil)
				rows = append(rows, providertest.Row{
					Name: fmt.Sprintf("%v %d %d", r, status, i), Response: *response,
					Verdict: providertest.VerdictFor(r.Class), Retryable: r.Retryable, EndpointFault: r.EndpointFault, ForgetToken: r.ForgetToken,
				})
			}
		}
	}
	return rows
}
