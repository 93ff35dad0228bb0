// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// tryPickN is PickN without waiting. It returns nil if r is rejected or would have to wait.
func (tp *testPool) tryPickN(r pool.Request) *pool.Lease {
	ctx, cancel := context.WithTimeout(tp.t.Context(), time.Nanosecond)
	defer cancel()
	lease, _ := tp.PickN(ctx, r)
	return lease
}

// limitedPool returns a pool of one endpoint with the given number of leases.
func limitedPool(t *testing.T, leases int, limiter *pool.AdaptiveLimiter) *testPool {
	tp := newTestPool(t, 1, pool.Config{Size: 1, MaxInFlight: leases, Limiter: limiter})
	tp.setServer(1, func(s *fakeServer) { s.maxStreams = 10_000 })
	tp.run()
	advance(time.Second)
	return tp
}

// TestPlacesTakenTogetherEqualPlacesTakenOneByOne takes places from one limiter in runs and from the
// other one by one.
func TestPlacesTakenTogetherEqualPlacesTakenOneByOne(t *testing.T) {
	type step struct {
		request pool.Request
		release int
	}
	drawStep := func(rt *rapid.T) step {
		return step{pool.Request{
			N: rapid.IntRange(1, 64).Draw(rt, "count"), Flow: fmt.Sprint(rapid.IntRange(1, 3).Draw(rt, "flow")),
			Lane: rapid.SampledFrom([]push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}).Draw(rt, "lane"),
		}, rapid.IntRange(0, 1000).Draw(rt, "release")}
	}
	rapid.Check(t, func(rt *rapid.T) {
		limit, leases := rapid.IntRange(16, 1000).Draw(rt, "limit"), rapid.IntRange(256, 2000).Draw(rt, "leases")
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 60).Draw(rt, "steps")
		violation := ""
		synctest.Test(t, func(t *testing.T) {
			together, single := limitedPool(t, leases, &pool.AdaptiveLimiter{InitialLimit: limit}), limitedPool(t, leases, &pool.AdaptiveLimiter{InitialLimit: limit})
			var runs []*pool.Lease
			var singles [][]*pool.Lease
			for i, s := range steps {
				run := together.tryPickN(s.request)
				granted, n := 0, s.request.N
				if run != nil {
					granted = run.Size()
				}
				runs, singles, s.request.N = append(runs, run), append(singles, nil), 1
				for k := range min(granted+1, n) {
					if free := leases - together.LimitStatus().InFlight; k == granted && free < 16 {
						break // not the limiter, but the pool has refused the run
					}
					one := single.tryPickN(s.request)
					if (one != nil) != (k < granted) {
						violation = fmt.Sprintf("step %d: %d places together, %d one by one", i, granted, k)
						return
					}
					if one != nil {
						singles[i] = append(singles[i], one)
					}
				}
				last := s.release % len(runs)
				if runs[last] != nil {
					runs[last].Succeeded(runs[last].Size(), time.Millisecond)
				}
				for _, one := range singles[last] {
					one.Succeeded(1, time.Millisecond)
				}
				runs[last], singles[last] = nil, nil
				a, b := together.LimitStatus(), single.LimitStatus()
				if a.Shed, b.Shed = 0, 0; a != b { // only a single one is shed
					violation = fmt.Sprintf("step %d: status %+v, one by one %+v", i, a, b)
					return
				}
			}
			for _, run := range runs {
				if run != nil {
					run.Succeeded(run.Size(), 0)
				}
			}
			if s := together.LimitStatus(); s.InFlight != 0 || s.Waiting != 0 {
				violation = fmt.Sprintf("status at the end %+v", s)
			}
		})
		if violation != "" {
			rt.Fatal(violation)
		}
	})
}

// While endpoints connect, no lease is taken and all requests wait for one.
func TestAppsMayUseLeasesOfConnectingEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 10, pool.Config{Size: 10, MaxInFlight: 10, Limiter: new(pool.AdaptiveLimiter)})
		for i := range 10 {
			tp.setServer(i+1, func(s *fakeServer) { s.dialDelay = time.Hour })
		}
		tp.run()
		var mu sync.Mutex
		rejected := 0
		for i := range 100 {
			go func() {
				_, err := tp.PickN(t.Context(), pool.Request{Flow: []string{"shop", "bank"}[i%2]})
				if e, ok := errors.AsType[*push.RejectedError](err); ok && e.Reason == pool.ReasonOverShare {
					mu.Lock()
					defer mu.Unlock()
					rejected++
				}
			}()
			synctest.Wait()
		}
		if rejected != 20 {
			t.Errorf("of 100 requests of two apps for 100 leases, %d were rejected; want 20", rejected)
		}
	})
}

func TestNilAdaptiveLimiterHasNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := limitedPool(t, 5000, nil)
		lease := tp.tryPickN(pool.Request{N: 5000, Lane: push.LaneBulk, CanQueue: true})
		if lease == nil || lease.Size() != 5000 {
			t.Fatalf("%+v", lease)
		}
		if tp.LimitStatus() != (pool.LimitStatus{}) {
			t.Error("a nil limiter has a limit")
		}
		lease.Succeeded(5000, 0)
	})
}

// waitFor starts a caller that appends name to served when it gets its lease, and then returns it
// after 10 ms.
func (tp *testPool) waitFor(r pool.Request, served *[]string, name string) {
	go func() {
		lease, err := tp.PickN(tp.t.Context(), r)
		if err != nil {
			tp.t.Errorf("%s: %v", name, err)
			return
		}
		*served = append(*served, name)
		time.Sleep(10 * time.Millisecond)
		lease.Succeeded(lease.Size(), 10*time.Millisecond)
	}()
	synctest.Wait()
}

func TestWaitersAreServedByLaneThenByFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 1, pool.Config{Size: 100, MaxInFlight: 1, Limiter: new(pool.AdaptiveLimiter)})
		tp.run()
		advance(time.Second)
		var served []string
		tp.waitFor(pool.Request{Flow: "shop"}, &served, "first")
		for _, r := range []pool.Request{
			{Flow: "shop", Lane: push.LaneBulk}, {Flow: "shop", CanQueue: true}, {Flow: "shop"}, {Flow: "shop"}, {Flow: "bank"},
			{Flow: "shop", Lane: push.LaneCritical, CanQueue: true}, {Flow: "shop", Lane: push.LaneCritical},
		} {
			r.MaxWait = time.Minute
			tp.waitFor(r, &served, fmt.Sprint(r.Lane, " ", r.Flow, " ", r.CanQueue))
		}
		advance(time.Second)
		want := []string{"first", "critical shop false", "critical shop true", " shop false", " bank false", " shop false", " shop true", "bulk shop false"}
		if !slices.Equal(served, want) {
			t.Errorf("the order is %q, want %q", served, want)
		}
		if s := tp.LimitStatus(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

// A single critical request waits for one place, and not for the runs of 64 before it.
func TestCriticalRequestPassesBulkRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := limitedPool(t, 64, new(pool.AdaptiveLimiter))
		full := tp.tryPickN(pool.Request{N: 64})
		var served []string
		for i := range 3 {
			tp.waitFor(pool.Request{N: 64, Flow: "shop", Lane: push.LaneBulk, CanQueue: true, MaxWait: time.Minute}, &served, fmt.Sprint("run ", i))
		}
		tp.waitFor(pool.Request{Flow: "shop", Lane: push.LaneCritical}, &served, "critical")
		full.Succeeded(1, time.Millisecond)
		synctest.Wait()
		if !slices.Equal(served, []string{"critical"}) {
			t.Errorf("the place went to %q", served)
		}
		full.Succeeded(63, time.Millisecond)
		advance(time.Second)
		if len(served) != 4 {
			t.Errorf("%q were served", served)
		}
	})
}

// An app with CanQueue leaves a fifth of the leases to others that are below their share.
func TestQueuedRequestsOfOneAppLeaveLeasesToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := limitedPool(t, 100, new(pool.AdaptiveLimiter))
		var served []string
		other := tp.tryPickN(pool.Request{Flow: "bank"})
		for i := range 100 {
			go func() {
				lease, err := tp.PickN(t.Context(), pool.Request{Flow: "shop", CanQueue: true, MaxWait: time.Hour})
				if err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(i%7+1) * time.Millisecond)
				lease.Succeeded(1, time.Millisecond)
			}()
		}
		synctest.Wait()
		if s := tp.LimitStatus(); s.InFlight != 80 || s.Waiting != 21 {
			t.Errorf("status %+v, want 80 in flight and 21 that wait", s)
		}
		tp.waitFor(pool.Request{Flow: "bank"}, &served, "bank")
		if len(served) != 1 {
			t.Error("the other app has to wait")
		}
		advance(time.Second)
		other.Succeeded(1, time.Second)
		if s := tp.LimitStatus(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("status at the end %+v", s)
		}
	})
}

func TestQueuedRequestIsRejectedAfterMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := limitedPool(t, 1, &pool.AdaptiveLimiter{MaxQueue: 1})
		lease := tp.tryPickN(pool.Request{})
		start, took := time.Now(), make([]time.Duration, 2)
		for i := range took {
			go func() {
				_, err := tp.PickN(t.Context(), pool.Request{CanQueue: true, MaxWait: time.Second})
				if e, ok := errors.AsType[*push.RejectedError](err); !ok || e.Reason != pool.ReasonOverloaded || e.RetryAfter <= 0 {
					t.Errorf("error %v", err)
				}
				took[i] = time.Since(start)
			}()
			synctest.Wait()
		}
		advance(time.Second)
		if want := []time.Duration{time.Second, 0}; !slices.Equal(took, want) { // the second one finds the queue full
			t.Errorf("rejected after %v, want %v", took, want)
		}
		lease.Succeeded(1, time.Second)
		if s := tp.LimitStatus(); s.Waiting != 0 || s.InFlight != 0 || s.Shed != 2 {
			t.Errorf("status %+v", s)
		}
	})
}

// TestLanesUseTheirFractionsOfTheLimit fills the limit lane by lane. Normal requests at 90 % of a limit
// that a sample has lowered to that must not keep out critical ones.
func TestLanesUseTheirFractionsOfTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := limitedPool(t, 1000, &pool.AdaptiveLimiter{InitialLimit: 100})
		for _, step := range []struct {
			lane push.Lane
			want int // in flight, when no more are admitted
		}{{push.LaneBulk, 80}, {push.LaneNormal, 90}, {push.LaneCritical, 112}} {
			for tp.tryPickN(pool.Request{Flow: "shop", Lane: step.lane}) != nil {
			}
			if got := tp.LimitStatus().InFlight; got != step.want {
				t.Errorf("%s: %d in flight, want %d", step.lane, got, step.want)
			}
		}
	})
}
