// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
)

// rush sends at so many requests a second for a while, without waiting for
// answers, as callers do.
func (h *house) rush(perSecond int, d time.Duration) {
	var group sync.WaitGroup
	for range int(d.Seconds() * float64(perSecond)) {
		group.Go(func() { h.attempt() })
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	group.Wait()
}

// sometimes makes i fail n of m leases, by turns, for a while at the speed of
// one request each 5ms on the whole pool.
func (h *house) sometimes(i, n, m int, d time.Duration) {
	visits := 0
	for began := time.Now(); time.Since(began) < d; time.Sleep(5 * time.Millisecond) {
		lease := h.pick()
		if lease.Endpoint().Addr() == addr(i) {
			if visits++; visits%m < n {
				lease.Done(failed)
				continue
			}
		}
		lease.Done(accepted)
	}
}

func TestAnEndpointThatFailsThreeOfTenIsEjectedWithinTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		h.sometimes(1, 0, 10, 25*time.Second)
		h.sometimes(1, 3, 10, 10*time.Second)
		if s := h.state(1); s.State != "open" || !strings.Contains(s.Reason, "succeeded within 10s, of all") {
			t.Errorf("after ten seconds it is %+v", s)
		}
		if n := h.saw(pool.Ejected); n != 1 {
			t.Errorf("%d were ejected\n%s", n, h.story())
		}
	})
}

func TestAnEndpointThatIsSilentForOneTokenInTwentyIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		h.sometimes(1, 1, 20, time.Minute)
		if s := h.state(1); s.State != "closed" {
			t.Errorf("after a minute it is %+v", s)
		}
	})
}

func TestFewPeersOrFewOutcomesAllowNoComparison(t *testing.T) {
	tests := map[string]struct {
		endpoints int
		apart     time.Duration
	}{
		"four endpoints":             {4, 5 * time.Millisecond},
		"fifty outcomes in a window": {8, 25 * time.Millisecond},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, test.endpoints, pool.Config{})
				pass(time.Second)
				visits := 0
				for range 4000 {
					lease := h.pick()
					if visits++; lease.Endpoint().Addr() == addr(1) && visits%3 == 0 {
						lease.Done(failed)
					} else {
						lease.Done(accepted)
					}
					time.Sleep(test.apart)
				}
				if n := h.saw(pool.Ejected); n != 0 {
					t.Errorf("%d were ejected\n%s", n, h.story())
				}
			})
		})
	}
}

func TestASlowEndpointIsEjectedOnceAndStaysOutWhileItIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		h.rush(400, 5*time.Second)
		h.set(1, func(s *server) { s.takes = 1020 * time.Millisecond })
		h.rush(400, 5*time.Second)
		if s := h.state(1); s.State != "open" || !strings.Contains(s.Reason, "its median answer takes") {
			t.Fatalf("after five seconds it is %+v", s)
		}
		before := h.look(1).hits
		h.rush(100, time.Minute)
		if probes := h.look(1).hits - before; probes > 3 {
			t.Errorf("in the next minute it got %d requests, want its probes", probes)
		}
		if h.saw(pool.Recovered) != 0 {
			t.Errorf("a slow probe counted as healed\n%s", h.story())
		}
		h.set(1, func(s *server) { s.takes = 20 * time.Millisecond })
		h.rush(100, 90*time.Second)
		if s := h.state(1); s.State != "closed" {
			t.Errorf("after it has healed it is %+v", s)
		}
	})
}

func TestWhatWasBeforeAnEjectionIsSettledByIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{Breaker: pool.Breaker{Ejection: 2 * time.Second}})
		pass(time.Second)
		h.sometimes(1, 0, 10, 10*time.Second)
		h.sometimes(1, 3, 10, 6*time.Second)
		if n := h.saw(pool.Ejected); n != 1 {
			t.Fatalf("%d were ejected, want one", n)
		}
		h.sometimes(1, 0, 10, 10*time.Second)
		if n := h.saw(pool.Ejected); n != 1 || h.state(1).State != "closed" {
			t.Errorf("after its probe it was ejected again for what had been before\n%s", h.story())
		}
	})
}

func TestAHiccupIsNotSlowness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		h.rush(400, 2*time.Second)
		pass(time.Until(epoch.Add(4*time.Second + 10*time.Millisecond))) // just after a beat
		h.set(1, func(s *server) { s.takes = 200 * time.Millisecond })
		h.rush(400, 700*time.Millisecond)
		h.set(1, func(s *server) { s.takes = 20 * time.Millisecond })
		h.rush(400, 5*time.Second)
		if n := h.saw(pool.Ejected); n != 0 {
			t.Errorf("less than a second of slowness ejected it\n%s", h.story())
		}
	})
}

func TestASlowServiceEjectsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		h.rush(200, 10*time.Second)
		for i := 1; i <= 8; i++ {
			h.set(i, func(s *server) { s.takes = time.Duration(900+20*i) * time.Millisecond })
		}
		h.rush(200, 20*time.Second)
		if n := h.saw(pool.Ejected); n != 0 {
			t.Errorf("%d were ejected for being as slow as all\n%s", n, h.story())
		}
	})
}

func TestTheComparisonNeverEjectsMoreThanHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{})
		pass(time.Second)
		for i := 1; i <= 3; i++ {
			h.eject(i)
		}
		for i := 4; i <= 5; i++ {
			h.set(i, func(s *server) { s.takes = time.Second })
		}
		h.rush(200, 8*time.Second)
		open := 0
		for _, e := range h.Status().Endpoints {
			if e.State == "open" {
				open++
			}
		}
		if open != 4 || h.Status().Panic {
			t.Errorf("%d of 8 are ejected, want 4 at most\n%s", open, h.story())
		}
	})
}

func TestTheComparisonCanBeSwitchedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{Outlier: pool.Outlier{Off: true}})
		pass(time.Second)
		h.set(1, func(s *server) { s.takes = time.Second })
		h.rush(200, 20*time.Second)
		if n := h.saw(pool.Ejected); n != 0 {
			t.Errorf("%d were ejected", n)
		}
	})
}

func TestASlowProbeHealsWhereTheComparisonIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 8, pool.Config{Outlier: pool.Outlier{Off: true}})
		pass(time.Second)
		h.set(1, func(s *server) { s.status = 500 })
		h.rush(200, 5*time.Second)
		if s := h.state(1); s.State != "open" {
			t.Fatalf("after five seconds of failures it is %+v", s)
		}
		h.set(1, func(s *server) { s.status, s.takes = 200, time.Second }) // as one that first has to connect again itself
		h.rush(200, 30*time.Second)
		if s := h.state(1); s.State != "closed" {
			t.Errorf("its first answer was a good one, and it is %+v", s)
		}
	})
}

func TestStatusTellsTheMedianAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, 2, pool.Config{})
		pass(time.Second)
		h.set(1, func(s *server) { s.takes = 150 * time.Millisecond })
		h.rush(100, 3*time.Second)
		for i, want := range map[int]float64{1: 150, 2: 20} {
			if got := h.state(i).LatencyMS; got < 0.88*want || got > 1.12*want {
				t.Errorf("the median answer of endpoint %d is told as %gms, want %gms within an eighth", i, got, want)
			}
		}
	})
}
