// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"errors"
	"fmt"
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
		tp := newTestPool(t, 10, pool.Config{})
		tp.setServer(2, func(s *fakeServer) { s.dialErr = errRefused })
		tp.setServer(5, func(s *fakeServer) { s.dialDelay, s.dialErr = 5*time.Second, errRefused })
		tp.run()
		advance(300 * time.Millisecond)
		for range 1000 {
			start := time.Now()
			lease := tp.pick()
			lease.Done(accepted)
			if i := lease.Endpoint().Addr(); i == addr(2) || i == addr(5) || time.Since(start) > 0 {
				t.Fatalf("a request waited %s for %s", time.Since(start), lease.Endpoint())
			}
		}
		advance(30 * time.Second)
		tp.wantMembers(1, 3, 4, 6, 7, 8, 9, 10)
	})
}

func TestRedialDelayDoubles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 8, pool.Config{})
		tp.setServer(2, func(s *fakeServer) { s.dialErr = errRefused })
		tp.run()
		advance(5 * time.Minute)
		dials := tp.serverCopy(2).dials
		if len(dials) < 6 || len(dials) > 8 {
			t.Errorf("%d dials in five minutes; want 6 to 8", len(dials))
		}
		for i, want := 1, 5*time.Second; i < len(dials); i, want = i+1, 2*want {
			if gap := dials[i].Sub(dials[i-1]); gap < want || gap > want+2*time.Second {
				t.Errorf("dial %d came after %s; want %s", i, gap, want)
			}
		}
		if s := tp.endpointStatus(2); s.RedialAt == nil {
			t.Errorf("Status does not contain the time of the next dial: %+v", s)
		}
		tp.setServer(2, func(s *fakeServer) { s.dialErr = nil })
		advance(6 * time.Minute)
		tp.wantMembers(1, 2, 3, 4, 5, 6, 7, 8)
	})
}

func TestDialBudgetLimitsDialsToDeadAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 200, pool.Config{})
		for i := 1; i <= 200; i++ {
			tp.setServer(i, func(s *fakeServer) { s.dialErr = errRefused })
		}
		tp.run()
		for range 60 {
			advance(time.Second)
			if violation := tp.checkDialBudget(8, 1); violation != "" {
				t.Fatal(violation)
			}
		}
		if err := tp.Ready(); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Ready() = %v; want the dial error", err)
		}
	})
}

func TestGoAwayCostsOneDialAndNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{MaxInFlight: 200})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.latency = 500 * time.Millisecond })
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				if _, o := tp.attempt(); o.Verdict != push.Accepted {
					t.Errorf("a request in flight ended as %+v", o)
				}
			})
		}
		synctest.Wait()
		old := tp.lastConn(1)
		old.goAway()
		start := time.Now()
		_, o := tp.attempt()
		if took := time.Since(start); o.Verdict != push.Accepted || took != 530*time.Millisecond {
			t.Errorf("the next attempt ended after %s: %+v; want one dial (30ms) and one response (500ms)\n%s", took, o, tp.eventLog())
		}
		group.Wait()
		advance(time.Minute)
		if n := tp.dialCount(); n != 2 {
			t.Errorf("%d dials; want 2\n%s", n, tp.eventLog())
		}
		if tp.countEvents(pool.EventGoAway) != 1 || tp.countEvents(pool.EventConnLost) != 0 {
			t.Errorf("want one go_away event and no lost event:\n%s", tp.eventLog())
		}
	})
}

func TestLostConnectionIsReplacedWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.lastConn(1).disconnect()
		advance(50 * time.Millisecond)
		if s := tp.endpointStatus(1); s.Connections != 1 {
			t.Errorf("50ms later the endpoint is %+v", s)
		}
		tp.setServer(2, func(s *fakeServer) { s.latency = time.Minute })
		tp.lastConn(2).holdRequest()
		tp.lastConn(2).goAway()
		advance(1100 * time.Millisecond)
		if s := tp.endpointStatus(2); s.Connections != 1 {
			t.Errorf("a GOAWAY on an idle pool was not detected: %+v", s)
		}
		if n := tp.dialCount(); n != 4 {
			t.Errorf("%d dials; want 4", n)
		}
	})
}

func TestUnreachableMemberIsReplacedBySpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{Size: 2})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.dialErr = errRefused })
		tp.lastConn(1).disconnect()
		advance(200 * time.Millisecond)
		tp.wantMembers(2, 3)
	})
}

func TestGoAwayStormCostsOneDialPerEndpointPerTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		for range 600 { // for a minute no connection lives longer than 100ms
			for i := 1; i <= 8; i++ {
				tp.lastConn(i).goAway()
			}
			advance(100 * time.Millisecond)
		}
		for i := 1; i <= 8; i++ {
			if n := len(tp.serverCopy(i).dials); n > 9 {
				t.Errorf("endpoint %d was dialed %d times in a minute", i, n)
			}
		}
		if violation := tp.checkDialBudget(8, 1); violation != "" {
			t.Error(violation)
		}
	})
}

// TestGoAwayAfterUsefulWorkIsReplacedImmediately: a proxy closes each connection with GOAWAY after a
// number of requests, several times a second.
func TestGoAwayAfterUsefulWorkIsReplacedImmediately(t *testing.T) {
	for _, every := range []int{10, 100, 1000} {
		t.Run(fmt.Sprint(every), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := newTestPool(t, 8, pool.Config{})
				for i := 1; i <= 8; i++ {
					tp.setServer(i, func(s *fakeServer) { s.goAwayEvery = every })
				}
				tp.run()
				advance(time.Second)
				var group sync.WaitGroup
				for range 20_000 { // 1000 a second, so each connection lives 80 ms to 8 s
					group.Go(func() {
						start := time.Now()
						for _, o := tp.attempt(); o.Verdict != push.Accepted; _, o = tp.attempt() {
							if o.Verdict != push.Unsent {
								t.Errorf("an attempt ended as %+v", o)
								return
							}
						}
						if took := time.Since(start); took > 60*time.Millisecond {
							t.Errorf("a request took %s; want at most a dial (30ms) and a response (20ms)", took)
						}
					})
					time.Sleep(time.Millisecond)
				}
				group.Wait()
				if n, want := tp.dialCount(), 8+20_000/every; n > want {
					t.Errorf("%d dials; want at most %d", n, want)
				}
			})
		})
	}
}

func TestReplacementWaitsAfterUselessConnection(t *testing.T) {
	for name, c := range map[string]struct {
		goAwayEvery int
		goAwayError bool
	}{
		"few requests":  {9, false},
		"with an error": {100, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := newTestPool(t, 2, pool.Config{}) // the other endpoint keeps rescue out
				tp.setServer(1, func(s *fakeServer) { s.goAwayEvery, s.goAwayError = c.goAwayEvery, c.goAwayError })
				tp.run()
				advance(time.Second)
				for range 3000 { // a minute
					tp.attempt()
				}
				if n := len(tp.serverCopy(1).dials); n > 8 {
					t.Errorf("%d dials in a minute; want one per ten seconds", n)
				}
			})
		})
	}
}

func TestRepeatedGoAwayWavesKeepOneEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		wave := func() {
			for i := 1; i <= 8; i++ {
				tp.lastConn(i).goAway()
			}
		}
		for range 3 { // within six seconds
			wave()
			waveStart := time.Now()
			if _, o := tp.attempt(); o.Verdict != push.Accepted || time.Since(waveStart) > 200*time.Millisecond {
				t.Errorf("an attempt ended after %v: %+v\n%s", time.Since(waveStart), o, tp.eventLog())
			}
			advance(2 * time.Second)
		}
		if n := tp.dialCount(); n != 8+8+2 {
			t.Errorf("%d dials; want 8 at the start, 8 after the first wave, and one for each further wave\n%s", n, tp.eventLog())
		}
		advance(20 * time.Second)
		tp.wantMembers(1, 2, 3, 4, 5, 6, 7, 8)
		if violation := tp.checkDialBudget(8, 1); violation != "" {
			t.Error(violation)
		}
	})
}

func TestRescueIsRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 1, pool.Config{})
		advance(time.Second)
		for range 60 {
			tp.lastConn(1).goAway()
			advance(time.Second)
		}
		if n := tp.dialCount(); n > 1+1+6+1 {
			t.Errorf("%d dials in a minute", n)
		}
	})
}

func TestCloseConnectionOutcomeDrainsOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		conn := tp.lastConn(1)
		o := push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeConnection, Reason: "InternalServerError", CloseConnection: true}
		leases := tp.pickMany(1, 10) // all on the same connection
		for _, l := range leases {
			l.Done(o)
		}
		if !conn.State().Draining {
			t.Error("the connection is not drained")
		}
		for range 10 {
			if l := tp.pick(); l.Endpoint().Addr() == addr(1) {
				t.Error("the endpoint was picked without a connection")
			}
		}
		advance(50 * time.Millisecond)
		tp.pickEndpoint(1).Done(accepted)
		if n := len(tp.serverCopy(1).dials); n != 2 {
			t.Errorf("ten such outcomes cost %d dials; want one", n-1)
		}
	})
}

func TestEndpointFaultKeepsConnectionUntilEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		conn := tp.lastConn(1)
		o := push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint, Reason: "InternalServerError", CloseConnection: true}
		for range 4 {
			tp.pickEndpoint(1).Done(o)
			if conn.State().Draining {
				t.Fatal("the connection is drained before the breaker has opened")
			}
		}
		tp.pickEndpoint(1).Done(o)
		if !conn.State().Draining {
			t.Error("the ejected endpoint still uses the connection")
		}
	})
}

func TestFailedProbeReplacesConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		advance(12 * time.Second)
		tp.pickEndpoint(1).Done(failed)
		advance(time.Second)
		if n := len(tp.serverCopy(1).dials); n != 2 || tp.endpointStatus(1).Connections != 1 {
			t.Errorf("after the failed probe: %d dials, %+v", n, tp.endpointStatus(1))
		}
	})
}

func TestUnneededConnectionIsDrained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 3, pool.Config{Size: 2})
		tp.setServer(3, func(s *fakeServer) { s.dialDelay = 14 * time.Second })
		tp.run()
		advance(time.Second)
		tp.eject(1)
		advance(12 * time.Second)
		tp.pickEndpoint(1).Done(accepted) // it recovers before endpoint 3 is connected
		advance(10 * time.Second)
		tp.wantMembers(1, 2)
		if c := tp.lastConn(3); !c.State().Draining {
			t.Error("the unneeded connection was not drained")
		}
	})
}

func TestHangingDialTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 1, pool.Config{})
		tp.setServer(1, func(s *fakeServer) { s.dialDelay = time.Hour })
		tp.run()
		advance(time.Minute)
		if tp.countEvents(pool.EventDialFailed) == 0 {
			t.Error("after a minute no dial has failed")
		}
	})
}

func TestReplacedEndpointKeepsBreakerState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{Size: 1})
		advance(time.Second)
		tp.eject(1)
		advance(time.Second)
		tp.wantMembers(2)
		tp.eject(2) // endpoint 1 may return when its ejection expires
		advance(11 * time.Second)
		tp.wantMembers(1)
		if s := tp.endpointStatus(1); s.State != "half-open" {
			t.Errorf("the breaker is %s; want half-open", s.State)
		}
		tp.pick().Done(failed)
		if until := tp.endpointStatus(1).EjectedUntil; until == nil || time.Until(*until) != 20*time.Second {
			t.Errorf("the second ejection ends %v; want in 20s", until)
		}
	})
}

func TestConnectionEndIsReportedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{})
		advance(time.Second)
		for i := 1; i <= 4; i++ {
			tp.lastConn(i).disconnect()
		}
		advance(time.Second)
		tp.mu.Lock()
		defer tp.mu.Unlock()
		n := 0
		for _, e := range tp.events {
			if slices.Contains([]pool.EventKind{pool.EventConnLost, pool.EventGoAway, pool.EventConnClosed}, e.Kind) {
				n++
			}
		}
		if n != 4 {
			t.Errorf("four connections ended, but there are %d events", n)
		}
	})
}

func TestLostConnectionIsReplacedWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 60, pool.Config{})
		for i := 8; i <= 60; i++ {
			tp.setServer(i, func(s *fakeServer) { s.dialErr = errRefused })
		}
		tp.run()
		advance(2 * time.Second)
		for i := 1; i <= 7; i++ {
			tp.lastConn(i).disconnect()
		}
		advance(100 * time.Millisecond)
		for i := 1; i <= 7; i++ {
			if s := tp.endpointStatus(i); s.Connections != 1 {
				t.Errorf("the replacement of endpoint %d waits for the budget: %+v", i, s)
			}
		}
		if violation := tp.checkDialBudget(8, 1); violation != "" {
			t.Error(violation)
		}
	})
}

func TestEjectedEndpointDoesNotReplaceMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{Size: 1})
		advance(time.Second)
		leases := tp.pickMany(1, 5)
		tp.setServer(1, func(s *fakeServer) { s.dialDelay = 3 * time.Second })
		tp.lastConn(1).disconnect() // is dialed again
		synctest.Wait()
		for _, l := range leases {
			l.Done(failed)
		}
		advance(time.Second)
		tp.wantMembers(2)
		tp.eject(2)
		advance(5 * time.Second) // endpoint 1 is connected by now
		tp.wantMembers(2)
		if conns := tp.endpointStatus(1).Connections; conns != 0 {
			t.Errorf("the ejected endpoint has %d connections; want 0", conns)
		}
	})
}

func TestEjectedEndpointIsReplacedWithoutBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 9, pool.Config{Size: 1})
		advance(100 * time.Millisecond)
		for i := 1; i <= 8; i++ {
			tp.eject(i)
			advance(100 * time.Millisecond)
			tp.wantMembers(i + 1)
		}
		if violation := tp.checkDialBudget(1, 1); violation != "" {
			t.Error(violation)
		}
	})
}
