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

// fillUp leases every place of endpoint i.
func (h *house) fillUp(i, places int) (leases []*pool.Lease) {
	h.t.Helper()
	for range places {
		leases = append(leases, h.visit(i))
	}
	return leases
}

func TestARetryWaitsForAnUntriedEndpointRatherThanReturnToATriedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 3, pool.Config{InFlight: 2})
		pass(time.Second)
		tried := h.visit(1)
		tried.Done(failed)
		busy := append(h.fillUp(2, 2), h.fillUp(3, 2)...)
		got := make(chan *pool.Lease)
		go func() {
			lease, err := h.Pick(t.Context(), pool.Tried{tried.Endpoint()})
			if err != nil {
				t.Error(err)
			}
			got <- lease
		}()
		pass(time.Hour)
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

func TestARetryPrefersAnUntriedEjectedEndpointToATriedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		pass(time.Second)
		h.eject(1)
		tried := h.visit(2)
		tried.Done(accepted)
		if lease := h.pick(tried.Endpoint()); lease.Endpoint().Addr() != addr(1) {
			t.Errorf("the retry went back to %s", lease.Endpoint())
		}
	})
}

func TestAnEndpointIsTriedByItsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, other := open(t, 2, pool.Config{}), open(t, 2, pool.Config{})
		pass(time.Second)
		elsewhere := other.visit(1)
		for range 20 {
			lease := h.pick(elsewhere.Endpoint())
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("the same address was picked under another Endpoint")
			}
			lease.Done(accepted)
		}
	})
}

func TestWhenAllAreTriedAHealthyOneIsTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 3, pool.Config{})
		pass(time.Second)
		var tried pool.Tried
		for i := 1; i <= 3; i++ {
			lease := h.visit(i)
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

func TestTheCapBoundsWhatIsInFlightOnEachEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 4, pool.Config{InFlight: 5})
		pass(time.Second)
		for i := 1; i <= 4; i++ {
			h.set(i, func(s *server) { s.takes = time.Second })
		}
		var group sync.WaitGroup
		for range 200 {
			group.Go(func() { h.attempt() })
		}
		for range 10 {
			pass(990 * time.Millisecond)
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

func TestAConnectionIsLeasedNoMoreThanItBearsUntilItBearsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 4, pool.Config{})
		for i := 1; i <= 4; i++ {
			h.set(i, func(s *server) { s.streams = 1 }) // as APNs begins
		}
		h.run()
		pass(time.Second)
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { h.attempt() })
		}
		synctest.Wait()
		if s := h.Status(); s.InFlight != 4 || s.Waiting != 96 {
			t.Errorf("with one stream on each of four, %d are in flight and %d wait", s.InFlight, s.Waiting)
		}
		for i := 1; i <= 4; i++ {
			h.set(i, func(s *server) { s.streams = 1000 })
		}
		began := time.Now()
		group.Wait()
		if took := time.Since(began); took != 40*time.Millisecond {
			t.Errorf("after the first answers the rest took until %s, want one answer's time more (40ms)", took)
		}
	})
}

func TestThoseWhoWaitAreServedInTheOrderTheyCame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{InFlight: 1})
		pass(time.Second)
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

func TestWhoCannotUseAFreePlaceIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{InFlight: 1})
		pass(time.Second)
		one, two := h.visit(1), h.visit(2)
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

func TestACallerThatLeavesTheLineHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{InFlight: 1})
		pass(time.Second)
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
		if o := push.NoAnswer(<-errs); o.Verdict != push.Abandoned || o.Reason != pool.QueueFull {
			t.Errorf("who left got %+v", o)
		}
		first.Done(accepted)
		(<-stayed).Done(accepted)
		if s := h.Status(); s.Waiting != 0 || s.InFlight != 0 {
			t.Errorf("in the end %d wait and %d are in flight", s.Waiting, s.InFlight)
		}
	})
}

func TestAPlaceThatIsHandedToACallerWhoJustLeftIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{InFlight: 1})
		pass(time.Second)
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

// stranger returns what it was told to, candidate or not.
type stranger struct{ wants func() *pool.Endpoint }

func (s stranger) Pick([]*pool.Endpoint) *pool.Endpoint { return s.wants() }

func TestNoPickerCanGetPastTheFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wanted *pool.Endpoint
		h := open(t, 2, pool.Config{Picker: stranger{func() *pool.Endpoint { return wanted }}})
		pass(time.Second)
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

func TestRoundRobinStaysEvenWhenSomeAreRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		h.spread(16)
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

func TestLoadMovesAwayFromASlowEndpoint(t *testing.T) {
	for name, picker := range map[string]pool.Picker{"LeastLoaded": pool.LeastLoaded{}, "InStep": pool.InStep{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, 8, pool.Config{Picker: picker, Outlier: pool.Outlier{Off: true}})
				pass(time.Second)
				h.set(1, func(s *server) { s.takes = time.Second })
				var group sync.WaitGroup
				for range 5000 {
					group.Go(func() { h.attempt() })
					time.Sleep(time.Millisecond)
				}
				group.Wait()
				if hits := h.look(1).hits; hits > 100 {
					t.Errorf("the endpoint that takes 50 times as long got %d of 5000, want at most 2%%", hits)
				}
			})
		})
	}
}

func TestInStepGivesHealthyEndpointsTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{Picker: pool.InStep{}})
		pass(time.Second)
		h.spread(16)
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

func TestAConnectionThatTakesNothingNewIsNotPicked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		pass(time.Second)
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

func TestOfTwoConnectionsTheOneWithLessToDoIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{Conns: 2})
		pass(time.Second)
		h.set(1, func(s *server) { s.takes = time.Second })
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() { h.attempt() })
			synctest.Wait()
		}
		for i, c := range h.look(1).conns {
			if n := c.State().InFlight; n != 5 {
				t.Errorf("connection %d has %d in flight, want 5", i, n)
			}
		}
		group.Wait()
	})
}

func TestAnEndpointThatFailedThriceIsSparedUntilWhatIsInFlightHasTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 3, pool.Config{})
		pass(time.Second)
		var inFlight []*pool.Lease
		for range 5 {
			inFlight = append(inFlight, h.visit(1))
		}
		for _, l := range inFlight[:3] {
			l.Done(failed)
		}
		if got := h.spread(30); got[addr(1).String()] != 0 {
			t.Errorf("it failed three times in a row and still has two in flight: %v", got)
		}
		inFlight[3].Done(accepted)
		if got := h.spread(30); got[addr(1).String()] != 10 {
			t.Errorf("it has answered again: %v", got)
		}
		inFlight[4].Done(accepted)
	})
}

func TestWhoOwesASignOfLifeIsSparedUntilItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 4, pool.Config{})
		pass(time.Second)
		h.set(1, func(s *server) { s.silent = true })
		h.set(2, func(s *server) { s.silent = true })
		if got := h.spread(30); got[addr(1).String()]+got[addr(2).String()] != 0 {
			t.Errorf("two have fallen silent: %v", got)
		}
		h.set(1, func(s *server) { s.silent = false })
		if got := h.spread(30); got[addr(1).String()] == 0 || got[addr(2).String()] != 0 {
			t.Errorf("one of them has been heard again: %v", got)
		}
		for i := range 4 {
			h.set(i+1, func(s *server) { s.silent = true })
		}
		if got := h.spread(20); len(got) != 4 {
			t.Errorf("all are silent, so none is better: %v", got)
		}
	})
}

func TestADoubtfulEndpointIsUsedWhenThereIsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{})
		pass(time.Second)
		held := h.visit(1)
		for range 3 {
			h.visit(1).Done(failed)
		}
		h.pick().Done(accepted)
		held.Done(accepted)
	})
}

func TestARetryDuringAColdStartWaitsForAnUntriedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 4, pool.Config{})
		for i := 2; i <= 4; i++ {
			h.set(i, func(s *server) { s.dialFor = 300 * time.Millisecond })
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

func TestADeadAddressAmongTheFirstKeepsRetriesWaitingForASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, pool.Config{})
		h.set(2, func(s *server) { s.dialFor = time.Hour })
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
