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
)

const attemptTime = 50 * time.Millisecond

// slowService accepts every attempt after attemptTime.
func slowService() *service {
	return &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
		time.Sleep(attemptTime)
		return accepted
	}}
}

// limitedRoute returns a route with eight endpoints and sixteen leases each: 128 in flight, 2,560
// per second.
func limitedRoute(t *testing.T, s *service) *delivery.Route {
	t.Helper()
	return newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(8), Size: 8, MaxInFlight: 16, Limiter: &pool.AdaptiveLimiter{InitialLimit: 256}}, 8)
}

const capacity = 8 * 16 * int(time.Second/attemptTime)

// load is a constant rate of notifications of one app and lane.
type load struct {
	app       string
	lane      push.Lane
	perSecond int
}

// result counts the outcomes of one load.
type result struct {
	offered, accepted int
	latencies         []time.Duration // of the accepted
	shed              []push.Receipt
	slowestRejection  time.Duration
}

func (r *result) p99() time.Duration {
	slices.Sort(r.latencies)
	return r.latencies[len(r.latencies)*99/100]
}

// runLoads runs the loads concurrently for the given duration. Notifications sent in the first
// warm-up time do not count.
func runLoads(t *testing.T, r *delivery.Route, warmUp, duration time.Duration, loads ...load) []*result {
	t.Helper()
	var senders, drivers sync.WaitGroup
	var mu sync.Mutex
	start := time.Now()
	results := make([]*result, len(loads))
	sendOne := func(n *push.Notification, into *result) {
		sent := time.Now()
		receipt := r.Send(t.Context(), &push.Call{Notification: n})
		mu.Lock()
		defer mu.Unlock()
		if sent.Sub(start) < warmUp {
			return
		}
		into.offered++
		if receipt.Verdict == push.Accepted {
			into.accepted++
			into.latencies = append(into.latencies, time.Since(sent))
			return
		}
		into.shed = append(into.shed, *receipt)
		into.slowestRejection = max(into.slowestRejection, time.Since(sent))
	}
	for i, l := range loads {
		results[i] = &result{}
		drivers.Go(func() {
			for k := range int(duration.Seconds() * float64(l.perSecond)) {
				n := newNotification(fmt.Sprint(l.app, l.lane, k))
				n.App, n.Lane = l.app, l.lane
				senders.Go(func() { sendOne(n, results[i]) })
				time.Sleep(time.Second / time.Duration(l.perSecond))
			}
		})
	}
	drivers.Wait() // bounded by the bubble
	senders.Wait() // bounded by the bubble
	return results
}

func TestOverloadShedsBulkFirstAndKeepsCriticalLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := limitedRoute(t, slowService())
		results := runLoads(t, r, 3*time.Second, 8*time.Second,
			load{"shop", push.LaneCritical, capacity * 3 / 10},
			load{"shop", push.LaneNormal, capacity * 9 / 10},
			load{"shop", push.LaneBulk, capacity * 18 / 10})
		critical, normal, bulk := results[0], results[1], results[2]
		goodput := critical.accepted + normal.accepted + bulk.accepted
		t.Logf("goodput %.1f %% of the capacity; critical %d of %d, p99 %v; normal %d of %d; bulk %d of %d",
			100*float64(goodput)/float64(5*capacity), critical.accepted, critical.offered, critical.p99(),
			normal.accepted, normal.offered, bulk.accepted, bulk.offered)
		if goodput < 5*capacity*95/100 || critical.accepted < critical.offered*999/1000 || critical.p99() > 2*attemptTime {
			t.Errorf("goodput %d of %d; critical %d of %d, p99 %v", goodput, 5*capacity, critical.accepted, critical.offered, critical.p99())
		}
		if share := func(r *result) float64 { return float64(r.accepted) / float64(r.offered) }; share(bulk) > share(normal) {
			t.Errorf("accepted %.2f of bulk and %.2f of normal, want bulk shed first", share(bulk), share(normal))
		}
		for _, receipt := range bulk.shed {
			if receipt.RetryAfter <= 0 || len(receipt.Attempts) > 0 || receipt.Reason != "OVERLOADED" || receipt.Status() != push.StatusUnavailable {
				t.Fatalf("shed with %+v", receipt)
			}
		}
		if bulk.slowestRejection > 0 {
			t.Errorf("a rejection took %v, want none to wait", bulk.slowestRejection)
		}
		after := runLoads(t, r, 0, 2*time.Second, load{"shop", push.LaneBulk, capacity / 2})[0]
		if after.accepted != after.offered {
			t.Errorf("after the overload, accepted %d of %d", after.accepted, after.offered)
		}
	})
}

func TestOverloadedAppDoesNotSlowOtherApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := limitedRoute(t, slowService())
		quiet := runLoads(t, r, time.Second, 4*time.Second, load{"bank", push.LaneNormal, capacity / 4})[0]
		both := runLoads(t, r, 3*time.Second, 8*time.Second,
			load{"bank", push.LaneNormal, capacity / 4}, load{"shop", push.LaneNormal, capacity * 5 / 2})
		bank, shop := both[0], both[1]
		t.Logf("bank: p99 %v before and %v during the overload, accepted %d of %d; shop: accepted %d of %d",
			quiet.p99(), bank.p99(), bank.accepted, bank.offered, shop.accepted, shop.offered)
		if bank.accepted != bank.offered || bank.p99() > quiet.p99()*110/100 {
			t.Errorf("bank: p99 %v, %v before the overload, accepted %d of %d", bank.p99(), quiet.p99(), bank.accepted, bank.offered)
		}
		for _, receipt := range shop.shed {
			if receipt.Verdict != push.Throttled && receipt.Reason != "OVERLOADED" || receipt.RetryAfter <= 0 {
				t.Fatalf("shed with %+v", receipt)
			}
		}
	})
}

func TestSlowProviderDoesNotLowerAdaptiveLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowService()
		slow := s.script
		start := time.Now()
		s.script = func(ctx context.Context, n *push.Notification, i int, e string) push.Outcome {
			if time.Since(start) > 3*time.Second {
				time.Sleep(9 * attemptTime)
			}
			return slow(ctx, n, i, e)
		}
		results := runLoads(t, limitedRoute(t, s), 0, 10*time.Second, load{"shop", push.LaneNormal, capacity / 12})
		if results[0].accepted != results[0].offered {
			t.Errorf("accepted %d of %d", results[0].accepted, results[0].offered)
		}
	})
}
