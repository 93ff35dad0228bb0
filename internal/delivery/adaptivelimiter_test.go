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

// slowService takes its time over every attempt, and accepts it.
func slowService() *service {
	return &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
		time.Sleep(attemptTime)
		return accepted
	}}
}

// limitedRoute is a route of eight endpoints with sixteen places each: 128 in flight, 2,560 a second.
func limitedRoute(t *testing.T, s *service) *delivery.Route {
	t.Helper()
	r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(8), Size: 8, MaxInFlight: 16}, 8)
	r.AdaptiveLimiter = &delivery.AdaptiveLimiter{InitialLimit: 256}
	return r
}

const capacity = 8 * 16 * int(time.Second/attemptTime)

// load is so many notifications a second of one app and lane.
type load struct {
	app       string
	lane      push.Lane
	perSecond int
}

// result is what became of one traffic.
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

// runLoads offers all the traffics at once for so long, and counts from warm on.
func runLoads(t *testing.T, r *delivery.Route, warm, span time.Duration, all ...load) []*result {
	t.Helper()
	var senders, drivers sync.WaitGroup
	var mu sync.Mutex
	began := time.Now()
	results := make([]*result, len(all))
	one := func(n *push.Notification, into *result) {
		at := time.Now()
		receipt := r.Send(t.Context(), n)
		mu.Lock()
		defer mu.Unlock()
		if at.Sub(began) < warm {
			return
		}
		into.offered++
		if receipt.Verdict == push.Accepted {
			into.accepted++
			into.latencies = append(into.latencies, time.Since(at))
			return
		}
		into.shed = append(into.shed, receipt)
		into.slowestRejection = max(into.slowestRejection, time.Since(at))
	}
	for i, tr := range all {
		results[i] = &result{}
		drivers.Go(func() {
			for k := range int(span.Seconds() * float64(tr.perSecond)) {
				n := newNotification(fmt.Sprint(tr.app, tr.lane, k))
				n.App, n.Lane = tr.app, tr.lane
				senders.Go(func() { one(n, results[i]) })
				time.Sleep(time.Second / time.Duration(tr.perSecond))
			}
		})
	}
	drivers.Wait()
	senders.Wait()
	return results
}

func TestOverloadShedsBulkFirstAndKeepsCriticalLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := limitedRoute(t, slowService())
		all := runLoads(t, r, 3*time.Second, 8*time.Second,
			load{"shop", push.LaneCritical, capacity * 3 / 10},
			load{"shop", push.LaneNormal, capacity * 9 / 10},
			load{"shop", push.LaneBulk, capacity * 18 / 10})
		critical, normal, bulk := all[0], all[1], all[2]
		good := critical.accepted + normal.accepted + bulk.accepted
		t.Logf("goodput %.1f %% of the capacity; critical %d of %d, p99 %v; normal %d of %d; bulk %d of %d",
			100*float64(good)/float64(5*capacity), critical.accepted, critical.offered, critical.p99(),
			normal.accepted, normal.offered, bulk.accepted, bulk.offered)
		if good < 5*capacity*95/100 || critical.accepted < critical.offered*999/1000 || critical.p99() > 2*attemptTime {
			t.Errorf("goodput %d of %d; critical %d of %d, p99 %v", good, 5*capacity, critical.accepted, critical.offered, critical.p99())
		}
		if share := func(r *result) float64 { return float64(r.accepted) / float64(r.offered) }; share(bulk) > share(normal) {
			t.Errorf("bulk %.2f, normal %.2f: bulk is to be shed first", share(bulk), share(normal))
		}
		for _, one := range bulk.shed {
			if one.RetryAfter <= 0 || len(one.Attempts) > 0 || one.Reason != "OVERLOADED" || one.Status() != push.StatusUnavailable {
				t.Fatalf("shed with %+v", one)
			}
		}
		if bulk.slowestRejection > 0 {
			t.Errorf("a refusal took %v", bulk.slowestRejection)
		}
		after := runLoads(t, r, 0, 2*time.Second, load{"shop", push.LaneBulk, capacity / 2})[0]
		if after.accepted != after.offered {
			t.Errorf("after the rush %d of %d", after.accepted, after.offered)
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
		t.Logf("bank's p99 %v, beside the other %v; accepted %d of %d; the other %d of %d",
			quiet.p99(), bank.p99(), bank.accepted, bank.offered, shop.accepted, shop.offered)
		if bank.accepted != bank.offered || bank.p99() > quiet.p99()*110/100 {
			t.Errorf("bank's p99 %v, was %v; accepted %d of %d", bank.p99(), quiet.p99(), bank.accepted, bank.offered)
		}
		for _, one := range shop.shed {
			if one.Verdict != push.Throttled && one.Reason != "OVERLOADED" || one.RetryAfter <= 0 {
				t.Fatalf("shed with %+v", one)
			}
		}
	})
}

func TestSlowProviderDoesNotLowerAdaptiveLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := slowService()
		slow := s.script
		began := time.Now()
		s.script = func(ctx context.Context, n *push.Notification, i int, e string) push.Outcome {
			if time.Since(began) > 3*time.Second {
				time.Sleep(9 * attemptTime)
			}
			return slow(ctx, n, i, e)
		}
		all := runLoads(t, limitedRoute(t, s), 0, 10*time.Second, load{"shop", push.LaneNormal, capacity / 12})
		if all[0].accepted != all[0].offered {
			t.Errorf("%d of %d", all[0].accepted, all[0].offered)
		}
	})
}

func TestNilAdaptiveLimiterHasNoLimit(t *testing.T) {
	if (*delivery.AdaptiveLimiter)(nil).Status() != (delivery.LimitStatus{}) {
		t.Error("it has a bound")
	}
}
