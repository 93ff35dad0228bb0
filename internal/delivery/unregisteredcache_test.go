// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// unregisteredService reports every token as unregistered since the given time, except registered
// ones.
func unregisteredService(since time.Time, registered func(token string) bool) *service {
	return &service{script: func(_ context.Context, n *push.Notification, _ int, _ string) push.Outcome {
		if registered(n.Token) {
			return accepted
		}
		o := unregistered
		o.DeadSince = since
		return o
	}}
}

// toToken returns a notification to token with an ID made from token and id.
func toToken(token string, id int) *push.Notification {
	n := newNotification(fmt.Sprint(token, id))
	n.Token = token
	return n
}

func TestUnregisteredTokenIsAnsweredFromCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		since := time.Now().Add(-time.Minute)
		s := unregisteredService(since, func(token string) bool { return token == "registered" })
		r := newRoute(t, s, 2)
		r.Unregistered = &delivery.UnregisteredCache{TTL: time.Hour}
		if got := r.Send(t.Context(), &push.Call{Notification: toToken("old", 1)}); len(got.Attempts) != 1 || got.Verdict != push.Unregistered {
			t.Fatalf("%+v", got)
		}
		got := r.Send(t.Context(), &push.Call{Notification: toToken("old", 2)})
		if got.Verdict != push.Unregistered || got.Reason != "Unregistered" || !got.DeadSince.Equal(since) || !got.ForgetToken || len(got.Attempts) != 0 {
			t.Errorf("second send: %+v", got)
		}
		if got := r.Send(t.Context(), &push.Call{Notification: toToken("registered", 1)}); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
		other := toToken("old", 3)
		other.App = "bank"
		if got := r.Send(t.Context(), &push.Call{Notification: other}); len(got.Attempts) != 1 {
			t.Errorf("same token of another app: %+v", got)
		}
		time.Sleep(time.Hour)
		if got := r.Send(t.Context(), &push.Call{Notification: toToken("old", 4)}); len(got.Attempts) != 1 {
			t.Errorf("after an hour: %+v", got)
		}
	})
}

func TestTokensInEitherCaseAreOneDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := unregisteredService(time.Time{}, func(string) bool { return false })
		r := newRoute(t, s, 2)
		r.Unregistered = new(delivery.UnregisteredCache)
		r.RateLimiter = quota.New(quota.Config{})
		send := func(platform push.Platform, token string) *push.Receipt {
			n := toToken(token, 1)
			n.Platform = platform
			return r.Send(t.Context(), &push.Call{Notification: n})
		}
		send(push.APNs, "00AB")
		if got := send(push.APNs, "00ab"); len(got.Attempts) != 0 || got.Verdict != push.Unregistered {
			t.Errorf("APNs: %+v", got)
		}
		send(push.FCM, "a:B")
		if got := send(push.FCM, "a:b"); len(got.Attempts) != 1 {
			t.Errorf("FCM, whose tokens are case-sensitive: %+v", got)
		}
		s.script = func(context.Context, *push.Notification, int, string) push.Outcome {
			return push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: time.Hour, HTTP: 429}
		}
		send(push.APNs, "00CD")
		if got := send(push.APNs, "00cd"); len(got.Attempts) != 0 || got.Verdict != push.Throttled {
			t.Errorf("a closed device: %+v", got)
		}
	})
}

func TestAcceptedSendRemovesUnregisteredToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var registered atomic.Bool
		s := unregisteredService(time.Time{}, func(string) bool { return registered.Load() })
		slow := s.script
		s.script = func(ctx context.Context, n *push.Notification, i int, e string) push.Outcome {
			if n.ID == "late1" {
				time.Sleep(time.Minute)
			}
			return slow(ctx, n, i, e)
		}
		r := newRoute(t, s, 2)
		r.Unregistered = new(delivery.UnregisteredCache)
		done := make(chan *push.Receipt, 1)
		go func() {
			n := toToken("again", 1)
			n.ID = "late1"
			done <- r.Send(t.Context(), &push.Call{Notification: n})
		}()
		synctest.Wait()
		r.Send(t.Context(), &push.Call{Notification: toToken("again", 2)})
		registered.Store(true)
		if got := <-done; got.Verdict != push.Accepted {
			t.Fatal(verdicts(got))
		}
		if got := r.Send(t.Context(), &push.Call{Notification: toToken("again", 3)}); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
	})
}

func TestUnregisteredCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, unregisteredService(time.Time{}, func(string) bool { return false }), 2)
		r.Unregistered = &delivery.UnregisteredCache{MaxEntries: 100}
		for i := range 150 {
			r.Send(t.Context(), &push.Call{Notification: toToken(fmt.Sprint("t", i), 0)})
		}
		for i := range 150 {
			got := r.Send(t.Context(), &push.Call{Notification: toToken(fmt.Sprint("t", 149-i), 1)})
			if cached := len(got.Attempts) == 0; i < 100 && !cached {
				t.Errorf("token %d is not cached", 149-i)
			}
		}
	})
}

func TestOnlyExplicitUnregisteredOutcomeIsCached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, outcome := range []push.Outcome{refused, unavailable, {Verdict: push.Unregistered, Reason: "UNREGISTERED", HTTP: 404},
			{Verdict: push.Unregistered, Reason: "UNREGISTERED", HTTP: 404, ForgetToken: true, TokenMayReturn: true}} {
			s := scriptedService(outcome, outcome, outcome, outcome)
			r := newRoute(t, s, 4)
			r.Unregistered = new(delivery.UnregisteredCache)
			r.Send(t.Context(), &push.Call{Notification: toToken("a", 1)})
			if got := r.Send(t.Context(), &push.Call{Notification: toToken("a", 2)}); len(got.Attempts) == 0 {
				t.Errorf("after %s: answered from the cache with %+v", outcome.Verdict, got)
			}
		}
	})
}
