// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// stuckService does not answer until the context ends.
func stuckService() *service {
	return &service{script: func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
		<-ctx.Done()
		return push.NoResponse(ctx.Err())
	}}
}

// wideRoute returns a route whose only limit is c.
func wideRoute(t *testing.T, s *service, c *delivery.ConcurrencyLimit) *delivery.Route {
	t.Helper()
	r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 10_000}, 1)
	r.ConcurrencyLimit = c
	return r
}

// fillRoute sends count notifications on a stuck route and returns how many of them are in flight.
func fillRoute(ctx context.Context, t *testing.T, r *delivery.Route, app string, lane push.Lane, count int) int {
	t.Helper()
	before := r.ConcurrencyLimit.Status().InFlight
	for i := range count {
		n := newNotification(fmt.Sprint(app, lane, i))
		n.App, n.Lane = app, lane
		go r.Send(ctx, &push.Call{Notification: n})
	}
	synctest.Wait()
	return r.ConcurrencyLimit.Status().InFlight - before
}

func TestStuckProviderLeavesRoomForOtherSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := &delivery.ConcurrencyLimit{Max: 1000}
		ctx, cancel := context.WithCancel(t.Context())
		stuck := wideRoute(t, stuckService(), limit)
		for i, want := range []int{800, 160, 32} { // each takes four fifths of what is free
			if got := fillRoute(ctx, t, stuck, fmt.Sprint("app", i), push.LaneCritical, 2000); got > want+8 || got < want-8 {
				t.Errorf("stuck app %d has %d in flight, want about %d", i, got, want)
			}
		}
		healthy := wideRoute(t, &service{}, limit)
		n := newNotification("healthy")
		n.Lane = push.LaneCritical
		if got := healthy.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Accepted {
			t.Errorf("with three stuck apps: %+v", got)
		}
		cancel()
		synctest.Wait()
		if s := limit.Status(); s.InFlight != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestFullGatewayShedsBulkFirstWithRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wideRoute(t, stuckService(), &delivery.ConcurrencyLimit{Max: 1000})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var reasons []string
		var mu sync.Mutex
		r.Observer.Shed = func(n *push.Notification, o push.Outcome) {
			mu.Lock()
			defer mu.Unlock()
			reasons = append(reasons, o.Reason)
		}
		fillRoute(ctx, t, r, "shop", push.LaneBulk, 2000)
		start := time.Now()
		n := newNotification("one more")
		n.Lane = push.LaneBulk
		got := r.Send(ctx, &push.Call{Notification: n})
		if got.Status() != push.StatusUnavailable || got.Reason != "GATEWAY_FULL" || got.RetryAfter <= 0 || time.Since(start) > 0 {
			t.Errorf("%+v after %v", got, time.Since(start))
		}
		if normal := fillRoute(ctx, t, r, "shop", push.LaneNormal, 2000); normal == 0 {
			t.Error("bulk left no room for normal")
		}
		if critical := fillRoute(ctx, t, r, "shop", push.LaneCritical, 2000); critical == 0 {
			t.Error("normal left no room for critical")
		}
		if int(r.ConcurrencyLimit.Status().Shed) != len(reasons) || reasons[0] != "GATEWAY_FULL" {
			t.Errorf("%d shed, %d reported", r.ConcurrencyLimit.Status().Shed, len(reasons))
		}
	})
}

func TestQueueableSendWaitsForConcurrencyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wideRoute(t, slowService(), &delivery.ConcurrencyLimit{Max: 10})
		got := runBatches(t.Context(), t, r, "shop", push.LaneNormal, 15, time.Second)
		if got.accepted != got.offered || got.accepted < 7*int(time.Second/attemptTime) {
			t.Errorf("accepted %d of %d", got.accepted, got.offered)
		}
		if s := r.ConcurrencyLimit.Status(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestConcurrencyLimitIsNeverExceededOrLeaked(t *testing.T) {
	lanes := []push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.IntRange(1, 40).Draw(rt, "limit")
		senders := rapid.IntRange(1, 120).Draw(rt, "senders")
		seed := rapid.IntRange(0, 1<<16).Draw(rt, "seed")
		peak, final := 0, pool.LimitStatus{}
		ended := 0
		synctest.Test(t, func(t *testing.T) {
			c := &delivery.ConcurrencyLimit{Max: limit}
			r := wideRoute(t, &service{}, c)
			var mu sync.Mutex
			r.Observer.Attempted = func(*push.Notification, int, *push.Attempt, pool.Conn) { time.Sleep(time.Millisecond) }
			r.Observer.Ended = func(*push.Notification, *push.Receipt, time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				peak, ended = max(peak, c.Status().InFlight), ended+1
			}
			for i := range senders {
				k := seed + i*i
				c := queueable(fmt.Sprint(i), fmt.Sprint("app", k%4), lanes[k%3])
				c.CanQueue = k%5 > 0
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(k%7+1)*time.Millisecond)
				defer cancel()
				go r.Send(ctx, c)
			}
			time.Sleep(time.Second)
			final = c.Status()
		})
		if peak > limit || ended != senders || final.InFlight != 0 || final.Waiting != 0 {
			rt.Fatalf("peak of %d in flight with limit %d; %d of %d ended; final status %+v", peak, limit, ended, senders, final)
		}
	})
}

func TestNilConcurrencyLimitHasNoLimit(t *testing.T) {
	if (*delivery.ConcurrencyLimit)(nil).Status() != (pool.LimitStatus{}) {
		t.Error("a nil limit has a limit")
	}
}
