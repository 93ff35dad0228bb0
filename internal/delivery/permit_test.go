// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// runStep is a step of the property tests below: a run takes places, and another one releases its.
type runStep struct {
	n       *push.Call
	count   int
	release int
}

func drawRunSteps(t *rapid.T, apps int) []runStep {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) runStep {
		n := &push.Call{Notification: &push.Notification{App: fmt.Sprint(rapid.IntRange(1, apps).Draw(t, "app"))}, CanQueue: rapid.Bool().Draw(t, "can queue")}
		n.Lane = rapid.SampledFrom([]push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}).Draw(t, "lane")
		return runStep{n, rapid.IntRange(1, 64).Draw(t, "count"), rapid.IntRange(0, 1000).Draw(t, "release")}
	}), 1, 60).Draw(t, "steps")
}

type held struct {
	permit permit
	count  int
}

// runLimiter is a ConcurrencyLimit or an AdaptiveLimiter.
type runLimiter interface {
	acquire(ctx context.Context, n *push.Call, count int, maxWait time.Duration) (permit, int, error)
	Status() LimitStatus
}

// compareRuns takes places from one limiter in runs and from the other one by one. It returns the
// first difference.
func compareRuns(steps []runStep, together, single runLimiter) string {
	var runs, singles []held
	for i, s := range steps {
		p, granted, _ := together.acquire(context.Background(), s.n, s.count, 0)
		p = p.leased(granted)
		runs = append(runs, held{p, granted})
		for k := range granted + 1 {
			if k == s.count {
				break
			}
			q, one, _ := single.acquire(context.Background(), s.n, 1, 0)
			q = q.leased(one)
			if one != min(granted-k, 1) {
				return fmt.Sprintf("step %d: %d places together, %d one by one", i, granted, k+one)
			}
			if one == 1 {
				singles = append(singles, held{q, 1})
			}
		}
		if last := s.release % len(runs); runs[last].count > 0 {
			h := &runs[last]
			h.permit.release(h.count, time.Millisecond)
			first := 0
			for _, r := range runs[:last] {
				first += r.count
			}
			for _, q := range singles[first : first+h.count] {
				q.permit.release(1, time.Millisecond)
			}
			singles = append(singles[:first], singles[first+h.count:]...)
			h.count = 0
		}
		a, b := together.Status(), single.Status()
		if a.Shed, b.Shed = 0, 0; a != b { // only a single one is shed
			return fmt.Sprintf("step %d: status %+v, one by one %+v", i, a, b)
		}
	}
	for i := range runs {
		runs[i].permit.release(runs[i].count, 0)
	}
	if s := together.Status(); s.InFlight != 0 || s.Waiting != 0 {
		return fmt.Sprintf("status at the end %+v", s)
	}
	return ""
}

func TestPlacesTakenTogetherEqualPlacesTakenOneByOne(t *testing.T) {
	compare := func(rt *rapid.T, apps int, together, single runLimiter) {
		steps := drawRunSteps(rt, apps)
		var difference string
		synctest.Test(t, func(*testing.T) { difference = compareRuns(steps, together, single) })
		if difference != "" {
			rt.Fatal(difference)
		}
	}
	t.Run("concurrency limit", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			limit := rapid.IntRange(1, 1000).Draw(rt, "limit")
			compare(rt, 3, &ConcurrencyLimit{Max: limit}, &ConcurrencyLimit{Max: limit})
		})
	})
	t.Run("adaptive limiter", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) {
			limit := rapid.IntRange(16, 1000).Draw(rt, "limit")
			capacity := float64(rapid.IntRange(0, 500).Draw(rt, "lease capacity"))
			compare(rt, 1, &AdaptiveLimiter{InitialLimit: limit, leaseCapacity: capacity}, &AdaptiveLimiter{InitialLimit: limit, leaseCapacity: capacity})
		})
	})
}

func TestRunCountsAsOneLeaseWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a AdaptiveLimiter
		n := &push.Call{Notification: &push.Notification{App: "shop"}}
		first, granted, _ := a.acquire(t.Context(), n, 64, 0)
		if granted != 64 {
			t.Fatalf("%d places", granted)
		}
		first.release(24, 0) // the lease has 40 places
		first = first.leased(40)
		second, _, _ := a.acquire(t.Context(), n, 64, 0)
		third, _, _ := a.acquire(t.Context(), n, 64, 0)
		if a.leaseCapacity != 0 {
			t.Errorf("lease capacity %v, but only one run waited for its lease", a.leaseCapacity)
		}
		fourth, _, err := a.acquire(t.Context(), n, 1, 0)
		if err != nil || a.leaseCapacity != 40 {
			t.Errorf("lease capacity %v, want the 40 leases; %v", a.leaseCapacity, err)
		}
		time.Sleep(time.Second)
		second.release(64, 0)
		third = third.leased(64)
		third.release(64, time.Second)
		fourth.release(1, 0)
		first.release(40, time.Second)
		if a.unleased != 0 || a.leaseWaiters != 0 || a.inFlight != 0 {
			t.Errorf("%d unleased, %d lease waiters, %d in flight", a.unleased, a.leaseWaiters, a.inFlight)
		}
	})
}

// While endpoints connect, few leases are taken and several notifications wait for one.
func TestAppsMayUseLeasesOfConnectingEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for leases, want := range map[int]int{0: 5, 100: 80} {
			a := AdaptiveLimiter{Leases: leases}
			admitted := 0
			for i := range 100 {
				n := &push.Call{Notification: &push.Notification{App: []string{"shop", "bank"}[i%2]}}
				p, _, err := a.acquire(t.Context(), n, 1, 0)
				if err != nil {
					continue
				}
				if admitted++; admitted <= 3 {
					p.leased(1)
				}
			}
			if admitted != want {
				t.Errorf("with %d leases of healthy endpoints, %d notifications of two apps are admitted, want %d", leases, admitted, want)
			}
		}
	})
}

func TestReleasedRunAdmitsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &ConcurrencyLimit{Max: 10}
		run, granted, _ := c.acquire(t.Context(), &push.Call{Notification: &push.Notification{App: "shop"}}, 64, 0)
		if granted == 0 || granted == 10 {
			t.Fatalf("%d places", granted)
		}
		done := make(chan error, granted)
		for range granted {
			go func() {
				p, _, err := c.acquire(t.Context(), &push.Call{Notification: &push.Notification{App: "shop"}, CanQueue: true}, 1, time.Minute)
				p.release(1, 0)
				done <- err
			}()
		}
		synctest.Wait()
		if s := c.Status(); s.Waiting == 0 {
			t.Errorf("status %+v, want waiters", s)
		}
		run.release(granted, 0)
		for range granted {
			if err := testwait.For(t, done, "a waiter"); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNilLimitsGrantWholeRuns(t *testing.T) {
	n := &push.Call{Notification: new(push.Notification)}
	p, granted, _ := (*ConcurrencyLimit)(nil).acquire(t.Context(), n, 64, 0)
	q, adaptive, _ := (*AdaptiveLimiter)(nil).acquire(t.Context(), n, 64, 0)
	p.release(64, 0)
	q = q.leased(adaptive)
	q.release(64, 0)
	if granted != 64 || adaptive != 64 {
		t.Errorf("%d and %d places", granted, adaptive)
	}
}

// BenchmarkPermits measures the places of notifications in both limits, alone and in a run.
func BenchmarkPermits(b *testing.B) {
	for _, count := range []int{1, 64} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			var c ConcurrencyLimit
			var a AdaptiveLimiter
			n := &push.Call{Notification: &push.Notification{App: "shop"}}
			b.ReportAllocs()
			for b.Loop() {
				p, _, _ := c.acquire(b.Context(), n, count, 0)
				q, _, _ := a.acquire(b.Context(), n, count, 0)
				q = q.leased(count)
				q.release(count, time.Millisecond)
				p.release(count, time.Millisecond)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*count), "ns/notification")
		})
	}
}
