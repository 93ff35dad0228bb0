// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// runBatches sends notifications with CanQueue from the given number of workers until duration has
// passed.
func runBatches(ctx context.Context, t *testing.T, r *delivery.Route, app string, lane push.Lane, workers int, duration time.Duration) *result {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var total result
	end := time.Now().Add(duration)
	for i := range workers {
		wg.Go(func() {
			for k := 0; time.Now().Before(end); k++ {
				n := newNotification(fmt.Sprint(app, lane, i, "-", k))
				n.App, n.Lane = app, lane
				sent := time.Now()
				receipt := r.Send(ctx, &push.Call{Notification: n, CanQueue: true})
				mu.Lock()
				total.offered++
				if receipt.Verdict == push.Accepted {
					total.accepted++
					total.latencies = append(total.latencies, time.Since(sent))
				} else {
					total.shed = append(total.shed, *receipt)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait() // bounded by the bubble
	return &total
}

func TestQueueableSendsWaitInsteadOfBeingShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := limitedRoute(t, slowService()) // 128 leases
		var single *result
		var wg sync.WaitGroup
		wg.Go(func() {
			single = runLoads(t, r, 2*time.Second, 5*time.Second, load{"shop", push.LaneNormal, capacity / 10})[0]
		})
		bulk := runBatches(t.Context(), t, r, "shop", push.LaneNormal, 8*128, 5*time.Second)
		wg.Wait()
		t.Logf("batches: accepted %d, p99 %v; single calls: accepted %d of %d, p99 %v; status %+v",
			bulk.accepted, bulk.p99(), single.accepted, single.offered, single.p99(), r.Pool.LimitStatus())
		if bulk.accepted != bulk.offered || bulk.accepted+single.accepted < 5*capacity*95/100 {
			t.Errorf("batches: accepted %d of %d, shed %+v", bulk.accepted, bulk.offered, bulk.shed)
		}
		if single.accepted != single.offered || single.p99() > 4*attemptTime {
			t.Errorf("single calls: accepted %d of %d, p99 %v", single.accepted, single.offered, single.p99())
		}
	})
}

// singleSlotRoute returns a route with one lease and an adaptive limit of one.
func singleSlotRoute(t *testing.T, s *service) *delivery.Route {
	t.Helper()
	limiter := &pool.AdaptiveLimiter{InitialLimit: 1, MinLimit: 1, MaxLimit: 1, MaxQueue: 8}
	return newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 1, Limiter: limiter}, 1)
}

func queueable(id, app string, lane push.Lane) *push.Call {
	n := newNotification(id)
	n.App, n.Lane = app, lane
	return &push.Call{Notification: n, CanQueue: true}
}

func TestQueueIsServedByLaneThenRoundRobinByApp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		s := slowService()
		inner := s.script
		s.script = func(ctx context.Context, n *push.Notification, i int, e string) push.Outcome {
			order = append(order, n.ID)
			return inner(ctx, n, i, e)
		}
		r := singleSlotRoute(t, s)
		var wg sync.WaitGroup
		for _, n := range []*push.Call{
			queueable("first", "shop", ""),
			queueable("bulk", "shop", push.LaneBulk), queueable("shop 1", "shop", ""), queueable("shop 2", "shop", ""),
			queueable("bank 1", "bank", ""), queueable("critical", "shop", push.LaneCritical),
		} {
			wg.Go(func() { r.Send(t.Context(), n) })
			synctest.Wait()
		}
		if s := r.Pool.LimitStatus(); s.Waiting != 5 || s.InFlight != 1 {
			t.Errorf("status %+v", s)
		}
		wg.Wait()
		if want := []string{"first", "critical", "shop 1", "bank 1", "shop 2", "bulk"}; !slices.Equal(order, want) {
			t.Errorf("order %v, want %v", order, want)
		}
	})
}

func TestQueueWaitEndsAtDeadlineTTLOrCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
			<-ctx.Done()
			return push.NoResponse(ctx.Err())
		}}
		r := singleSlotRoute(t, s)
		var shed int
		r.Observer.Shed = func(*push.Notification, push.Outcome) { shed++ }
		go r.Send(t.Context(), &push.Call{Notification: newNotification("holds the lease")})
		synctest.Wait()
		deadline, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		cancelled, cancelIt := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancelIt)
		ttl := push.Duration(5 * time.Second)
		for _, c := range []struct {
			ctx  context.Context
			ttl  *push.Duration
			took time.Duration
			want push.Verdict
		}{
			{cancelled, nil, 2 * time.Second, push.Abandoned},
			{deadline, nil, time.Second / 2, push.Unsent}, // the other 2.5 s are reserved for an attempt
			{t.Context(), &ttl, 5 * time.Second, push.Expired},
		} {
			n := queueable("a", "shop", "")
			n.TTL = c.ttl
			start := time.Now()
			if got := r.Send(c.ctx, n); got.Verdict != c.want || time.Since(start) != c.took {
				t.Errorf("%+v after %v, want %v after %v", got.Outcome, time.Since(start), c.want, c.took)
			}
		}
		if s := r.Pool.LimitStatus(); s.Waiting != 0 || shed != 1 {
			t.Errorf("status %+v, %d reported as shed", s, shed)
		}
	})
}

func TestQueueLengthIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := singleSlotRoute(t, slowService())
		var mu sync.Mutex
		var shed int
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				if got := r.Send(t.Context(), queueable(fmt.Sprint(i), "shop", "")); got.Reason == "OVERLOADED" && got.RetryAfter > 0 {
					mu.Lock()
					defer mu.Unlock()
					shed++
				}
			})
		}
		wg.Wait()
		if shed != 20-1-8 {
			t.Errorf("%d shed, want all except one in flight and eight queued", shed)
		}
	})
}

func TestQueuedSendRechecksRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowService()
		r := singleSlotRoute(t, s)
		r.RateLimiter = quota.New(quota.Config{})
		go r.Send(t.Context(), &push.Call{Notification: newNotification("first")})
		synctest.Wait()
		time.AfterFunc(attemptTime/2, func() { r.RateLimiter.Record(newNotification("other"), throttled(push.ScopeProject, time.Minute)) })
		got := r.Send(t.Context(), queueable("second", "shop", ""))
		if got.Verdict != push.Throttled || got.RetryAfter < 59*time.Second || s.visited("second") != nil {
			t.Errorf("receipt %+v", got)
		}
		if s := r.Pool.LimitStatus(); s.InFlight != 0 {
			t.Errorf("status %+v", s)
		}
	})
}
