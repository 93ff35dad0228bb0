// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/pool"
)

// TestPickNeverRepeatsEndpointWhileUntriedIsLive sends many notifications repeatedly through a pool
// whose endpoints fail, fill up and recover. As long as there are untried endpoints, each attempt
// of a notification must use one. Membership does not change, so the number of live endpoints is
// known.
func TestPickNeverRepeatsEndpointWhileUntriedIsLive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		endpoints := rapid.IntRange(1, 9).Draw(rt, "endpoints")
		inFlight := rapid.IntRange(1, 4).Draw(rt, "in flight")
		senders := rapid.IntRange(1, 30).Draw(rt, "senders")
		attempts := rapid.IntRange(1, 12).Draw(rt, "attempts")
		fails := rapid.SliceOfN(rapid.IntRange(0, 3), endpoints, endpoints).Draw(rt, "fails") // out of 3
		latencies := rapid.SliceOfN(rapid.IntRange(0, 50), endpoints, endpoints).Draw(rt, "latency ms")
		picker := rapid.SampledFrom([]pool.Picker{nil, pool.LeastLoaded{}, pool.BoundedRoundRobin{}}).Draw(rt, "picker")
		var violation []string
		synctest.Test(t, func(t *testing.T) {
			tp := startPool(t, endpoints, pool.Config{Size: endpoints, MaxInFlight: inFlight, Picker: picker})
			advance(time.Second)
			var mu sync.Mutex
			var group sync.WaitGroup
			for sender := range senders {
				group.Go(func() {
					var tried pool.Tried
					for attempt := range attempts {
						lease, err := tp.Pick(t.Context(), tried)
						if err != nil {
							t.Error(err)
							return
						}
						if attempt < endpoints && tried.Has(lease.Endpoint()) {
							mu.Lock()
							violation = append(violation, fmt.Sprintf("sender %d, attempt %d: %s after %v", sender, attempt, lease.Endpoint(), tried))
							mu.Unlock()
						}
						tried = append(tried, lease.Endpoint())
						i := int(lease.Endpoint().Addr().Addr().As4()[3]) - 1
						time.Sleep(time.Duration(latencies[i]) * time.Millisecond)
						if (sender+attempt)%3 < fails[i] {
							lease.Done(failed)
						} else {
							lease.Done(accepted)
						}
					}
				})
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

// TestPoolInvariants applies random events to connections, DNS and breakers. The pool never exceeds
// its size, contains each address once, keeps within the dial budget, loses no slot, and recovers
// when the service does.
func TestPoolInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 6).Draw(rt, "size")
		conns := rapid.IntRange(1, 2).Draw(rt, "conns")
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 40).Draw(rt, "steps")
		var violation string
		synctest.Test(t, func(t *testing.T) {
			tp := startPool(t, 8, pool.Config{Size: size, ConnsPerEndpoint: conns, MaxInFlight: 3, MaxAge: time.Minute, Breaker: pool.Breaker{MaxEjectionTime: time.Minute}})
			for _, s := range steps {
				tp.apply(s)
				advance(s.wait)
				if violation = tp.brokenInvariant(size, conns); violation != "" {
					violation += "\n" + tp.eventLog()
					return
				}
			}
			if violation = tp.checkRecovery(size); violation != "" {
				violation += "\n" + tp.eventLog()
			}
		})
		if violation != "" {
			rt.Fatal(violation)
		}
	})
}

type step struct {
	kind string
	i, n int
	wait time.Duration
}

func drawStep(rt *rapid.T) step {
	return step{
		kind: rapid.SampledFrom([]string{"send", "send", "goaway", "disconnect", "refuse dials", "accept dials", "fail", "recover", "dns", "nothing"}).Draw(rt, "kind"),
		i:    rapid.IntRange(1, 8).Draw(rt, "server"),
		n:    rapid.IntRange(1, 8).Draw(rt, "n"),
		wait: time.Duration(rapid.SampledFrom([]int{0, 1, 100, 1000, 7000, 20000}).Draw(rt, "wait ms")) * time.Millisecond,
	}
}

// apply executes one step.
func (tp *testPool) apply(s step) {
	switch s.kind {
	case "send":
		for range s.n * 3 {
			go func() {
				ctx, cancel := context.WithTimeout(tp.t.Context(), 10*time.Second)
				defer cancel()
				lease, err := tp.Pick(ctx, nil)
				if err != nil {
					return
				}
				lease.Done(outcomeOf(lease.Do(ctx, request)))
			}()
		}
	case "goaway", "disconnect":
		if conns := tp.serverCopy(s.i).conns; len(conns) > 0 {
			if c := conns[len(conns)-1]; s.kind == "disconnect" {
				c.disconnect()
			} else {
				c.goAway()
			}
		}
	case "refuse dials":
		tp.setServer(s.i, func(s *fakeServer) { s.dialErr = errCut })
	case "accept dials":
		tp.setServer(s.i, func(s *fakeServer) { s.dialErr = nil })
	case "fail":
		tp.setServer(s.i, func(s *fakeServer) { s.status = 500 })
	case "recover":
		tp.setServer(s.i, func(s *fakeServer) { s.status = 200 })
	case "dns":
		tp.mu.Lock()
		tp.addrs = slices.Concat(addrs(s.i, 8), []netip.AddrPort{addr(s.n)})
		tp.mu.Unlock()
	}
}

// brokenInvariant describes the invariant that is violated, or returns "".
func (tp *testPool) brokenInvariant(size, conns int) string {
	s := tp.Status()
	seen := map[string]bool{}
	for _, e := range append(s.Endpoints, s.Spares...) {
		if seen[e.Address] {
			return e.Address + " appears twice"
		}
		seen[e.Address] = true
		if e.Connections > conns || e.InFlight > 3 {
			return fmt.Sprintf("%s has %d connections and %d in flight", e.Address, e.Connections, e.InFlight)
		}
	}
	if len(s.Endpoints) > size {
		return fmt.Sprintf("the pool of size %d has %d endpoints", size, len(s.Endpoints))
	}
	return tp.checkDialBudget(size, conns)
}

// checkDialBudget checks that the dials do not exceed the pool's size, plus one for each
// replacement, plus one per slot every ten seconds. It returns a description of the violation, or
// "".
func (tp *testPool) checkDialBudget(size, conns int) string {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	replacements := 0
	for _, e := range tp.events {
		switch e.Kind {
		case pool.EventGoAway, pool.EventConnLost, pool.EventConnClosed, pool.EventEjected:
			replacements++
		}
	}
	elapsed := time.Since(bubbleStart)
	allowed := size*conns + replacements + size*(1+int(elapsed/(10*time.Second)))
	dials := 0
	for _, s := range tp.servers {
		dials += len(s.dials)
	}
	if dials > allowed {
		return fmt.Sprintf("%d dials in %s; %d are allowed, with %d replacements", dials, elapsed, allowed, replacements)
	}
	return ""
}

// bubbleStart is the initial time in every synctest bubble.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// checkRecovery makes the service healthy and returns a description of what the pool still lacks
// five minutes later, or "".
func (tp *testPool) checkRecovery(size int) string {
	for i := 1; i <= 8; i++ {
		tp.setServer(i, func(s *fakeServer) { s.status, s.dialErr = 200, nil })
	}
	tp.mu.Lock()
	tp.addrs = addrs(1, 8)
	tp.mu.Unlock()
	for range 20 {
		advance(16 * time.Second)
		tp.apply(step{kind: "send", n: 8})
	}
	advance(15 * time.Second)
	s := tp.Status()
	if len(s.Endpoints) != size || s.InFlight != 0 || s.Waiting != 0 || !s.Ready || s.Panic {
		return fmt.Sprintf("five minutes after the service recovered: %+v", s)
	}
	for _, e := range s.Endpoints {
		if e.State != "closed" || e.Connections == 0 {
			return fmt.Sprintf("five minutes after the service recovered: %+v", e)
		}
	}
	return ""
}
