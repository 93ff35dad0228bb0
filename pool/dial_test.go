// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

var errRefused = errors.New("connection refused")

func TestPickUsesOnlyConnectedEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 10, pool.Config{})
		h.setServer(2, func(s *fakeServer) { s.dialErr = errRefused })
		h.setServer(5, func(s *fakeServer) { s.dialDelay, s.dialErr = 5*time.Second, errRefused })
		h.run()
		advance(300 * time.Millisecond)
		for range 1000 {
			began := time.Now()
			lease := h.pick()
			lease.Done(accepted)
			if i := lease.Endpoint().Addr(); i == addr(2) || i == addr(5) || time.Since(began) > 0 {
				t.Fatalf("a request waited %s for %s", time.Since(began), lease.Endpoint())
			}
		}
		advance(30 * time.Second)
		h.wantMembers(1, 3, 4, 6, 7, 8, 9, 10)
	})
}

func TestRedialDelayDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 8, pool.Config{})
		h.setServer(2, func(s *fakeServer) { s.dialErr = errRefused })
		h.run()
		advance(5 * time.Minute)
		dials := h.serverCopy(2).dials
		if len(dials) < 6 || len(dials) > 8 {
			t.Errorf("it was dialled %d times in five minutes, want at most 8", len(dials))
		}
		for i, want := 1, 5*time.Second; i < len(dials); i, want = i+1, 2*want {
			if gap := dials[i].Sub(dials[i-1]); gap < want || gap > want+2*time.Second {
				t.Errorf("dial %d came after %s, want %s", i, gap, want)
			}
		}
		if s := h.endpointStatus(2); s.RedialAt == nil {
			t.Errorf("Status does not say when it is dialled again: %+v", s)
		}
		h.setServer(2, func(s *fakeServer) { s.dialErr = nil })
		advance(6 * time.Minute)
		h.wantMembers(1, 2, 3, 4, 5, 6, 7, 8)
	})
}

func TestDialBudgetLimitsDialsToDeadAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 200, pool.Config{})
		for i := 1; i <= 200; i++ {
			h.setServer(i, func(s *fakeServer) { s.dialErr = errRefused })
		}
		h.run()
		for range 60 {
			advance(time.Second)
			if wrong := h.checkDialBudget(8, 1); wrong != "" {
				t.Fatal(wrong)
			}
		}
		if err := h.Ready(); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Ready() = %v, want the reason", err)
		}
	})
}

func TestGoAwayCostsOneDialAndNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{MaxInFlight: 200})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.latency = 500 * time.Millisecond })
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				if _, o := h.attempt(); o.Verdict != push.Accepted {
					t.Errorf("what was in flight ended as %+v", o)
				}
			})
		}
		synctest.Wait()
		old := h.lastConn(1)
		old.goAway()
		began := time.Now()
		_, o := h.attempt()
		if took := time.Since(began); o.Verdict != push.Accepted || took != 530*time.Millisecond {
			t.Errorf("the next attempt ended after %s: %+v; want one dial (30ms) and one answer (500ms)\n%s", took, o, h.eventLog())
		}
		group.Wait()
		advance(time.Minute)
		if n := h.dialCount(); n != 2 {
			t.Errorf("%d dials, want 2\n%s", n, h.eventLog())
		}
		if h.countEvents(pool.EventGoAway) != 1 || h.countEvents(pool.EventConnLost) != 0 {
			t.Errorf("the story is told wrongly:\n%s", h.eventLog())
		}
	})
}

func TestLostConnectionIsReplacedWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.lastConn(1).disconnect()
		advance(50 * time.Millisecond)
		if s := h.endpointStatus(1); s.Connections != 1 {
			t.Errorf("50ms later it is %+v", s)
		}
		h.setServer(2, func(s *fakeServer) { s.latency = time.Minute })
		h.lastConn(2).holdRequest()
		h.lastConn(2).goAway()
		advance(1100 * time.Millisecond)
		if s := h.endpointStatus(2); s.Connections != 1 {
			t.Errorf("a GOAWAY in a quiet pool was not noticed: %+v", s)
		}
		if n := h.dialCount(); n != 4 {
			t.Errorf("%d dials, want 4", n)
		}
	})
}

func TestUnreachableMemberIsReplacedBySpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{Size: 2})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.dialErr = errRefused })
		h.lastConn(1).disconnect()
		advance(200 * time.Millisecond)
		h.wantMembers(2, 3)
	})
}

func TestGoAwayStormCostsOneDialPerEndpointPerTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		for range 600 { // a minute in which no connection lives longer than 100ms
			for i := 1; i <= 8; i++ {
				h.lastConn(i).goAway()
			}
			advance(100 * time.Millisecond)
		}
		for i := 1; i <= 8; i++ {
			if n := len(h.serverCopy(i).dials); n > 9 {
				t.Errorf("endpoint %d was dialled %d times in a minute", i, n)
			}
		}
		if wrong := h.checkDialBudget(8, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}

func TestRepeatedGoAwayWavesKeepOneEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		wave := func() {
			for i := 1; i <= 8; i++ {
				h.lastConn(i).goAway()
			}
		}
		for range 3 { // within four seconds
			wave()
			began := time.Now()
			if _, o := h.attempt(); o.Verdict != push.Accepted || time.Since(began) > 200*time.Millisecond {
				t.Errorf("an attempt ended after %v: %+v\n%s", time.Since(began), o, h.eventLog())
			}
			advance(2 * time.Second)
		}
		if n := h.dialCount(); n != 8+8+2 {
			t.Errorf("%d dials, want those of the start and of the first wave, and one for each further wave\n%s", n, h.eventLog())
		}
		advance(20 * time.Second)
		h.wantMembers(1, 2, 3, 4, 5, 6, 7, 8)
		if wrong := h.checkDialBudget(8, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}

func TestRescueIsRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 1, pool.Config{})
		advance(time.Second)
		for range 60 {
			h.lastConn(1).goAway()
			advance(time.Second)
		}
		if n := h.dialCount(); n > 1+1+6+1 {
			t.Errorf("%d dials in a minute", n)
		}
	})
}

func TestCloseConnectionOutcomeDrainsOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		spoilt := h.lastConn(1)
		o := push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeConnection, Reason: "InternalServerError", CloseConnection: true}
		leases := h.pickMany(1, 10) // all on that connection
		for _, l := range leases {
			l.Done(o)
		}
		if !spoilt.State().Draining {
			t.Error("the connection is not drained")
		}
		for range 10 {
			if l := h.pick(); l.Endpoint().Addr() == addr(1) {
				t.Error("the endpoint was picked without a connection")
			}
		}
		advance(50 * time.Millisecond)
		h.pickEndpoint(1).Done(accepted)
		if n := len(h.serverCopy(1).dials); n != 2 {
			t.Errorf("ten such answers cost %d dials, want one", n-1)
		}
	})
}

func TestEndpointFaultKeepsConnectionUntilEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		sick := h.lastConn(1)
		o := push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint, Reason: "InternalServerError", CloseConnection: true}
		for range 4 {
			h.pickEndpoint(1).Done(o)
			if sick.State().Draining {
				t.Fatal("the connection is drained before the breaker has opened")
			}
		}
		h.pickEndpoint(1).Done(o)
		if !sick.State().Draining {
			t.Error("the ejected endpoint keeps the connection that was called spoilt")
		}
	})
}

func TestFailedProbeReplacesConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.eject(1)
		advance(12 * time.Second)
		h.pickEndpoint(1).Done(failed)
		advance(time.Second)
		if n := len(h.serverCopy(1).dials); n != 2 || h.endpointStatus(1).Connections != 1 {
			t.Errorf("after the failed probe: %d dials, %+v", n, h.endpointStatus(1))
		}
	})
}

func TestUnneededConnectionIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 3, pool.Config{Size: 2})
		h.setServer(3, func(s *fakeServer) { s.dialDelay = 14 * time.Second })
		h.run()
		advance(time.Second)
		h.eject(1)
		advance(12 * time.Second)
		h.pickEndpoint(1).Done(accepted) // it has healed before 3 is there
		advance(10 * time.Second)
		h.wantMembers(1, 2)
		if c := h.lastConn(3); !c.State().Draining {
			t.Error("the connection that is not needed is kept")
		}
	})
}

func TestHangingDialTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 1, pool.Config{})
		h.setServer(1, func(s *fakeServer) { s.dialDelay = time.Hour })
		h.run()
		advance(time.Minute)
		if h.countEvents(pool.EventDialFailed) == 0 {
			t.Error("after a minute nobody has given up")
		}
	})
}

func TestReplacedEndpointKeepsBreakerState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{Size: 1})
		advance(time.Second)
		h.eject(1)
		advance(time.Second)
		h.wantMembers(2)
		h.eject(2) // now 1 may come back, when its time is up
		advance(11 * time.Second)
		h.wantMembers(1)
		if s := h.endpointStatus(1); s.State != "half-open" {
			t.Errorf("it came back %s", s.State)
		}
		h.pick().Done(failed)
		if until := h.endpointStatus(1).EjectedUntil; until == nil || time.Until(*until) != 20*time.Second {
			t.Errorf("its second ejection ends %v, want in 20s", until)
		}
	})
}

func TestConnectionEndIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{})
		advance(time.Second)
		for i := 1; i <= 4; i++ {
			h.lastConn(i).disconnect()
		}
		advance(time.Second)
		h.mu.Lock()
		defer h.mu.Unlock()
		n := 0
		for _, e := range h.events {
			if slices.Contains([]pool.EventKind{pool.EventConnLost, pool.EventGoAway, pool.EventConnClosed}, e.Kind) {
				n++
			}
		}
		if n != 4 {
			t.Errorf("four connections ended, told %d times", n)
		}
	})
}

func TestLostConnectionIsReplacedWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestPool(t, 60, pool.Config{})
		for i := 8; i <= 60; i++ {
			h.setServer(i, func(s *fakeServer) { s.dialErr = errRefused })
		}
		h.run()
		advance(2 * time.Second)
		for i := 1; i <= 7; i++ {
			h.lastConn(i).disconnect()
		}
		advance(100 * time.Millisecond)
		for i := 1; i <= 7; i++ {
			if s := h.endpointStatus(i); s.Connections != 1 {
				t.Errorf("endpoint %d waits for the budget: %+v", i, s)
			}
		}
		if wrong := h.checkDialBudget(8, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}

func TestEjectedEndpointDoesNotReplaceMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{Size: 1})
		advance(time.Second)
		leases := h.pickMany(1, 5)
		h.setServer(1, func(s *fakeServer) { s.dialDelay = 3 * time.Second })
		h.lastConn(1).disconnect() // and is being dialled again
		synctest.Wait()
		for _, l := range leases {
			l.Done(failed)
		}
		advance(time.Second)
		h.wantMembers(2)
		h.eject(2)
		advance(5 * time.Second) // the connection to 1 stands
		h.wantMembers(2)
		if conns := h.endpointStatus(1).Connections; conns != 0 {
			t.Errorf("the ejected one keeps %d connections", conns)
		}
	})
}

func TestEjectedEndpointIsReplacedWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 9, pool.Config{Size: 1})
		advance(100 * time.Millisecond)
		for i := 1; i <= 8; i++ {
			h.eject(i)
			advance(100 * time.Millisecond)
			h.wantMembers(i + 1)
		}
		if wrong := h.checkDialBudget(1, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}
