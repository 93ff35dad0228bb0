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

func TestFCMPassesWhatEveryProviderMustPass(t *testing.T) {
	providertest.Run(t, providertest.Suite{
		New: func(t *testing.T, log *slog.Logger) providertest.Provider {
			p, err := fcm.New(fcm.Config{Account: account(), TokenClient: &http.Client{Transport: &oauth{}}, Logger: log})
			if err != nil {
				t.Fatal(err)
			}
			return p
		},
		Notification: func() *push.Notification { return hello(func(n *push.Notification) { n.Title = "SECRET title" }) },
		Secrets:      []string{pkcs8(theKey()), "ya29.SECRET"},
		Rows:         everyRow(t),
		Shown: func(t *testing.T, r *wire.Request) string {
			var body struct {
				Message struct{ Notification struct{ Title string } }
			}
			if err := json.Unmarshal(r.Body, &body); err != nil {
				t.Fatal(err)
			}
			return body.Message.Notification.Title
		},
		Filled: func(text string, size int) *push.Notification {
			return hello(func(n *push.Notification) {
				n.Title, n.Body = "", strings.Repeat(text, size/len(text))+strings.Repeat("x", size%len(text))
			})
		},
		Limit:   4096,
		Expired: wire.Response{Status: 401, Body: []byte(failure(401, "UNAUTHENTICATED", generic401))}, Age: 5 * time.Minute,
	})
}

// everyRow is the whole table, with every answer that makes a row what it is, and an access token that is no longer new.
func everyRow(t *testing.T) (rows []providertest.Row) {
	for _, r := range rowsOf(t, "fcm") {
		for _, status := range r.statuses() {
			for i, s := range r.samples(status) {
				rows = append(rows, providertest.Row{
					Name: fmt.Sprintf("%v %d %d", r, status, i), Answer: wire.Response{Status: status, Body: []byte(s.body)}, After: 5 * time.Minute,
					Target: s.target, Verdict: providertest.Verdict(r.Class), Retryable: r.Retryable, EndpointFault: r.Fault, ForgetToken: r.Forget,
				})
			}
		}
	}
	return rows
}
