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

// stuckService answers nobody until the caller leaves.
func stuckService() *service {
	return &service{script: func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
		<-ctx.Done()
		return push.NoResponse(ctx.Err())
	}}
}

// wideRoute is a route with room for all that a test sends.
func wideRoute(t *testing.T, s *service, c *delivery.ConcurrencyLimit) *delivery.Route {
	t.Helper()
	r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 10_000}, 1)
	r.ConcurrencyLimit = c
	return r
}

// fillRoute sends so many of an app and lane into a route that is stuck, and returns how many it took in.
func fillRoute(ctx context.Context, t *testing.T, r *delivery.Route, app string, lane push.Lane, count int) int {
	t.Helper()
	before := r.ConcurrencyLimit.Status().InFlight
	for i := range count {
		n := newNotification(fmt.Sprint(app, lane, i))
		n.App, n.Lane = app, lane
		go r.Send(ctx, n)
	}
	synctest.Wait()
	return r.ConcurrencyLimit.Status().InFlight - before
}

func TestStuckProviderLeavesRoomForOtherSenders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ceiling := &delivery.ConcurrencyLimit{Max: 1000}
		ctx, free := context.WithCancel(t.Context())
		hole := wideRoute(t, stuckService(), ceiling)
		for i, most := range []int{800, 160, 32} { // each four fifths of what is left
			if got := fillRoute(ctx, t, hole, fmt.Sprint("app", i), push.LaneCritical, 2000); got > most+8 || got < most-8 {
				t.Errorf("stuck sender %d holds %d places, want some %d", i, got, most)
			}
		}
		well := wideRoute(t, &service{}, ceiling)
		n := newNotification("well")
		n.Lane = push.LaneCritical
		if got := well.Send(t.Context(), n); got.Verdict != push.Accepted {
			t.Errorf("beside three that are stuck: %+v", got)
		}
		free()
		synctest.Wait()
		if s := ceiling.Status(); s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestFullGatewayShedsBulkFirstWithRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wideRoute(t, stuckService(), &delivery.ConcurrencyLimit{Max: 1000})
		ctx, free := context.WithCancel(t.Context())
		defer free()
		var told []string
		var mu sync.Mutex
		r.Observer.Shed = func(n *push.Notification, o push.Outcome) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, o.Reason)
		}
		fillRoute(ctx, t, r, "shop", push.LaneBulk, 2000)
		began := time.Now()
		n := newNotification("one more")
		n.Lane = push.LaneBulk
		got := r.Send(ctx, n)
		if got.Status() != push.StatusUnavailable || got.Reason != "GATEWAY_FULL" || got.RetryAfter <= 0 || time.Since(began) > 0 {
			t.Errorf("%+v after %v", got, time.Since(began))
		}
		if normal := fillRoute(ctx, t, r, "shop", push.LaneNormal, 2000); normal == 0 {
			t.Error("bulk took the places of normal")
		}
		if critical := fillRoute(ctx, t, r, "shop", push.LaneCritical, 2000); critical == 0 {
			t.Error("normal took the places of critical")
		}
		if int(r.ConcurrencyLimit.Status().Shed) != len(told) || told[0] != "GATEWAY_FULL" {
			t.Errorf("%d shed, %d told", r.ConcurrencyLimit.Status().Shed, len(told))
		}
	})
}

func TestQueueableSendWaitsForConcurrencyLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := wideRoute(t, slowService(), &delivery.ConcurrencyLimit{Max: 10})
		got := runBatches(t.Context(), t, r, "shop", push.LaneNormal, 15, time.Second)
		if got.accepted != got.offered || got.accepted < 7*int(time.Second/attemptTime) {
			t.Errorf("%d of %d", got.accepted, got.offered)
		}
		if s := r.ConcurrencyLimit.Status(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestConcurrencyLimitIsNeverExceededOrLeaked(t *testing.T) {
	lanes := []push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 40).Draw(rt, "most")
		senders := rapid.IntRange(1, 120).Draw(rt, "senders")
		seed := rapid.IntRange(0, 1<<16).Draw(rt, "seed")
		worst, left := 0, delivery.LimitStatus{}
		ended := 0
		synctest.Test(t, func(t *testing.T) {
			c := &delivery.ConcurrencyLimit{Max: most}
			r := wideRoute(t, &service{}, c)
			var mu sync.Mutex
			r.Observer.Attempted = func(*push.Notification, int, push.Attempt) { time.Sleep(time.Millisecond) }
			r.Observer.Ended = func(*push.Notification, push.Receipt, time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				worst, ended = max(worst, c.Status().InFlight), ended+1
			}
			for i := range senders {
				k := seed + i*i
				n := queueable(fmt.Sprint(i), fmt.Sprint("app", k%4), lanes[k%3])
				n.CanQueue = k%5 > 0
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(k%7+1)*time.Millisecond)
				defer cancel()
				go r.Send(ctx, n)
			}
			time.Sleep(time.Second)
			left = c.Status()
		})
		if worst > most || ended != senders || left.InFlight != 0 || left.Waiting != 0 {
			rt.Fatalf("%d inside at worst, bound %d; %d of %d ended; at the end %+v", worst, most, ended, senders, left)
		}
	})
}

func TestNilConcurrencyLimitHasNoLimit(t *testing.T) {
	if (*delivery.ConcurrencyLimit)(nil).Status() != (delivery.LimitStatus{}) {
		t.Error("it has a bound")
	}
}
