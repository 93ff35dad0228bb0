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

// A notification that is sent again and again, among many, in a pool whose
// endpoints fail, fill up and come back: its visits must be to different
// endpoints as long as there are such. Nobody joins or leaves, so that the
// number of live endpoints is known.
func TestPickNeverRepeatsEndpointWhileUntriedIsLive(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		endpoints := rapid.IntRange(1, 9).Draw(rt, "endpoints")
		inFlight := rapid.IntRange(1, 4).Draw(rt, "in flight")
		senders := rapid.IntRange(1, 30).Draw(rt, "senders")
		attempts := rapid.IntRange(1, 12).Draw(rt, "attempts")
		fails := rapid.SliceOfN(rapid.IntRange(0, 3), endpoints, endpoints).Draw(rt, "fails") // of 3
		takes := rapid.SliceOfN(rapid.IntRange(0, 50), endpoints, endpoints).Draw(rt, "takes ms")
		picker := rapid.SampledFrom([]pool.Picker{nil, pool.LeastLoaded{}, pool.BoundedRoundRobin{}}).Draw(rt, "picker")
		var wrong []string
		synctest.Test(t, func(t *testing.T) {
			h := startPool(t, endpoints, pool.Config{Size: endpoints, MaxInFlight: inFlight, Picker: picker})
			advance(time.Second)
			var mu sync.Mutex
			var group sync.WaitGroup
			for sender := range senders {
				group.Go(func() {
					var tried pool.Tried
					for attempt := range attempts {
						lease, err := h.Pick(t.Context(), tried)
						if err != nil {
							t.Error(err)
							return
						}
						if attempt < endpoints && tried.Has(lease.Endpoint()) {
							mu.Lock()
							wrong = append(wrong, fmt.Sprintf("sender %d, attempt %d: %s after %v", sender, attempt, lease.Endpoint(), tried))
							mu.Unlock()
						}
						tried = append(tried, lease.Endpoint())
						i := int(lease.Endpoint().Addr().Addr().As4()[3]) - 1
						time.Sleep(time.Duration(takes[i]) * time.Millisecond)
						if (sender+attempt)%3 < fails[i] {
							lease.Done(failed)
						} else {
							lease.Done(accepted)
						}
					}
				})
			}
			group.Wait()
			if s := h.Status(); s.InFlight != 0 || s.Waiting != 0 {
				wrong = append(wrong, fmt.Sprintf("in the end %d are in flight and %d wait", s.InFlight, s.Waiting))
			}
		})
		if len(wrong) > 0 {
			rt.Fatalf("%q", wrong)
		}
	})
}

// Whatever befalls connections, DNS and breakers: the pool never holds more
// than its size, an address is held once, the dial budget is kept, no place is
// lost, and it heals once the service does.
func TestPoolInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 6).Draw(rt, "size")
		conns := rapid.IntRange(1, 2).Draw(rt, "conns")
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 40).Draw(rt, "steps")
		var wrong string
		synctest.Test(t, func(t *testing.T) {
			h := startPool(t, 8, pool.Config{Size: size, ConnsPerEndpoint: conns, MaxInFlight: 3, MaxAge: time.Minute, Breaker: pool.Breaker{MaxEjectionTime: time.Minute}})
			for _, s := range steps {
				h.apply(s)
				advance(s.wait)
				if wrong = h.brokenInvariant(size, conns); wrong != "" {
					wrong += "\n" + h.eventLog()
					return
				}
			}
			if wrong = h.checkRecovery(size); wrong != "" {
				wrong += "\n" + h.eventLog()
			}
		})
		if wrong != "" {
			rt.Fatal(wrong)
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
		kind: rapid.SampledFrom([]string{"send", "send", "goaway", "die", "refuse", "answer", "fail", "well", "dns", "nothing"}).Draw(rt, "kind"),
		i:    rapid.IntRange(1, 8).Draw(rt, "server"),
		n:    rapid.IntRange(1, 8).Draw(rt, "n"),
		wait: time.Duration(rapid.SampledFrom([]int{0, 1, 100, 1000, 7000, 20000}).Draw(rt, "wait ms")) * time.Millisecond,
	}
}

// apply makes a step happen.
func (h *testPool) apply(s step) {
	switch s.kind {
	case "send":
		for range s.n * 3 {
			go func() {
				ctx, cancel := context.WithTimeout(h.t.Context(), 10*time.Second)
				defer cancel()
				lease, err := h.Pick(ctx, nil)
				if err != nil {
					return
				}
				lease.Done(outcomeOf(lease.Do(ctx, request)))
			}()
		}
	case "goaway", "die":
		if conns := h.serverCopy(s.i).conns; len(conns) > 0 {
			if c := conns[len(conns)-1]; s.kind == "die" {
				c.disconnect()
			} else {
				c.goAway()
			}
		}
	case "refuse":
		h.setServer(s.i, func(s *fakeServer) { s.dialErr = errCut })
	case "answer":
		h.setServer(s.i, func(s *fakeServer) { s.dialErr = nil })
	case "fail":
		h.setServer(s.i, func(s *fakeServer) { s.status = 500 })
	case "well":
		h.setServer(s.i, func(s *fakeServer) { s.status = 200 })
	case "dns":
		h.mu.Lock()
		h.addrs = slices.Concat(addrs(s.i, 8), []netip.AddrPort{addr(s.n)})
		h.mu.Unlock()
	}
}

// brokenInvariant says which promise is.
func (h *testPool) brokenInvariant(size, conns int) string {
	s := h.Status()
	seen := map[string]bool{}
	for _, e := range append(s.Endpoints, s.Spares...) {
		if seen[e.Address] {
			return e.Address + " is held twice"
		}
		seen[e.Address] = true
		if e.Connections > conns || e.InFlight > 3 {
			return fmt.Sprintf("%s has %d connections and %d in flight", e.Address, e.Connections, e.InFlight)
		}
	}
	if len(s.Endpoints) > size {
		return fmt.Sprintf("the pool of %d holds %d", size, len(s.Endpoints))
	}
	return h.checkDialBudget(size, conns)
}

// checkDialBudget says whether the dials are more than the pool's size, what was
// replaced, and one for each place in ten seconds.
func (h *testPool) checkDialBudget(size, conns int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	replaced := 0
	for _, e := range h.events {
		switch e.Kind {
		case pool.EventGoAway, pool.EventConnLost, pool.EventConnClosed, pool.EventEjected:
			replaced++
		}
	}
	age := time.Since(bubbleStart)
	allowed := size*conns + replaced + size*(1+int(age/(10*time.Second)))
	dials := 0
	for _, s := range h.servers {
		dials += len(s.dials)
	}
	if dials > allowed {
		return fmt.Sprintf("%d dials in %s, %d allowed, for %d were replaced", dials, age, allowed, replaced)
	}
	return ""
}

// bubbleStart is when every bubble begins.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// checkRecovery makes the service well and says what the pool still lacks afterwards.
func (h *testPool) checkRecovery(size int) string {
	for i := 1; i <= 8; i++ {
		h.setServer(i, func(s *fakeServer) { s.status, s.dialErr = 200, nil })
	}
	h.mu.Lock()
	h.addrs = addrs(1, 8)
	h.mu.Unlock()
	for range 20 {
		advance(16 * time.Second)
		h.apply(step{kind: "send", n: 8})
	}
	advance(15 * time.Second)
	s := h.Status()
	if len(s.Endpoints) != size || s.InFlight != 0 || s.Waiting != 0 || !s.Ready || s.Panic {
		return fmt.Sprintf("five minutes after the service is well: %+v", s)
	}
	for _, e := range s.Endpoints {
		if e.State != "closed" || e.Connections == 0 {
			return fmt.Sprintf("five minutes after the service is well: %+v", e)
		}
	}
	return ""
}
