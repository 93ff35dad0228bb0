// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// pickMany takes n leases of endpoint i.
func (tp *testPool) pickMany(i, n int) (leases []*pool.Lease) {
	tp.t.Helper()
	for range n {
		leases = append(leases, tp.pickEndpoint(i))
	}
	return leases
}

func TestRetryWaitsForUntriedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{MaxInFlight: 2})
		advance(time.Second)
		tried := tp.pickEndpoint(1)
		tried.Done(failed)
		busy := append(tp.pickMany(2, 2), tp.pickMany(3, 2)...)
		got := make(chan *pool.Lease)
		go func() {
			lease, err := tp.Pick(t.Context(), pool.Tried{tried.Endpoint()})
			if err != nil {
				t.Error(err)
			}
			got <- lease
		}()
		advance(time.Hour)
		select {
		case lease := <-got:
			t.Fatalf("the retry got %s while the untried endpoints were full", lease.Endpoint())
		default:
		}
		busy[3].Done(accepted)
		if lease := <-got; lease.Endpoint().Addr() != addr(3) {
			t.Errorf("the retry got %s; want endpoint 3, which has a free slot", lease.Endpoint())
		}
	})
}

func TestRetryPrefersUntriedEjectedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		tried := tp.pickEndpoint(2)
		tried.Done(accepted)
		if lease := tp.pick(tried.Endpoint()); lease.Endpoint().Addr() != addr(1) {
			t.Errorf("the retry went back to %s", lease.Endpoint())
		}
	})
}

func TestTriedComparesAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp, other := startPool(t, 2, pool.Config{}), startPool(t, 2, pool.Config{})
		advance(time.Second)
		elsewhere := other.pickEndpoint(1)
		for range 20 {
			lease := tp.pick(elsewhere.Endpoint())
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("a tried address was picked as another Endpoint")
			}
			lease.Done(accepted)
		}
	})
}

func TestPickReusesHealthyEndpointWhenAllAreTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{})
		advance(time.Second)
		var tried pool.Tried
		for i := 1; i <= 3; i++ {
			lease := tp.pickEndpoint(i)
			tried = append(tried, lease.Endpoint())
			lease.Done(accepted)
		}
		tp.eject(1)
		for range 20 {
			lease := tp.pick(tried...)
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("the ejected endpoint was picked")
			}
			lease.Done(accepted)
		}
	})
}

func TestMaxInFlightLimitsEachEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{MaxInFlight: 5})
		advance(time.Second)
		for i := 1; i <= 4; i++ {
			tp.setServer(i, func(s *fakeServer) { s.latency = time.Second })
		}
		var group sync.WaitGroup
		for range 200 {
			group.Go(func() { tp.attempt() })
		}
		for range 10 {
			advance(990 * time.Millisecond)
			for _, e := range tp.Status().Endpoints {
				if e.InFlight > 5 {
					t.Errorf("%s has %d in flight; the limit is 5", e.Address, e.InFlight)
				}
			}
		}
		start := time.Now()
		group.Wait()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("200 attempts of 1s, 20 at a time, took 9.9s and %s", took)
		}
	})
}

func TestLeasesRespectStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 4, pool.Config{})
		for i := 1; i <= 4; i++ {
			tp.setServer(i, func(s *fakeServer) { s.maxStreams = 1 }) // like a new APNs connection
		}
		tp.run()
		advance(time.Second)
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { tp.attempt() })
		}
		synctest.Wait()
		if s := tp.Status(); s.InFlight != 4 || s.Waiting != 96 {
			t.Errorf("with one stream on each of four endpoints, %d are in flight and %d wait", s.InFlight, s.Waiting)
		}
		for i := 1; i <= 4; i++ {
			tp.setServer(i, func(s *fakeServer) { s.maxStreams = 1000 })
		}
		start := time.Now()
		group.Wait()
		if took := time.Since(start); took != 40*time.Millisecond {
			t.Errorf("after the first responses the others took %s; want 40ms, the time of one more response", took)
		}
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		first := tp.pick()
		var order []int
		var mu sync.Mutex
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				lease, err := tp.Pick(t.Context(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				lease.Done(accepted)
			})
			synctest.Wait()
		}
		if n := tp.Status().Waiting; n != 20 {
			t.Errorf("Status shows %d waiting; want 20", n)
		}
		first.Done(accepted)
		group.Wait()
		if !slices.IsSorted(order) || len(order) != 20 {
			t.Errorf("served in the order %v", order)
		}
	})
}

func TestWaiterThatCannotUseFreeSlotIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		one, two := tp.pickEndpoint(1), tp.pickEndpoint(2)
		served := make(chan string, 2)
		wait := func(name string, tried ...*pool.Endpoint) {
			go func() {
				lease, err := tp.Pick(t.Context(), tried)
				if err != nil {
					t.Error(err)
					return
				}
				served <- name + " on " + lease.Endpoint().String()
			}()
			synctest.Wait()
		}
		wait("the retry", one.Endpoint())
		wait("the first attempt")
		one.Done(accepted)
		if got := <-served; got != "the first attempt on 10.0.0.1:443" {
			t.Errorf("the slot on endpoint 1 went to %s", got)
		}
		two.Done(accepted)
		if got := <-served; got != "the retry on 10.0.0.2:443" {
			t.Errorf("the slot on endpoint 2 went to %s", got)
		}
	})
}

func TestCanceledWaiterDoesNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		first := tp.pick()
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error)
		go func() {
			_, err := tp.Pick(ctx, nil)
			errs <- err
		}()
		synctest.Wait()
		stayed := make(chan *pool.Lease)
		go func() {
			lease, err := tp.Pick(t.Context(), nil)
			if err != nil {
				t.Error(err)
			}
			stayed <- lease
		}()
		synctest.Wait()
		cancel()
		if o := push.NoResponse(<-errs); o.Verdict != push.Abandoned || o.Reason != pool.QueueFull {
			t.Errorf("the canceled Pick got %+v", o)
		}
		first.Done(accepted)
		(<-stayed).Done(accepted)
		if s := tp.Status(); s.Waiting != 0 || s.InFlight != 0 {
			t.Errorf("at the end %d wait and %d are in flight", s.Waiting, s.InFlight)
		}
	})
}

func TestSlotServedToCanceledWaiterIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		for range 50 {
			first := tp.pick()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if lease, err := tp.Pick(ctx, nil); err == nil {
					lease.Done(abandoned)
				}
			}()
			synctest.Wait()
			first.Done(accepted)
			cancel() // both happen before the waiter wakes
			<-ended
		}
		if n := tp.Status().InFlight; n != 0 {
			t.Errorf("%d slots are lost", n)
		}
	})
}

// stubPicker returns any endpoint, whether it is a candidate or not.
type stubPicker struct{ pick func() *pool.Endpoint }

func (s stubPicker) Pick([]*pool.Endpoint) *pool.Endpoint { return s.pick() }

func TestPickerCannotBypassFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wanted *pool.Endpoint
		tp := startPool(t, 2, pool.Config{Picker: stubPicker{func() *pool.Endpoint { return wanted }}})
		advance(time.Second)
		first := tp.pick()
		first.Done(accepted)
		wanted = first.Endpoint()
		if lease := tp.pick(wanted); lease.Endpoint() == wanted {
			t.Error("the picker selected a tried endpoint")
		}
		wanted = nil
		tp.pick().Done(accepted)
	})
}

func TestRoundRobinStaysEvenWithRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.countPicks(16)
		got := map[string]int{}
		for range 800 { // every first attempt on endpoint 1 is followed by a retry
			lease := tp.pick()
			got[lease.Endpoint().String()]++
			lease.Done(accepted)
			if lease.Endpoint().Addr() == addr(1) {
				second := tp.pick(lease.Endpoint())
				got[second.Endpoint().String()]++
				second.Done(accepted)
			}
		}
		minCount, maxCount := 1000, 0
		for _, n := range got {
			minCount, maxCount = min(minCount, n), max(maxCount, n)
		}
		if maxCount-minCount > 1 {
			t.Errorf("the load is uneven: %v", got)
		}
	})
}

func TestLoadMovesAwayFromSlowEndpoint(t *testing.T) {
	for name, picker := range map[string]pool.Picker{"LeastLoaded": pool.LeastLoaded{}, "BoundedRoundRobin": pool.BoundedRoundRobin{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := startPool(t, 8, pool.Config{Picker: picker, Outlier: pool.Outlier{Disabled: true}})
				advance(time.Second)
				tp.setServer(1, func(s *fakeServer) { s.latency = time.Second })
				var group sync.WaitGroup
				for range 5000 {
					group.Go(func() { tp.attempt() })
					time.Sleep(time.Millisecond)
				}
				group.Wait()
				if hits := tp.serverCopy(1).requests; hits > 100 {
					t.Errorf("the slow endpoint got %d of 5000 requests; want at most 2%%", hits)
				}
			})
		})
	}
}

func TestBoundedRoundRobinIsEven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{Picker: pool.BoundedRoundRobin{}})
		advance(time.Second)
		tp.countPicks(16)
		got := map[string]int{}
		var out []*pool.Lease
		for range 800 { // with forty leases outstanding
			lease := tp.pick()
			got[lease.Endpoint().String()]++
			if out = append(out, lease); len(out) == 40 {
				out[0].Done(accepted)
				out = out[1:]
			}
		}
		for _, lease := range out {
			lease.Done(accepted)
		}
		for name, n := range got {
			if n < 99 || n > 101 {
				t.Errorf("%s got %d of 800 picks; want about 100", name, n)
			}
		}
	})
}

func TestDrainingConnectionIsNotPicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.lastConn(1).goAway()
		for range 10 { // the pool has not been notified
			lease := tp.pick()
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("an endpoint with a draining connection was leased")
			}
			lease.Done(accepted)
		}
	})
}

func TestLeastLoadedConnectionIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{ConnsPerEndpoint: 2})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.latency = time.Second })
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() { tp.attempt() })
			synctest.Wait()
		}
		for i, c := range tp.serverCopy(1).conns {
			if n := c.State().InFlight; n != 5 {
				t.Errorf("connection %d has %d in flight; want 5", i, n)
			}
		}
		group.Wait()
	})
}

func TestPickAvoidsSuspectEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{})
		advance(time.Second)
		var inFlight []*pool.Lease
		for range 5 {
			inFlight = append(inFlight, tp.pickEndpoint(1))
		}
		for _, l := range inFlight[:3] {
			l.Done(failed)
		}
		if got := tp.countPicks(30); got[addr(1).String()] != 0 {
			t.Errorf("after three consecutive failures, with two requests in flight, the endpoint was picked: %v", got)
		}
		inFlight[3].Done(accepted)
		if got := tp.countPicks(30); got[addr(1).String()] != 10 {
			t.Errorf("after a success the endpoint must get its share again: %v", got)
		}
		inFlight[4].Done(accepted)
	})
}

func TestPickAvoidsEndpointWithPendingPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.pingPending = true })
		tp.setServer(2, func(s *fakeServer) { s.pingPending = true })
		if got := tp.countPicks(30); got[addr(1).String()]+got[addr(2).String()] != 0 {
			t.Errorf("endpoints with a pending ping were picked: %v", got)
		}
		tp.setServer(1, func(s *fakeServer) { s.pingPending = false })
		if got := tp.countPicks(30); got[addr(1).String()] == 0 || got[addr(2).String()] != 0 {
			t.Errorf("one of them has responded: %v", got)
		}
		for i := range 4 {
			tp.setServer(i+1, func(s *fakeServer) { s.pingPending = true })
		}
		if got := tp.countPicks(20); len(got) != 4 {
			t.Errorf("all have a pending ping, so all must be used: %v", got)
		}
	})
}

func TestPickUsesSuspectEndpointIfNoOtherIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{})
		advance(time.Second)
		held := tp.pickEndpoint(1)
		for range 3 {
			tp.pickEndpoint(1).Done(failed)
		}
		tp.pick().Done(accepted)
		held.Done(accepted)
	})
}

func TestRetryDuringColdStartWaitsForUntriedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 4, pool.Config{})
		for i := 2; i <= 4; i++ {
			tp.setServer(i, func(s *fakeServer) { s.dialDelay = 300 * time.Millisecond })
		}
		tp.run()
		first, err := tp.Pick(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		first.Done(push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint})
		second, err := tp.Pick(t.Context(), pool.Tried{first.Endpoint()})
		if err != nil {
			t.Fatal(err)
		}
		if second.Endpoint() == first.Endpoint() {
			t.Errorf("the retry went to %s again while three others were being dialed", second.Endpoint())
		}
		second.Done(accepted)
	})
}

func TestHangingFirstDialDelaysRetriesOneSecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 2, pool.Config{})
		tp.setServer(2, func(s *fakeServer) { s.dialDelay = time.Hour })
		tp.run()
		first, err := tp.Pick(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		first.Done(accepted)
		start := time.Now()
		second, err := tp.Pick(t.Context(), pool.Tried{first.Endpoint()})
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > 1100*time.Millisecond {
			t.Errorf("the retry waited for %s", waited)
		}
		second.Done(accepted)
	})
}
