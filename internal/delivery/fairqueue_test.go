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

// runBatches keeps so many patient notifications of an app and lane on their way for a while, as parallel batches do, and
// returns what became of all.
func runBatches(ctx context.Context, t *testing.T, r *delivery.Route, app string, lane push.Lane, crew int, span time.Duration) *result {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	var whole result
	end := time.Now().Add(span)
	for i := range crew {
		all.Go(func() {
			for k := 0; time.Now().Before(end); k++ {
				n := newNotification(fmt.Sprint(app, lane, i, "-", k))
				n.App, n.Lane, n.CanQueue = app, lane, true
				at := time.Now()
				receipt := r.Send(ctx, n)
				mu.Lock()
				whole.offered++
				if receipt.Verdict == push.Accepted {
					whole.accepted++
					whole.latencies = append(whole.latencies, time.Since(at))
				} else {
					whole.shed = append(whole.shed, receipt)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return &whole
}

func TestQueueableSendsWaitInsteadOfBeingShed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := limitedRoute(t, slowService()) // 128 leases
		var single *result
		var all sync.WaitGroup
		all.Go(func() {
			single = runLoads(t, r, 2*time.Second, 5*time.Second, load{"shop", push.LaneNormal, capacity / 10})[0]
		})
		bulk := runBatches(t.Context(), t, r, "shop", push.LaneNormal, 8*128, 5*time.Second)
		all.Wait()
		t.Logf("batches %d accepted, p99 %v; single calls %d of %d, p99 %v; %+v",
			bulk.accepted, bulk.p99(), single.accepted, single.offered, single.p99(), r.AdaptiveLimiter.Status())
		if bulk.accepted != bulk.offered || bulk.accepted+single.accepted < 5*capacity*95/100 {
			t.Errorf("%d of %d, first %+v", bulk.accepted, bulk.offered, bulk.shed)
		}
		if single.accepted != single.offered || single.p99() > 4*attemptTime {
			t.Errorf("single calls beside them: %d of %d, p99 %v", single.accepted, single.offered, single.p99())
		}
	})
}

// singleSlotRoute is a route of a single lease, and an Admission so tight that the second in flight has to wait outside.
func singleSlotRoute(t *testing.T, s *service) *delivery.Route {
	t.Helper()
	r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 1}, 1)
	r.AdaptiveLimiter = &delivery.AdaptiveLimiter{InitialLimit: 1, MinLimit: 1, MaxLimit: 1, MaxQueue: 8}
	return r
}

func queueable(id, app string, lane push.Lane) *push.Notification {
	n := newNotification(id)
	n.App, n.Lane, n.CanQueue = app, lane, true
	return n
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
		var all sync.WaitGroup
		for _, n := range []*push.Notification{
			queueable("first", "shop", ""),
			queueable("bulk", "shop", push.LaneBulk), queueable("shop 1", "shop", ""), queueable("shop 2", "shop", ""),
			queueable("bank 1", "bank", ""), queueable("critical", "shop", push.LaneCritical),
		} {
			all.Go(func() { r.Send(t.Context(), n) })
			synctest.Wait()
		}
		if s := r.AdaptiveLimiter.Status(); s.Waiting != 5 || s.InFlight != 1 {
			t.Errorf("%+v", s)
		}
		all.Wait()
		if want := []string{"first", "critical", "shop 1", "bank 1", "shop 2", "bulk"}; !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
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
		go r.Send(t.Context(), newNotification("holds the place"))
		synctest.Wait()
		deadline, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		gone, leave := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, leave)
		ttl := push.Duration(5 * time.Second)
		for _, c := range []struct {
			ctx  context.Context
			ttl  *push.Duration
			took time.Duration
			want push.Verdict
		}{
			{gone, nil, 2 * time.Second, push.Abandoned},
			{deadline, nil, time.Second / 2, push.Unsent}, // the other half was kept for an attempt
			{t.Context(), &ttl, 5 * time.Second, push.Expired},
		} {
			n := queueable("a", "shop", "")
			n.TTL = c.ttl
			began := time.Now()
			if got := r.Send(c.ctx, n); got.Verdict != c.want || time.Since(began) != c.took {
				t.Errorf("%+v after %v, want %v after %v", got.Outcome, time.Since(began), c.want, c.took)
			}
		}
		if s := r.AdaptiveLimiter.Status(); s.Waiting != 0 || shed != 1 {
			t.Errorf("%+v, %d told", s, shed)
		}
	})
}

func TestQueueLengthIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := singleSlotRoute(t, slowService())
		var mu sync.Mutex
		var shed int
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				if got := r.Send(t.Context(), queueable(fmt.Sprint(i), "shop", "")); got.Reason == "OVERLOADED" && got.RetryAfter > 0 {
					mu.Lock()
					defer mu.Unlock()
					shed++
				}
			})
		}
		all.Wait()
		if shed != 20-1-8 {
			t.Errorf("%d shed, want all but the one inside and eight in line", shed)
		}
	})
}

func TestQueuedSendRechecksRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowService()
		r := singleSlotRoute(t, s)
		r.RateLimiter = quota.New(quota.Config{})
		go r.Send(t.Context(), newNotification("first"))
		synctest.Wait()
		time.AfterFunc(attemptTime/2, func() { r.RateLimiter.Record(newNotification("other"), throttled(push.ScopeProject, time.Minute)) })
		got := r.Send(t.Context(), queueable("second", "shop", ""))
		if got.Verdict != push.Throttled || got.RetryAfter < 59*time.Second || s.visited("second") != nil {
			t.Errorf("%+v", got)
		}
		if s := r.AdaptiveLimiter.Status(); s.InFlight != 0 {
			t.Errorf("%+v", s)
		}
	})
}
