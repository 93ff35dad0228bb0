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

func TestNoRequestIsEverRoutedToAnAddressThatHasNotAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 10, pool.Config{})
		h.set(2, func(s *server) { s.dialErr = errRefused })
		h.set(5, func(s *server) { s.dialFor, s.dialErr = 5*time.Second, errRefused })
		h.run()
		pass(300 * time.Millisecond)
		for range 1000 {
			began := time.Now()
			lease := h.pick()
			lease.Done(accepted)
			if i := lease.Endpoint().Addr(); i == addr(2) || i == addr(5) || time.Since(began) > 0 {
				t.Fatalf("a request waited %s for %s", time.Since(began), lease.Endpoint())
			}
		}
		pass(30 * time.Second)
		h.wantMembers(1, 3, 4, 6, 7, 8, 9, 10)
	})
}

func TestAnAddressThatDoesNotAnswerIsDialledEverMoreRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 8, pool.Config{})
		h.set(2, func(s *server) { s.dialErr = errRefused })
		h.run()
		pass(5 * time.Minute)
		dials := h.look(2).dials
		if len(dials) < 6 || len(dials) > 8 {
			t.Errorf("it was dialled %d times in five minutes, want at most 8", len(dials))
		}
		for i, want := 1, 5*time.Second; i < len(dials); i, want = i+1, 2*want {
			if gap := dials[i].Sub(dials[i-1]); gap < want || gap > want+2*time.Second {
				t.Errorf("dial %d came after %s, want %s", i, gap, want)
			}
		}
		if s := h.state(2); s.RedialAt == nil {
			t.Errorf("Status does not say when it is dialled again: %+v", s)
		}
		h.set(2, func(s *server) { s.dialErr = nil })
		pass(6 * time.Minute)
		h.wantMembers(1, 2, 3, 4, 5, 6, 7, 8)
	})
}

func TestTwoHundredDeadAddressesDoNotMakeAFloodOfDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 200, pool.Config{})
		for i := 1; i <= 200; i++ {
			h.set(i, func(s *server) { s.dialErr = errRefused })
		}
		h.run()
		for range 60 {
			pass(time.Second)
			if wrong := h.overspent(8, 1); wrong != "" {
				t.Fatal(wrong)
			}
		}
		if err := h.Ready(); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("Ready() = %v, want the reason", err)
		}
	})
}

func TestAGoAwayCostsOneDialAndNoRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{InFlight: 200})
		pass(time.Second)
		h.set(1, func(s *server) { s.takes = 500 * time.Millisecond })
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
			t.Errorf("the next attempt ended after %s: %+v; want one dial (30ms) and one answer (500ms)\n%s", took, o, h.story())
		}
		group.Wait()
		pass(time.Minute)
		if n := h.dials(); n != 2 {
			t.Errorf("%d dials, want 2\n%s", n, h.story())
		}
		if h.saw(pool.GoAway) != 1 || h.saw(pool.Lost) != 0 {
			t.Errorf("the story is told wrongly:\n%s", h.story())
		}
	})
}

func TestALostConnectionIsReplacedThoughNobodySends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		pass(time.Second)
		h.lastConn(1).die()
		pass(50 * time.Millisecond)
		if s := h.state(1); s.Connections != 1 {
			t.Errorf("50ms later it is %+v", s)
		}
		h.set(2, func(s *server) { s.takes = time.Minute })
		h.lastConn(2).occupy()
		h.lastConn(2).goAway()
		pass(1100 * time.Millisecond)
		if s := h.state(2); s.Connections != 1 {
			t.Errorf("a GOAWAY in a quiet pool was not noticed: %+v", s)
		}
		if n := h.dials(); n != 4 {
			t.Errorf("%d dials, want 4", n)
		}
	})
}

func TestAMemberThatCannotBeDialledAgainLosesItsPlaceToASpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 3, pool.Config{Size: 2})
		pass(time.Second)
		h.set(1, func(s *server) { s.dialErr = errRefused })
		h.lastConn(1).die()
		pass(200 * time.Millisecond)
		h.wantMembers(2, 3)
	})
}

func TestAStormOfGoAwaysCostsOneDialForEachEndpointInTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		for range 600 { // a minute in which no connection lives longer than 100ms
			for i := 1; i <= 8; i++ {
				h.lastConn(i).goAway()
			}
			pass(100 * time.Millisecond)
		}
		for i := 1; i <= 8; i++ {
			if n := len(h.look(i).dials); n > 9 {
				t.Errorf("endpoint %d was dialled %d times in a minute", i, n)
			}
		}
		if wrong := h.overspent(8, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}

func TestASecondWaveOfGoAwaysLeavesThePoolWithOneEndpointAndNotWithNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		wave := func() {
			for i := 1; i <= 8; i++ {
				h.lastConn(i).goAway()
			}
		}
		for range 3 { // within four seconds
			wave()
			began := time.Now()
			if _, o := h.attempt(); o.Verdict != push.Accepted || time.Since(began) > 200*time.Millisecond {
				t.Errorf("an attempt ended after %v: %+v\n%s", time.Since(began), o, h.story())
			}
			pass(2 * time.Second)
		}
		if n := h.dials(); n != 8+8+2 {
			t.Errorf("%d dials, want those of the start and of the first wave, and one for each further wave\n%s", n, h.story())
		}
		pass(20 * time.Second)
		h.wantMembers(1, 2, 3, 4, 5, 6, 7, 8)
		if wrong := h.overspent(8, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}

func TestTheOnlyEndpointThatGoesAwayAgainAndAgainIsDialledOnceBeyondItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 1, pool.Config{})
		pass(time.Second)
		for range 60 {
			h.lastConn(1).goAway()
			pass(time.Second)
		}
		if n := h.dials(); n > 1+1+6+1 {
			t.Errorf("%d dials in a minute", n)
		}
	})
}

func TestAnAnswerThatSpoilsTheConnectionCostsItAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		pass(time.Second)
		spoilt := h.lastConn(1)
		o := push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeConnection, Reason: "InternalServerError", CloseConnection: true}
		leases := h.fillUp(1, 10) // all on that connection
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
		pass(50 * time.Millisecond)
		h.visit(1).Done(accepted)
		if n := len(h.look(1).dials); n != 2 {
			t.Errorf("ten such answers cost %d dials, want one", n-1)
		}
	})
}

func TestAnEndpointsHiccupCostsNoConnectionButItsEjectionDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		pass(time.Second)
		sick := h.lastConn(1)
		o := push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint, Reason: "InternalServerError", CloseConnection: true}
		for range 4 {
			h.visit(1).Done(o)
			if sick.State().Draining {
				t.Fatal("the connection is drained before the breaker has opened")
			}
		}
		h.visit(1).Done(o)
		if !sick.State().Draining {
			t.Error("the ejected endpoint keeps the connection that was called spoilt")
		}
	})
}

func TestAFailedProbeIsFollowedByANewConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		pass(time.Second)
		h.eject(1)
		pass(12 * time.Second)
		h.visit(1).Done(failed)
		pass(time.Second)
		if n := len(h.look(1).dials); n != 2 || h.state(1).Connections != 1 {
			t.Errorf("after the failed probe: %d dials, %+v", n, h.state(1))
		}
	})
}

func TestAConnectionThatComesTooLateIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 3, pool.Config{Size: 2})
		h.set(3, func(s *server) { s.dialFor = 14 * time.Second })
		h.run()
		pass(time.Second)
		h.eject(1)
		pass(12 * time.Second)
		h.visit(1).Done(accepted) // it has healed before 3 is there
		pass(10 * time.Second)
		h.wantMembers(1, 2)
		if c := h.lastConn(3); !c.State().Draining {
			t.Error("the connection that is not needed is kept")
		}
	})
}

func TestADialThatNeverReturnsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, pool.Config{})
		h.set(1, func(s *server) { s.dialFor = time.Hour })
		h.run()
		pass(time.Minute)
		if h.saw(pool.DialFailed) == 0 {
			t.Error("after a minute nobody has given up")
		}
	})
}

func TestAnAddressThatFailedComesBackAsWhatItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{Size: 1})
		pass(time.Second)
		h.eject(1)
		pass(time.Second)
		h.wantMembers(2)
		h.eject(2) // now 1 may come back, when its time is up
		pass(11 * time.Second)
		h.wantMembers(1)
		if s := h.state(1); s.State != "half-open" {
			t.Errorf("it came back %s", s.State)
		}
		h.pick().Done(failed)
		if until := h.state(1).EjectedUntil; until == nil || time.Until(*until) != 20*time.Second {
			t.Errorf("its second ejection ends %v, want in 20s", until)
		}
	})
}

func TestEveryConnectionsEndIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 4, pool.Config{})
		pass(time.Second)
		for i := 1; i <= 4; i++ {
			h.lastConn(i).die()
		}
		pass(time.Second)
		h.mu.Lock()
		defer h.mu.Unlock()
		n := 0
		for _, e := range h.events {
			if slices.Contains([]pool.Kind{pool.Lost, pool.GoAway, pool.Closed}, e.Kind) {
				n++
			}
		}
		if n != 4 {
			t.Errorf("four connections ended, told %d times", n)
		}
	})
}

func TestALostConnectionIsReplacedThoughTheBudgetIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 60, pool.Config{})
		for i := 8; i <= 60; i++ {
			h.set(i, func(s *server) { s.dialErr = errRefused })
		}
		h.run()
		pass(2 * time.Second)
		for i := 1; i <= 7; i++ {
			h.lastConn(i).die()
		}
		pass(100 * time.Millisecond)
		for i := 1; i <= 7; i++ {
			if s := h.state(i); s.Connections != 1 {
				t.Errorf("endpoint %d waits for the budget: %+v", i, s)
			}
		}
		if wrong := h.overspent(8, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}

func TestAnEjectedEndpointDoesNotTakeThePlaceOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{Size: 1})
		pass(time.Second)
		leases := h.fillUp(1, 5)
		h.set(1, func(s *server) { s.dialFor = 3 * time.Second })
		h.lastConn(1).die() // and is being dialled again
		synctest.Wait()
		for _, l := range leases {
			l.Done(failed)
		}
		pass(time.Second)
		h.wantMembers(2)
		h.eject(2)
		pass(5 * time.Second) // the connection to 1 stands
		h.wantMembers(2)
		if conns := h.state(1).Connections; conns != 0 {
			t.Errorf("the ejected one keeps %d connections", conns)
		}
	})
}

func TestTheEjectedAreReplacedThoughTheBudgetIsSpent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 9, pool.Config{Size: 1})
		pass(100 * time.Millisecond)
		for i := 1; i <= 8; i++ {
			h.eject(i)
			pass(100 * time.Millisecond)
			h.wantMembers(i + 1)
		}
		if wrong := h.overspent(1, 1); wrong != "" {
			t.Error(wrong)
		}
	})
}
