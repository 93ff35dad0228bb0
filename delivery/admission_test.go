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

	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

const work = 50 * time.Millisecond

// works takes its time over every attempt, and accepts it.
func works() *service {
	return &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
		time.Sleep(work)
		return accepted
	}}
}

// narrow is a route of eight endpoints with sixteen places each: 128 in flight, 2,560 a second.
func narrow(t *testing.T, s *service) *delivery.Route {
	t.Helper()
	r := build(t, s, pool.Config{Resolver: fixed(8), Size: 8, MaxInFlight: 16}, 8)
	r.Admission = &delivery.Admission{Start: 256}
	return r
}

const capacity = 8 * 16 * int(time.Second/work)

// traffic is so many notifications a second of one app and lane.
type traffic struct {
	app       string
	lane      push.Lane
	perSecond int
}

// result is what became of one traffic.
type result struct {
	offered, accepted int
	took              []time.Duration // of the accepted
	shed              []push.Receipt
	slowestRefusal    time.Duration
}

func (r *result) p99() time.Duration {
	slices.Sort(r.took)
	return r.took[len(r.took)*99/100]
}

// drive offers all the traffics at once for so long, and counts from warm on.
func drive(t *testing.T, r *delivery.Route, warm, span time.Duration, all ...traffic) []*result {
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
			into.took = append(into.took, time.Since(at))
			return
		}
		into.shed = append(into.shed, receipt)
		into.slowestRefusal = max(into.slowestRefusal, time.Since(at))
	}
	for i, tr := range all {
		results[i] = &result{}
		drivers.Go(func() {
			for k := range int(span.Seconds() * float64(tr.perSecond)) {
				n := note(fmt.Sprint(tr.app, tr.lane, k))
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

func TestAtThreeTimesTheCapacityTheUrgentPassAndTheOthersAreToldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := narrow(t, works())
		all := drive(t, r, 3*time.Second, 8*time.Second,
			traffic{"shop", push.LaneCritical, capacity * 3 / 10},
			traffic{"shop", push.LaneNormal, capacity * 9 / 10},
			traffic{"shop", push.LaneBulk, capacity * 18 / 10})
		critical, normal, bulk := all[0], all[1], all[2]
		good := critical.accepted + normal.accepted + bulk.accepted
		t.Logf("goodput %.1f %% of the capacity; critical %d of %d, p99 %v; normal %d of %d; bulk %d of %d",
			100*float64(good)/float64(5*capacity), critical.accepted, critical.offered, critical.p99(),
			normal.accepted, normal.offered, bulk.accepted, bulk.offered)
		if good < 5*capacity*95/100 || critical.accepted < critical.offered*999/1000 || critical.p99() > 2*work {
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
		if bulk.slowestRefusal > 0 {
			t.Errorf("a refusal took %v", bulk.slowestRefusal)
		}
		after := drive(t, r, 0, 2*time.Second, traffic{"shop", push.LaneBulk, capacity / 2})[0]
		if after.accepted != after.offered {
			t.Errorf("after the rush %d of %d", after.accepted, after.offered)
		}
	})
}

func TestOneAppAtTenTimesItsLoadLeavesTheOthersTheirLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := narrow(t, works())
		quiet := drive(t, r, time.Second, 4*time.Second, traffic{"bank", push.LaneNormal, capacity / 4})[0]
		both := drive(t, r, 3*time.Second, 8*time.Second,
			traffic{"bank", push.LaneNormal, capacity / 4}, traffic{"shop", push.LaneNormal, capacity * 5 / 2})
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

func TestASlowProviderIsNotTakenForAnOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := works()
		slow := s.script
		began := time.Now()
		s.script = func(ctx context.Context, n *push.Notification, i int, e string) push.Outcome {
			if time.Since(began) > 3*time.Second {
				time.Sleep(9 * work)
			}
			return slow(ctx, n, i, e)
		}
		all := drive(t, narrow(t, s), 0, 10*time.Second, traffic{"shop", push.LaneNormal, capacity / 12})
		if all[0].accepted != all[0].offered {
			t.Errorf("%d of %d", all[0].accepted, all[0].offered)
		}
	})
}

func TestANilAdmissionAdmitsEverything(t *testing.T) {
	if (*delivery.Admission)(nil).Status() != (delivery.AdmissionStatus{}) {
		t.Error("it has a bound")
	}
}
