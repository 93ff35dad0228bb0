// SPDX-License-Identifier: Apache-2.0

package pager_test

import (
	"log/slog"
	"strings"
	"testing"

	pager "github.com/sluice-push/sluice/examples/provider"
	"github.com/sluice-push/sluice/providers/providertest"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func TestProviderConformance(t *testing.T) {
	note := func() *push.Notification {
		return &push.Notification{ID: "eabeae54-14a8-11e5-b60b-1697f925ec7b", Target: push.Target{Token: "4155550123"}, Title: "SECRET title"}
	}
	providertest.Run(t, providertest.Suite{
		New:          func(*testing.T, *slog.Logger) providertest.Provider { return &pager.Provider{Key: "SECRET key"} },
		Notification: note,
		Secrets:      []string{"SECRET key"},
		Rows: []providertest.Row{
			{Name: "accepted", Response: wire.Response{Status: 202}, Verdict: push.Accepted},
			{Name: "a bad key", Response: wire.Response{Status: 401}, Verdict: push.Unauthorized},
			{Name: "gone", Response: wire.Response{Status: 410}, Verdict: push.Unregistered, ForgetToken: true},
			{Name: "too many", Response: wire.Response{Status: 429}, Verdict: push.Throttled, Retryable: true},
			{Name: "down", Response: wire.Response{Status: 503}, Verdict: push.Unavailable, Retryable: true, EndpointFault: true},
		},
		ReadTitle: func(_ *testing.T, r *wire.Request) string { return string(r.Body) },
		FillPayload: func(text string, size int) *push.Notification {
			n := note()
			n.Title = strings.Repeat(text, size/len(text)) + strings.Repeat("x", size%len(text))
			return n
		},
		PayloadLimit: 240,
	})
}
