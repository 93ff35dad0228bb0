// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/pool"
)

// pickN returns a lease for up to n requests without waiting, or fails the test.
func (tp *testPool) pickN(n int, tried ...*pool.Endpoint) *pool.Lease {
	tp.t.Helper()
	ctx, cancel := context.WithTimeout(tp.t.Context(), time.Nanosecond)
	defer cancel()
	lease, err := tp.PickN(ctx, pool.Request{Tried: tried, N: n})
	if err != nil {
		tp.t.Fatalf("PickN(%v, %d) = %v", tried, n, err)
	}
	return lease
}

func (tp *testPool) wantInFlight(want int) {
	tp.t.Helper()
	if got := tp.Status().InFlight; got != want {
		tp.t.Errorf("%d are in flight; want %d", got, want)
	}
}

func TestLeaseSizeIsLimited(t *testing.T) {
	for name, c := range map[string]struct{ maxInFlight, maxStreams, conns, taken, n, want int }{
		"all":                       {maxInFlight: 64, maxStreams: 1000, conns: 1, n: 10, want: 10},
		"by MaxInFlight":            {maxInFlight: 64, maxStreams: 1000, conns: 1, n: 100, want: 64},
		"by the free slots":         {maxInFlight: 64, maxStreams: 1000, conns: 1, taken: 60, n: 10, want: 4},
		"by streams":                {maxInFlight: 64, maxStreams: 7, conns: 1, n: 10, want: 7},
		"by streams of one of two":  {maxInFlight: 64, maxStreams: 7, conns: 2, n: 10, want: 7},
		"by slots, two connections": {maxInFlight: 64, maxStreams: 40, conns: 2, taken: 60, n: 10, want: 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := newTestPool(t, 1, pool.Config{MaxInFlight: c.maxInFlight, ConnsPerEndpoint: c.conns})
				tp.setServer(1, func(s *fakeServer) { s.maxStreams = c.maxStreams })
				tp.run()
				advance(2 * time.Second)
				for range c.taken {
					tp.pick()
				}
				lease := tp.pickN(c.n)
				if lease.Size() != c.want {
					t.Errorf("the lease is for %d; want %d", lease.Size(), c.want)
				}
				tp.wantInFlight(c.taken + c.want)
				for range c.want {
					lease.Done(accepted)
				}
				tp.wantInFlight(c.taken)
			})
		})
	}
}

func TestPlacesAreGivenBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{})
		advance(time.Second)
		lease, other := tp.pickN(5), tp.pick()
		lease.Done(accepted)
		tp.wantInFlight(5)
		lease.Succeeded(2, time.Millisecond)
		tp.wantInFlight(3)
		lease.Succeeded(0, time.Millisecond)
		lease.Succeeded(-1, time.Millisecond)
		tp.wantInFlight(3)
		lease.Succeeded(10, time.Millisecond) // two are left
		tp.wantInFlight(1)
		lease.Done(failed)
		lease.Succeeded(1, time.Millisecond)
		tp.wantInFlight(1)
		if s := tp.endpointStatus(1); s.Successes != 5 || s.Failures != 0 {
			t.Errorf("%d successes and %d failures were recorded; want 5 and 0", s.Successes, s.Failures)
		}
		other.Done(accepted)
	})
}

// If a burst of successes counted only once, few failures would open the breaker.
func TestEachSuccessOfALeaseCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{})
		advance(time.Second)
		for range 4 {
			lease := tp.pickN(20)
			lease.Done(failed)
			lease.Done(failed)
			lease.Succeeded(18, 30*time.Millisecond)
		}
		if s := tp.endpointStatus(1); s.State != "closed" || s.Successes != 72 || s.Failures != 8 {
			t.Errorf("the breaker is %s after %d successes and %d failures; want closed, 72 and 8", s.State, s.Successes, s.Failures)
		}
		advance(time.Second)
		if ms := tp.endpointStatus(1).LatencyMS; ms < 27 || ms > 33 {
			t.Errorf("the latency is %.1f ms; want about 30", ms)
		}
	})
}

func TestProbeIsALeaseForOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		advance(11 * time.Second)
		probe := tp.pickN(10)
		if probe.Endpoint().Addr() != addr(1) || probe.Size() != 1 {
			t.Fatalf("the probe is a lease of %s for %d", probe.Endpoint(), probe.Size())
		}
		if next := tp.pickN(10); next.Endpoint().Addr() != addr(2) || next.Size() != 10 {
			t.Errorf("during the probe, %s was leased for %d", next.Endpoint(), next.Size())
		}
		probe.Succeeded(1, time.Millisecond)
		if s := tp.endpointStatus(1); s.State != "closed" || s.InFlight != 0 {
			t.Errorf("after the probe: %+v", s)
		}
	})
}

// Callers with one request and callers with several are served in the order of their calls.
func TestWaitingForSeveralIsOneWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{MaxInFlight: 8})
		advance(time.Second)
		full := tp.pickN(8)
		sizes := make([]int, 3)
		leases := make([]*pool.Lease, 3)
		for i, n := range []int{20, 1, 3} {
			go func() {
				lease, err := tp.PickN(t.Context(), pool.Request{N: n})
				if err != nil {
					t.Error(err)
					return
				}
				leases[i], sizes[i] = lease, lease.Size()
			}()
			synctest.Wait()
		}
		if n := tp.Status().Waiting; n != 3 {
			t.Fatalf("%d wait; want 3", n)
		}
		for _, step := range []struct {
			succeeded int
			want      string
		}{{5, "[5 0 0]"}, {1, "[5 1 0]"}, {2, "[5 1 2]"}} {
			full.Succeeded(step.succeeded, time.Millisecond)
			synctest.Wait()
			if got := fmt.Sprint(sizes); got != step.want {
				t.Errorf("after %d more successes the leases are for %s; want %s", step.succeeded, got, step.want)
			}
		}
		for i, lease := range leases {
			lease.Succeeded(sizes[i], time.Millisecond)
		}
		tp.wantInFlight(0)
	})
}

// A retry behind first attempts is served if only it can use the free slot.
func TestRetryPassesWaitersThatCannotUseTheSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{MaxInFlight: 1})
		advance(time.Second)
		first, second := tp.pick(), tp.pick()
		served := make(chan string, 3)
		for i, tried := range []pool.Tried{{first.Endpoint()}, {second.Endpoint()}, {first.Endpoint()}} {
			go func() {
				if lease, err := tp.Pick(t.Context(), tried); err == nil {
					served <- fmt.Sprint(i)
					defer lease.Done(accepted)
				}
			}()
			synctest.Wait()
		}
		first.Done(accepted)
		synctest.Wait()
		if len(served) != 1 || <-served != "1" {
			t.Errorf("the retry that may use the free slot was not served")
		}
		second.Done(accepted)
		synctest.Wait()
		if len(served) != 2 || <-served != "0" || <-served != "2" {
			t.Errorf("the other retries were not served in order")
		}
	})
}

// TestLeasesKeepTheLimit takes leases of random sizes from a pool whose endpoints fail, fill up and
// recover, and gives them back in random parts. No endpoint exceeds its limit, every caller gets
// what it needs, and no slot is lost.
func TestLeasesKeepTheLimit(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		endpoints := rapid.IntRange(1, 5).Draw(rt, "endpoints")
		inFlight := rapid.IntRange(1, 8).Draw(rt, "in flight")
		streams := rapid.IntRange(1, 8).Draw(rt, "streams")
		runs := rapid.SliceOfN(rapid.IntRange(1, 20), 1, 30).Draw(rt, "runs")
		fails := rapid.SliceOfN(rapid.IntRange(0, 3), endpoints, endpoints).Draw(rt, "fails") // out of 3
		burst := rapid.IntRange(1, 5).Draw(rt, "burst")
		var violation []string
		synctest.Test(t, func(t *testing.T) {
			tp := newTestPool(t, endpoints, pool.Config{Size: endpoints, MaxInFlight: inFlight})
			for i := range endpoints {
				tp.setServer(i+1, func(s *fakeServer) { s.maxStreams = streams })
			}
			tp.run()
			var group sync.WaitGroup
			for run, n := range runs {
				group.Go(func() {
					for left := n; left > 0; {
						lease, err := tp.PickN(t.Context(), pool.Request{N: left})
						if err != nil {
							t.Error(err)
							return
						}
						if lease.Size() < 1 || lease.Size() > left {
							t.Errorf("a lease for %d of %d", lease.Size(), left)
						}
						left -= lease.Size()
						i := int(lease.Endpoint().Addr().Addr().As4()[3]) - 1
						for held := lease.Size(); held > 0; {
							time.Sleep(10 * time.Millisecond)
							if (run+held)%3 < fails[i] {
								lease.Done(failed)
								held--
							} else {
								lease.Succeeded(min(burst, held), 10*time.Millisecond)
								held -= burst
							}
						}
					}
				})
			}
			for range 20 {
				time.Sleep(7 * time.Millisecond)
				for _, e := range tp.Status().Endpoints {
					if e.InFlight > min(inFlight, streams) {
						violation = append(violation, fmt.Sprintf("%s has %d in flight", e.Address, e.InFlight))
					}
				}
			}
			group.Wait()
			if s := tp.Status(); s.InFlight != 0 || s.Waiting != 0 {
				violation = append(violation, fmt.Sprintf("in the end %d are in flight and %d wait", s.InFlight, s.Waiting))
			}
		})
		if len(violation) > 0 {
			rt.Fatalf("%q", violation)
		}
	})
}
