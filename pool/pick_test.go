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

// pickMany leases every place of endpoint i.
func (h *testPool) pickMany(i, places int) (leases []*pool.Lease) {
	h.t.Helper()
	for range places {
		leases = append(leases, h.pickEndpoint(i))
	}
	return leases
}

func TestRetryWaitsForUntriedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{MaxInFlight: 2})
		advance(time.Second)
		tried := h.pickEndpoint(1)
		tried.Done(failed)
		busy := append(h.pickMany(2, 2), h.pickMany(3, 2)...)
		got := make(chan *pool.Lease)
		go func() {
			lease, err := h.Pick(t.Context(), pool.Tried{tried.Endpoint()})
			if err != nil {
				t.Error(err)
			}
			got <- lease
		}()
		advance(time.Hour)
		select {
		case lease := <-got:
			t.Fatalf("the retry got %s while the untried were full", lease.Endpoint())
		default:
		}
		busy[3].Done(accepted)
		if lease := <-got; lease.Endpoint().Addr() != addr(3) {
			t.Errorf("the retry got %s, want endpoint 3, where a place came free", lease.Endpoint())
		}
	})
}

func TestRetryPrefersUntriedEjectedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.eject(1)
		tried := h.pickEndpoint(2)
		tried.Done(accepted)
		if lease := h.pick(tried.Endpoint()); lease.Endpoint().Addr() != addr(1) {
			t.Errorf("the retry went back to %s", lease.Endpoint())
		}
	})
}

func TestTriedComparesAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, other := startPool(t, 2, pool.Config{}), startPool(t, 2, pool.Config{})
		advance(time.Second)
		elsewhere := other.pickEndpoint(1)
		for range 20 {
			lease := h.pick(elsewhere.Endpoint())
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("the same address was picked under another Endpoint")
			}
			lease.Done(accepted)
		}
	})
}

func TestPickReusesHealthyEndpointWhenAllAreTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{})
		advance(time.Second)
		var tried pool.Tried
		for i := 1; i <= 3; i++ {
			lease := h.pickEndpoint(i)
			tried = append(tried, lease.Endpoint())
			lease.Done(accepted)
		}
		h.eject(1)
		for range 20 {
			lease := h.pick(tried...)
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("the ejected one was taken")
			}
			lease.Done(accepted)
		}
	})
}

func TestMaxInFlightLimitsEachEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{MaxInFlight: 5})
		advance(time.Second)
		for i := 1; i <= 4; i++ {
			h.setServer(i, func(s *fakeServer) { s.latency = time.Second })
		}
		var group sync.WaitGroup
		for range 200 {
			group.Go(func() { h.attempt() })
		}
		for range 10 {
			advance(990 * time.Millisecond)
			for _, e := range h.Status().Endpoints {
				if e.InFlight > 5 {
					t.Errorf("%s has %d in flight, the cap is 5", e.Address, e.InFlight)
				}
			}
		}
		began := time.Now()
		group.Wait()
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("200 attempts of 1s, 20 at a time, took 9.9s and %s", took)
		}
	})
}

func TestLeasesRespectStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 4, pool.Config{})
		for i := 1; i <= 4; i++ {
			h.setServer(i, func(s *fakeServer) { s.maxStreams = 1 }) // as APNs begins
		}
		h.run()
		advance(time.Second)
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { h.attempt() })
		}
		synctest.Wait()
		if s := h.Status(); s.InFlight != 4 || s.Waiting != 96 {
			t.Errorf("with one stream on each of four, %d are in flight and %d wait", s.InFlight, s.Waiting)
		}
		for i := 1; i <= 4; i++ {
			h.setServer(i, func(s *fakeServer) { s.maxStreams = 1000 })
		}
		began := time.Now()
		group.Wait()
		if took := time.Since(began); took != 40*time.Millisecond {
			t.Errorf("after the first answers the rest took until %s, want one answer's time more (40ms)", took)
		}
	})
}

func TestWaitersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		first := h.pick()
		var order []int
		var mu sync.Mutex
		var group sync.WaitGroup
		for i := range 20 {
			group.Go(func() {
				lease, err := h.Pick(t.Context(), nil)
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
		if n := h.Status().Waiting; n != 20 {
			t.Errorf("Status says %d wait, want 20", n)
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
		h := startPool(t, 2, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		one, two := h.pickEndpoint(1), h.pickEndpoint(2)
		served := make(chan string, 2)
		wait := func(name string, tried ...*pool.Endpoint) {
			go func() {
				lease, err := h.Pick(t.Context(), tried)
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
			t.Errorf("the place on endpoint 1 went to %s", got)
		}
		two.Done(accepted)
		if got := <-served; got != "the retry on 10.0.0.2:443" {
			t.Errorf("the place on endpoint 2 went to %s", got)
		}
	})
}

func TestCancelledWaiterDoesNotBlockOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		first := h.pick()
		leaving, leave := context.WithCancel(t.Context())
		errs := make(chan error)
		go func() {
			_, err := h.Pick(leaving, nil)
			errs <- err
		}()
		synctest.Wait()
		stayed := make(chan *pool.Lease)
		go func() {
			lease, err := h.Pick(t.Context(), nil)
			if err != nil {
				t.Error(err)
			}
			stayed <- lease
		}()
		synctest.Wait()
		leave()
		if o := push.NoResponse(<-errs); o.Verdict != push.Abandoned || o.Reason != pool.QueueFull {
			t.Errorf("who left got %+v", o)
		}
		first.Done(accepted)
		(<-stayed).Done(accepted)
		if s := h.Status(); s.Waiting != 0 || s.InFlight != 0 {
			t.Errorf("in the end %d wait and %d are in flight", s.Waiting, s.InFlight)
		}
	})
}

func TestSlotServedToCancelledWaiterIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		for range 50 {
			first := h.pick()
			ctx, leave := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if lease, err := h.Pick(ctx, nil); err == nil {
					lease.Done(abandoned)
				}
			}()
			synctest.Wait()
			first.Done(accepted)
			leave() // both have happened before the caller wakes
			<-ended
		}
		if n := h.Status().InFlight; n != 0 {
			t.Errorf("%d places are lost", n)
		}
	})
}

// stubPicker returns what it was told to, candidate or not.
type stubPicker struct{ pick func() *pool.Endpoint }

func (s stubPicker) Pick([]*pool.Endpoint) *pool.Endpoint { return s.pick() }

func TestPickerCannotBypassFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wanted *pool.Endpoint
		h := startPool(t, 2, pool.Config{Picker: stubPicker{func() *pool.Endpoint { return wanted }}})
		advance(time.Second)
		first := h.pick()
		first.Done(accepted)
		wanted = first.Endpoint()
		if lease := h.pick(wanted); lease.Endpoint() == wanted {
			t.Error("a stranger's picker returned to a tried endpoint")
		}
		wanted = nil
		h.pick().Done(accepted)
	})
}

func TestRoundRobinStaysEvenWithRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.countPicks(16)
		got := map[string]int{}
		for range 800 { // every first attempt on endpoint 1 is followed by a second one elsewhere
			lease := h.pick()
			got[lease.Endpoint().String()]++
			lease.Done(accepted)
			if lease.Endpoint().Addr() == addr(1) {
				second := h.pick(lease.Endpoint())
				got[second.Endpoint().String()]++
				second.Done(accepted)
			}
		}
		least, most := 1000, 0
		for _, n := range got {
			least, most = min(least, n), max(most, n)
		}
		if most-least > 1 {
			t.Errorf("the load was %v", got)
		}
	})
}

func TestLoadMovesAwayFromSlowEndpoint(t *testing.T) {
	for name, picker := range map[string]pool.Picker{"LeastLoaded": pool.LeastLoaded{}, "InStep": pool.BoundedRoundRobin{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startPool(t, 8, pool.Config{Picker: picker, Outlier: pool.Outlier{Disabled: true}})
				advance(time.Second)
				h.setServer(1, func(s *fakeServer) { s.latency = time.Second })
				var group sync.WaitGroup
				for range 5000 {
					group.Go(func() { h.attempt() })
					time.Sleep(time.Millisecond)
				}
				group.Wait()
				if hits := h.serverCopy(1).requests; hits > 100 {
					t.Errorf("the endpoint that takes 50 times as long got %d of 5000, want at most 2%%", hits)
				}
			})
		})
	}
}

func TestBoundedRoundRobinIsEven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{Picker: pool.BoundedRoundRobin{}})
		advance(time.Second)
		h.countPicks(16)
		got := map[string]int{}
		var out []*pool.Lease
		for range 800 { // forty are out at a time
			lease := h.pick()
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
				t.Errorf("%s got %d of 800, an eighth of which is 100", name, n)
			}
		}
	})
}

func TestDrainingConnectionIsNotPicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.lastConn(1).goAway()
		for range 10 { // nobody has told the pool
			lease := h.pick()
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("an endpoint was leased with a connection that takes nothing new")
			}
			lease.Done(accepted)
		}
	})
}

func TestLeastLoadedConnectionIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{ConnsPerEndpoint: 2})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.latency = time.Second })
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() { h.attempt() })
			synctest.Wait()
		}
		for i, c := range h.serverCopy(1).conns {
			if n := c.State().InFlight; n != 5 {
				t.Errorf("connection %d has %d in flight, want 5", i, n)
			}
		}
		group.Wait()
	})
}

func TestPickAvoidsSuspectEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{})
		advance(time.Second)
		var inFlight []*pool.Lease
		for range 5 {
			inFlight = append(inFlight, h.pickEndpoint(1))
		}
		for _, l := range inFlight[:3] {
			l.Done(failed)
		}
		if got := h.countPicks(30); got[addr(1).String()] != 0 {
			t.Errorf("it failed three times in a row and still has two in flight: %v", got)
		}
		inFlight[3].Done(accepted)
		if got := h.countPicks(30); got[addr(1).String()] != 10 {
			t.Errorf("it has answered again: %v", got)
		}
		inFlight[4].Done(accepted)
	})
}

func TestPickAvoidsEndpointWithPendingPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.pingPending = true })
		h.setServer(2, func(s *fakeServer) { s.pingPending = true })
		if got := h.countPicks(30); got[addr(1).String()]+got[addr(2).String()] != 0 {
			t.Errorf("two have fallen silent: %v", got)
		}
		h.setServer(1, func(s *fakeServer) { s.pingPending = false })
		if got := h.countPicks(30); got[addr(1).String()] == 0 || got[addr(2).String()] != 0 {
			t.Errorf("one of them has been heard again: %v", got)
		}
		for i := range 4 {
			h.setServer(i+1, func(s *fakeServer) { s.pingPending = true })
		}
		if got := h.countPicks(20); len(got) != 4 {
			t.Errorf("all are silent, so none is better: %v", got)
		}
	})
}

func TestPickUsesSuspectEndpointWhenAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{})
		advance(time.Second)
		held := h.pickEndpoint(1)
		for range 3 {
			h.pickEndpoint(1).Done(failed)
		}
		h.pick().Done(accepted)
		held.Done(accepted)
	})
}

func TestRetryDuringColdStartWaitsForUntriedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 4, pool.Config{})
		for i := 2; i <= 4; i++ {
			h.setServer(i, func(s *fakeServer) { s.dialDelay = 300 * time.Millisecond })
		}
		h.run()
		first, err := h.Pick(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		first.Done(push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint})
		second, err := h.Pick(t.Context(), pool.Tried{first.Endpoint()})
		if err != nil {
			t.Fatal(err)
		}
		if second.Endpoint() == first.Endpoint() {
			t.Errorf("the retry went to %s again while three others were being dialled", second.Endpoint())
		}
		second.Done(accepted)
	})
}

func TestHangingFirstDialDelaysRetriesOneSecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 2, pool.Config{})
		h.setServer(2, func(s *fakeServer) { s.dialDelay = time.Hour })
		h.run()
		first, err := h.Pick(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		first.Done(accepted)
		began := time.Now()
		second, err := h.Pick(t.Context(), pool.Tried{first.Endpoint()})
		if err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(began); waited > 1100*time.Millisecond {
			t.Errorf("the retry waited for %s", waited)
		}
		second.Done(accepted)
	})
}
