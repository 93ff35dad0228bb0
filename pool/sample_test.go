// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// A pool with more endpoints than a picker compares stays even too, also with retries.
func TestLargePoolStaysEven(t *testing.T) {
	for name, picker := range map[string]pool.Picker{"RoundRobin": pool.RoundRobin{}, "BoundedRoundRobin": pool.BoundedRoundRobin{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size, rounds = 50, 40
				tp := startPool(t, size, pool.Config{Size: size, Picker: picker})
				advance(time.Second)
				got := map[string]int{}
				for range size * rounds {
					lease := tp.pick()
					got[lease.Endpoint().String()]++
					lease.Done(accepted)
					if lease.Endpoint().Addr() == addr(1) {
						second := tp.pick(lease.Endpoint())
						got[second.Endpoint().String()]++
						second.Done(accepted)
					}
				}
				minCount, maxCount := size*rounds, 0
				for i := range size {
					n := got[addr(i+1).String()]
					minCount, maxCount = min(minCount, n), max(maxCount, n)
				}
				t.Logf("%d to %d picks", minCount, maxCount)
				if maxCount-minCount > 3 {
					t.Errorf("the endpoints got between %d and %d picks of %d each", minCount, maxCount, rounds)
				}
			})
		})
	}
}

// countingPicker counts the candidates of its last pick.
type countingPicker struct{ candidates *atomic.Int32 }

func (c countingPicker) Pick(candidates []*pool.Endpoint) *pool.Endpoint {
	c.candidates.Store(int32(len(candidates)))
	return candidates[0]
}

func TestCustomPickerGetsAllCandidates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		picker := countingPicker{new(atomic.Int32)}
		tp := startPool(t, 30, pool.Config{Size: 30, Picker: picker})
		advance(time.Second)
		first := tp.pick()
		if n := picker.candidates.Load(); n != 30 {
			t.Errorf("the picker got %d candidates; want 30", n)
		}
		tp.pick(first.Endpoint())
		if n := picker.candidates.Load(); n != 29 {
			t.Errorf("the picker got %d candidates for a retry; want 29", n)
		}
	})
}

// The last free slot, the last untried endpoint and the last one that is not suspect are found
// wherever they are.
func TestLargePoolFindsTheOnlyEndpoint(t *testing.T) {
	const size = 30
	start := func(t *testing.T, maxInFlight int) *testPool {
		tp := startPool(t, size, pool.Config{Size: size, MaxInFlight: maxInFlight})
		advance(time.Second)
		return tp
	}
	t.Run("with a free slot", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tp := start(t, 1)
			var leases []*pool.Lease
			for range size {
				leases = append(leases, tp.pick())
			}
			for _, lease := range leases {
				lease.Done(accepted)
				if got := tp.pick(); got.Endpoint() != lease.Endpoint() {
					t.Fatalf("picked %s; only %s was free", got.Endpoint(), lease.Endpoint())
				}
			}
		})
	})
	t.Run("untried", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tp := start(t, 0)
			var tried pool.Tried
			for range size {
				lease := tp.pick(tried...)
				if tried.Has(lease.Endpoint()) {
					t.Fatalf("%s was picked again after %d of %d endpoints", lease.Endpoint(), len(tried), size)
				}
				tried = append(tried, lease.Endpoint())
				lease.Done(accepted)
			}
		})
	})
	t.Run("not suspect", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tp := start(t, 0)
			for i := range size {
				tp.setServer(i+1, func(s *fakeServer) { s.pingPending = i != 17 })
			}
			for range size {
				lease := tp.pick()
				if lease.Endpoint().Addr() != addr(18) {
					t.Fatalf("%s was picked although it has a pending ping", lease.Endpoint())
				}
				lease.Done(accepted)
			}
		})
	})
}

// A change is seen by the next pick: an ejection, its end, a lost connection and a new member.
func TestChangeIsSeenByTheNextPick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{Size: 3})
		advance(time.Second)
		tp.eject(1)
		if got := tp.countPicks(9); got[addr(1).String()] != 0 || len(got) != 2 {
			t.Errorf("after an ejection: %v", got)
		}
		advance(11 * time.Second)
		probe := tp.pick()
		if probe.Endpoint().Addr() != addr(1) {
			t.Errorf("the probe went to %s", probe.Endpoint())
		}
		probe.Done(accepted)
		if got := tp.countPicks(9); len(got) != 3 {
			t.Errorf("after the probe: %v", got)
		}
		tp.setServer(2, func(s *fakeServer) { s.dialErr = errCut })
		tp.lastConn(2).disconnect()
		synctest.Wait()
		if got := tp.countPicks(9); got[addr(2).String()] != 0 || len(got) != 2 {
			t.Errorf("after a lost connection: %v", got)
		}
		tp.setServer(2, func(s *fakeServer) { s.dialErr = nil })
		advance(20 * time.Second)
		if got := tp.countPicks(9); len(got) != 3 {
			t.Errorf("after it has connected again: %v", got)
		}
		tp.setServer(2, func(s *fakeServer) { s.dialErr = errCut })
		tp.lastConn(2).disconnect()
		synctest.Wait()
		tp.setAddrs(addrs(1, 4)...)
		if got := tp.countPicks(9); got[addr(4).String()] == 0 {
			t.Errorf("after a new member joined: %v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		for i := range 4 {
			tp.setServer(i+1, func(s *fakeServer) { s.dialErr = errCut })
			tp.lastConn(i + 1).disconnect()
		}
		synctest.Wait()
		if lease, err := tp.Pick(ctx, nil); err == nil {
			t.Errorf("%s was picked without a connection", lease.Endpoint())
		}
	})
}
