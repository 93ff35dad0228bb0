// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
)

// severalTargets returns a notification to n devices, the second of which is no longer registered.
func severalTargets(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%q", fmt.Sprintf("%08x", i)+deviceToken[8:]))
	}
	list[1] = fmt.Sprintf("%q", "dead0000"+deviceToken[8:])
	return `{"platform":"apns","tokens":[` + strings.Join(list, ",") + `],"title":"Hi"}`
}

// TestEachTargetIsANotification sends to many devices, synchronously and through the queue: each is sent
// once, also if the request is repeated, and has its own history and webhook events.
func TestEachTargetIsANotification(t *testing.T) {
	const targets = 200
	s, hook := newMockEnv(t), newWebhookReceiver(t)
	h := s.start(t, s.webhookConfig(t.TempDir(), hook.block(t, "all", "")))
	receipts := func(key string, want int, headers ...string) (ids []any) {
		code, got := h.request("POST", "", severalTargets(targets), append(headers, "Idempotency-Key", key)...)
		list, _ := got["receipts"].([]any)
		if code != want || len(list) != targets {
			t.Fatal(code, got)
		}
		for i, r := range list {
			r := r.(map[string]any)
			if r["target_index"] != float64(i) || r["id"] == nil {
				t.Fatalf("receipt %d: %v", i, r)
			}
			ids = append(ids, r["id"])
		}
		return ids
	}
	for _, c := range []struct {
		key     string
		status  int
		headers []string
	}{{"sync", 200, nil}, {"queued", 202, []string{"Prefer", "respond-async"}}} {
		before := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs})
		first := receipts(c.key, c.status, c.headers...)
		for i, id := range first {
			want := "accepted"
			if i == 1 {
				want = "unregistered"
			}
			h.waitStatus(id, want)
			testwait.Until(t, func() bool { return hook.received(id) }, "the webhook has the event of the target")
		}
		for i, id := range receipts(c.key, c.status, c.headers...) {
			if id != first[i] && i != 1 { // a token that is known to be unregistered has no attempt, and its key is not remembered
				t.Errorf("%s: target %d of the repeated request is another notification", c.key, i)
			}
		}
		if code, got := h.request("POST", "", severalTargets(targets+1), append(c.headers, "Idempotency-Key", c.key)...); code != 422 {
			t.Errorf("%s: another list with the same key: %d %v", c.key, code, got)
		}
		if sent := s.mock.Ledger().Count(mockprovider.Query{Service: mockprovider.APNs}) - before; sent > targets || sent < targets-1 {
			t.Errorf("%s: APNs got %d notifications, want %d, or one less if the unregistered token is remembered", c.key, sent, targets)
		}
	}
}
