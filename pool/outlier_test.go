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

// sendAtRate sends at so many requests a second for a while, without waiting for
// answers, as callers do.
func (h *testPool) sendAtRate(perSecond int, d time.Duration) {
	var group sync.WaitGroup
	for range int(d.Seconds() * float64(perSecond)) {
		group.Go(func() { h.attempt() })
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	group.Wait()
}

// failSome makes i fail n of m leases, by turns, for a while at the speed of
// one request each 5ms on the whole pool.
func (h *testPool) failSome(i, n, m int, d time.Duration) {
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

func TestSuccessRateOutlierIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.failSome(1, 0, 10, 25*time.Second)
		h.failSome(1, 3, 10, 10*time.Second)
		if s := h.endpointStatus(1); s.State != "open" || !strings.Contains(s.Reason, "succeeded within 10s, of all") {
			t.Errorf("after ten seconds it is %+v", s)
		}
		if n := h.countEvents(pool.EventEjected); n != 1 {
			t.Errorf("%d were ejected\n%s", n, h.eventLog())
		}
	})
}

func TestFailureRateBelowMinimumIsTolerated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.failSome(1, 1, 20, time.Minute)
		if s := h.endpointStatus(1); s.State != "closed" {
			t.Errorf("after a minute it is %+v", s)
		}
	})
}

func TestSuccessRateNeedsEnoughPeersAndOutcomes(t *testing.T) {
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
				h := startPool(t, test.endpoints, pool.Config{})
				advance(time.Second)
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
				if n := h.countEvents(pool.EventEjected); n != 0 {
					t.Errorf("%d were ejected\n%s", n, h.eventLog())
				}
			})
		})
	}
}

func TestSlowEndpointStaysEjectedWhileSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.sendAtRate(400, 5*time.Second)
		h.setServer(1, func(s *fakeServer) { s.latency = 1020 * time.Millisecond })
		h.sendAtRate(400, 5*time.Second)
		if s := h.endpointStatus(1); s.State != "open" || !strings.Contains(s.Reason, "its median answer takes") {
			t.Fatalf("after five seconds it is %+v", s)
		}
		before := h.serverCopy(1).requests
		h.sendAtRate(100, time.Minute)
		if probes := h.serverCopy(1).requests - before; probes > 3 {
			t.Errorf("in the next minute it got %d requests, want its probes", probes)
		}
		if h.countEvents(pool.EventRecovered) != 0 {
			t.Errorf("a slow probe counted as healed\n%s", h.eventLog())
		}
		h.setServer(1, func(s *fakeServer) { s.latency = 20 * time.Millisecond })
		h.sendAtRate(100, 90*time.Second)
		if s := h.endpointStatus(1); s.State != "closed" {
			t.Errorf("after it has healed it is %+v", s)
		}
	})
}

func TestEjectionResetsOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{Breaker: pool.Breaker{BaseEjectionTime: 2 * time.Second}})
		advance(time.Second)
		h.failSome(1, 0, 10, 10*time.Second)
		h.failSome(1, 3, 10, 6*time.Second)
		if n := h.countEvents(pool.EventEjected); n != 1 {
			t.Fatalf("%d were ejected, want one", n)
		}
		h.failSome(1, 0, 10, 10*time.Second)
		if n := h.countEvents(pool.EventEjected); n != 1 || h.endpointStatus(1).State != "closed" {
			t.Errorf("after its probe it was ejected again for what had been before\n%s", h.eventLog())
		}
	})
}

func TestBriefLatencySpikeIsTolerated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.sendAtRate(400, 2*time.Second)
		advance(time.Until(bubbleStart.Add(4*time.Second + 10*time.Millisecond))) // just after a beat
		h.setServer(1, func(s *fakeServer) { s.latency = 200 * time.Millisecond })
		h.sendAtRate(400, 700*time.Millisecond)
		h.setServer(1, func(s *fakeServer) { s.latency = 20 * time.Millisecond })
		h.sendAtRate(400, 5*time.Second)
		if n := h.countEvents(pool.EventEjected); n != 0 {
			t.Errorf("less than a second of slowness ejected it\n%s", h.eventLog())
		}
	})
}

func TestSlowServiceEjectsNoEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.sendAtRate(200, 10*time.Second)
		for i := 1; i <= 8; i++ {
			h.setServer(i, func(s *fakeServer) { s.latency = time.Duration(900+20*i) * time.Millisecond })
		}
		h.sendAtRate(200, 20*time.Second)
		if n := h.countEvents(pool.EventEjected); n != 0 {
			t.Errorf("%d were ejected for being as slow as all\n%s", n, h.eventLog())
		}
	})
}

func TestOutlierDetectionRespectsMaxEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		for i := 1; i <= 3; i++ {
			h.eject(i)
		}
		for i := 4; i <= 5; i++ {
			h.setServer(i, func(s *fakeServer) { s.latency = time.Second })
		}
		h.sendAtRate(200, 8*time.Second)
		open := 0
		for _, e := range h.Status().Endpoints {
			if e.State == "open" {
				open++
			}
		}
		if open != 4 || h.Status().Panic {
			t.Errorf("%d of 8 are ejected, want 4 at most\n%s", open, h.eventLog())
		}
	})
}

func TestOutlierDetectionCanBeDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{Outlier: pool.Outlier{Disabled: true}})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.latency = time.Second })
		h.sendAtRate(200, 20*time.Second)
		if n := h.countEvents(pool.EventEjected); n != 0 {
			t.Errorf("%d were ejected", n)
		}
	})
}

func TestSlowProbeSucceedsWithoutOutlierDetection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{Outlier: pool.Outlier{Disabled: true}})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.status = 500 })
		h.sendAtRate(200, 5*time.Second)
		if s := h.endpointStatus(1); s.State != "open" {
			t.Fatalf("after five seconds of failures it is %+v", s)
		}
		h.setServer(1, func(s *fakeServer) { s.status, s.latency = 200, time.Second }) // as one that first has to connect again itself
		h.sendAtRate(200, 30*time.Second)
		if s := h.endpointStatus(1); s.State != "closed" {
			t.Errorf("its first answer was a good one, and it is %+v", s)
		}
	})
}

func TestStatusMedianLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.latency = 150 * time.Millisecond })
		h.sendAtRate(100, 3*time.Second)
		for i, want := range map[int]float64{1: 150, 2: 20} {
			if got := h.endpointStatus(i).LatencyMS; got < 0.88*want || got > 1.12*want {
				t.Errorf("the median answer of endpoint %d is told as %gms, want %gms within an eighth", i, got, want)
			}
		}
	})
}
