// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// movedDevices is a service all of whose tokens are unregistered. The part of a token before the colon is
// the replacement. Its first letters say how the service answers: id accepts it.
type movedDevices struct {
	*service
	mu       sync.Mutex
	requests map[string]int // by target
}

func (m *movedDevices) Translate(n *push.Notification) (*wire.Request, error) {
	return &wire.Request{Method: "POST", Path: "/" + n.ID}, nil
}

func (*movedDevices) Replacement(t *push.Target) (push.Target, bool) {
	id, _, ok := strings.Cut(t.Token, ":")
	return push.Target{Installation: id}, ok
}

var movedOutcomes = map[string]push.Outcome{
	"id": accepted, "gone": {Verdict: push.Unregistered, Reason: "GONE", HTTP: 404, ForgetToken: true, TokenMayReturn: true},
	"bad": {Verdict: push.Refused, Reason: "BAD", HTTP: 400}, "busy": {Verdict: push.Unavailable, Reason: "BUSY", HTTP: 503, Scope: push.ScopeEndpoint},
	"lost": {Verdict: push.Unknown, Reason: "LOST", Scope: push.ScopeEndpoint}, "locked": {Verdict: push.Unauthorized, Reason: "LOCKED", HTTP: 403},
}

func newMovedDevices(t *testing.T) (*movedDevices, *delivery.Route) {
	m := &movedDevices{service: &service{}, requests: map[string]int{}}
	lost := map[string]bool{}
	m.script = func(_ context.Context, n *push.Notification, _ int, _ string) push.Outcome {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.requests[n.Key()]++
		if n.Kind() == push.ToInstallation {
			name, _, _ := strings.Cut(n.Installation, "-")
			return movedOutcomes[name]
		}
		if strings.HasSuffix(n.Token, "first-lost") && !lost[n.ID] {
			lost[n.ID] = true
			return movedOutcomes["lost"]
		}
		return push.Outcome{Verdict: push.Unregistered, Reason: "UNREGISTERED", HTTP: 404, ForgetToken: true}
	}
	route := fullRoute(t, m.service, 2)
	route.Provider, route.Replacements, route.Retry.Attempts = m, &delivery.ReplacementCache{}, 2
	return m, route
}

func to(token string, change ...func(*push.Notification)) *push.Notification {
	n := newNotification("to " + token)
	n.Token = token
	for _, c := range change {
		c(n)
	}
	return n
}

// both runs a test with single calls and with batches.
func both(t *testing.T, test func(t *testing.T, send func(delivery.Sender, ...*push.Notification) []push.Receipt)) {
	t.Run("single", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, func(s delivery.Sender, ns ...*push.Notification) (receipts []push.Receipt) {
				for _, n := range ns {
					receipts = append(receipts, *s.Send(t.Context(), &push.Call{Notification: n}))
				}
				return receipts
			})
		})
	})
	t.Run("batch", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			test(t, func(s delivery.Sender, ns ...*push.Notification) []push.Receipt {
				return sendAll(t, s, t.Context(), ns...)
			})
		})
	})
}

// summary returns the status, the reason, the replacement and the number of attempts.
func summary(r *push.Receipt) string {
	text := fmt.Sprint(r.Status(), " ", r.Reason, " ", len(r.Attempts))
	if r.Replaced != nil {
		text += " " + r.Replaced.Installation
	}
	if r.ForgetToken {
		text += " forget"
	}
	return text
}

func TestReplacementIsTriedOnce(t *testing.T) {
	both(t, func(t *testing.T, send func(delivery.Sender, ...*push.Notification) []push.Receipt) {
		m, route := newMovedDevices(t)
		var observed []string
		var mu sync.Mutex
		route.Observer = delivery.Observer{
			Attempted: func(n *push.Notification, number int, a *push.Attempt, _ pool.Conn) {
				mu.Lock()
				defer mu.Unlock()
				observed = append(observed, fmt.Sprint(n.ID, " ", number, " ", a.Verdict))
			},
			Ended: func(n *push.Notification, r *push.Receipt, _ time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				observed = append(observed, fmt.Sprint(n.ID, " ", n.Token != "", " ", r.Status()))
			},
		}
		n := to("id-1:x")
		if got := summary(&send(route, n)[0]); got != "accepted  2 id-1" || n.Token != "id-1:x" || n.Installation != "" {
			t.Errorf("first: %s, %+v", got, n.Target)
		}
		if want := "[to id-1:x 1 unregistered to id-1:x 2 accepted to id-1:x true accepted]"; fmt.Sprint(observed) != want {
			t.Errorf("observed %v, want %s", observed, want)
		}
		for range 3 {
			if got := summary(&send(route, to("id-1:x"))[0]); got != "accepted  1 id-1" {
				t.Errorf("later: %s", got)
			}
		}
		if fmt.Sprint(m.requests) != "map[id-1:4 id-1:x:1]" {
			t.Errorf("requests %v", m.requests)
		}
	})
}

func TestReplacementThatFails(t *testing.T) {
	both(t, func(t *testing.T, send func(delivery.Sender, ...*push.Notification) []push.Receipt) {
		m, route := newMovedDevices(t)
		for token, want := range map[string]struct{ first, second string }{
			"gone-1:x":   {"unregistered UNREGISTERED 2 forget", "unregistered UNREGISTERED 0 forget"}, // the second from the cache
			"bad-1:x":    {"unregistered UNREGISTERED 2 forget", "unregistered UNREGISTERED 0 forget"},
			"locked-1:x": {"unregistered UNREGISTERED 2 forget", "unregistered UNREGISTERED 0 forget"},
			"busy-1:x":   {"unavailable BUSY 3", "unavailable BUSY 3"},
			"lost-1:x":   {"unknown LOST 2", "unknown LOST 2"},
			"no-colon":   {"unregistered UNREGISTERED 1 forget", "unregistered UNREGISTERED 0 forget"},
		} {
			for i, expected := range []string{want.first, want.second} {
				if got := summary(&send(route, to(token))[0]); got != expected {
					t.Errorf("%s, send %d: %s, want %s", token, i+1, got, expected)
				}
			}
		}
		if m.requests["gone-1"] != 1 || m.requests["bad-1"] != 1 || m.requests["lost-1"] != 2 {
			t.Errorf("requests %v", m.requests)
		}
	})
}

// TestReplacementIsNotTried sends notifications that may have reached the device, or whose sender does not
// allow another attempt.
func TestReplacementIsNotTried(t *testing.T) {
	both(t, func(t *testing.T, send func(delivery.Sender, ...*push.Notification) []push.Receipt) {
		m, route := newMovedDevices(t)
		for token, change := range map[string]func(*push.Notification){
			"id-2:first-lost": func(n *push.Notification) { n.OnUnknown = push.RepeatAlways },
			"id-3:x":          func(n *push.Notification) { n.Retry = &push.Retry{Attempts: 1} },
			"id-4:x":          func(n *push.Notification) { n.DryRun = true },
		} {
			if r := send(route, to(token, change))[0]; r.Replaced != nil || r.Verdict == push.Accepted && token != "id-4:x" {
				t.Errorf("%s: %s", token, summary(&r))
			}
		}
		for target, count := range m.requests {
			if !strings.Contains(target, ":") {
				t.Errorf("%d requests to %s", count, target)
			}
		}
		off := *route
		off.Replacements, off.Unregistered = nil, nil
		if got := summary(&send(&off, to("id-5:x"))[0]); got != "unregistered UNREGISTERED 1 forget" {
			t.Errorf("turned off: %s", got)
		}
	})
	synctest.Test(t, func(t *testing.T) { // the queue says that an earlier attempt may have reached the device
		m, route := newMovedDevices(t)
		c := &push.Call{Notification: to("id-6:x"), MayHaveArrived: true}
		if got := summary(route.Send(t.Context(), c)); got != "unregistered UNREGISTERED 1 forget" || m.requests["id-6"] != 0 {
			t.Errorf("%s, requests %v", got, m.requests)
		}
	})
}

func TestReplacementExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, route := newMovedDevices(t)
		route.Replacements.TTL, route.Replacements.MaxEntries = time.Hour, 1
		send := func(token string) string {
			return summary(route.Send(t.Context(), &push.Call{Notification: to(token)}))
		}
		send("id-1:x")
		time.Sleep(time.Hour)
		if got := send("id-1:x"); got != "accepted  2 id-1" {
			t.Errorf("after the TTL: %s", got)
		}
		send("id-2:x")
		if got := send("id-1:x"); got != "accepted  2 id-1" { // evicted
			t.Errorf("after an eviction: %s", got)
		}
		movedOutcomes["id2"] = accepted
		send("id2-3:x")
		m.mu.Lock()
		movedOutcomes["id2"] = movedOutcomes["gone"]
		m.mu.Unlock()
		if got := send("id2-3:x"); got != "unregistered GONE 1 forget" {
			t.Errorf("a replacement that is gone: %s", got)
		}
		if got := send("id2-3:x"); got != "unregistered UNREGISTERED 2 forget" {
			t.Errorf("afterwards: %s", got)
		}
		delete(movedOutcomes, "id2")
	})
}
