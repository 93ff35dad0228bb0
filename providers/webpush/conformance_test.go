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

func TestWebPushPassesWhatEveryProviderMustPass(t *testing.T) {
	private, err := theKey().PEM()
	if err != nil {
		t.Fatal(err)
	}
	providertest.Run(t, providertest.Suite{
		New:          func(t *testing.T, _ *slog.Logger) providertest.Provider { return provider(t) },
		Notification: func() *push.Notification { return hello(func(n *push.Notification) { n.Title = "SECRET title" }) },
		Secrets:      []string{string(private), "vapid t=", "gAAAAABSECRETsubscription"},
		Rows:         everyRow(t),
		Shown: func(t *testing.T, r *wire.Request) string {
			text, err := theBrowser().read(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			var shown struct{ Title string }
			if err := json.Unmarshal([]byte(text), &shown); err != nil {
				t.Fatal(err)
			}
			return shown.Title
		},
		Filled: func(text string, size int) *push.Notification {
			return hello(raw(strings.Repeat(text, size/len(text)) + strings.Repeat("x", size%len(text))))
		},
		Limit:   3993,
		Expired: wire.Response{Status: 401}, Age: time.Hour,
	})
}

func everyRow(t *testing.T) (rows []providertest.Row) {
	for _, r := range rowsOf(t) {
		for _, status := range r.statuses() {
			for i, on := range r.answers(status) {
				answer, _ := on(nil)
				rows = append(rows, providertest.Row{
					Name: fmt.Sprintf("%v %d %d", r, status, i), Answer: *answer,
					Verdict: providertest.Verdict(r.Class), Retryable: r.Retryable, EndpointFault: r.Fault, ForgetToken: r.Forget,
				})
			}
		}
	}
	return rows
}
