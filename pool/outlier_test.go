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

// sendAtRate sends perSecond requests per second for the duration d, without waiting for responses.
func (tp *testPool) sendAtRate(perSecond int, d time.Duration) {
	var group sync.WaitGroup
	for range int(d.Seconds() * float64(perSecond)) {
		group.Go(func() { tp.attempt() })
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	group.Wait() // bounded by the bubble
}

// failSome makes endpoint i fail n of every m requests for the duration d. It sends one request
// every 5ms to the pool.
func (tp *testPool) failSome(i, n, m int, d time.Duration) {
	requests := 0
	for start := time.Now(); time.Since(start) < d; time.Sleep(5 * time.Millisecond) {
		lease := tp.pick()
		if lease.Endpoint().Addr() == addr(i) {
			if requests++; requests%m < n {
				lease.Done(failed)
				continue
			}
		}
		lease.Done(accepted)
	}
}

func TestSuccessRateOutlierIsEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.failSome(1, 0, 10, 25*time.Second)
		tp.failSome(1, 3, 10, 10*time.Second)
		if s := tp.endpointStatus(1); s.State != "open" || !strings.Contains(s.Reason, "within 10s, mean of all") {
			t.Errorf("after ten seconds the endpoint is %+v", s)
		}
		if n := tp.countEvents(pool.EventEjected); n != 1 {
			t.Errorf("%d ejections; want 1\n%s", n, tp.eventLog())
		}
	})
}

func TestFailureRateBelowMinimumIsTolerated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.failSome(1, 1, 20, time.Minute)
		if s := tp.endpointStatus(1); s.State != "closed" {
			t.Errorf("after a minute the endpoint is %+v", s)
		}
	})
}

func TestSuccessRateNeedsEnoughPeersAndOutcomes(t *testing.T) {
	tests := map[string]struct {
		endpoints int
		apart     time.Duration
	}{
		"four endpoints":            {4, 5 * time.Millisecond},
		"fifty outcomes per window": {8, 25 * time.Millisecond},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := startPool(t, test.endpoints, pool.Config{})
				advance(time.Second)
				requests := 0
				for range 4000 {
					lease := tp.pick()
					if requests++; lease.Endpoint().Addr() == addr(1) && requests%3 == 0 {
						lease.Done(failed)
					} else {
						lease.Done(accepted)
					}
					time.Sleep(test.apart)
				}
				if n := tp.countEvents(pool.EventEjected); n != 0 {
					t.Errorf("%d ejections; want 0\n%s", n, tp.eventLog())
				}
			})
		})
	}
}

func TestSlowEndpointStaysEjectedWhileSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.sendAtRate(400, 5*time.Second)
		tp.setServer(1, func(s *fakeServer) { s.latency = 1020 * time.Millisecond })
		tp.sendAtRate(400, 5*time.Second)
		if s := tp.endpointStatus(1); s.State != "open" || !strings.Contains(s.Reason, "median latency") {
			t.Fatalf("after five seconds the endpoint is %+v", s)
		}
		before := tp.serverCopy(1).requests
		tp.sendAtRate(100, time.Minute)
		if probes := tp.serverCopy(1).requests - before; probes > 3 {
			t.Errorf("the endpoint got %d requests in the next minute; want only probes", probes)
		}
		if tp.countEvents(pool.EventRecovered) != 0 {
			t.Errorf("a slow probe succeeded\n%s", tp.eventLog())
		}
		tp.setServer(1, func(s *fakeServer) { s.latency = 20 * time.Millisecond })
		tp.sendAtRate(100, 90*time.Second)
		if s := tp.endpointStatus(1); s.State != "closed" {
			t.Errorf("after the endpoint is fast again it is %+v", s)
		}
	})
}

func TestEjectionResetsOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{Breaker: pool.Breaker{BaseEjectionTime: 2 * time.Second}})
		advance(time.Second)
		tp.failSome(1, 0, 10, 10*time.Second)
		tp.failSome(1, 3, 10, 6*time.Second)
		if n := tp.countEvents(pool.EventEjected); n != 1 {
			t.Fatalf("%d ejections; want 1", n)
		}
		tp.failSome(1, 0, 10, 10*time.Second)
		if n := tp.countEvents(pool.EventEjected); n != 1 || tp.endpointStatus(1).State != "closed" {
			t.Errorf("after the probe the endpoint was ejected again for earlier outcomes\n%s", tp.eventLog())
		}
	})
}

func TestBriefLatencySpikeIsTolerated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.sendAtRate(400, 2*time.Second)
		advance(time.Until(bubbleStart.Add(4*time.Second + 10*time.Millisecond))) // just after a tick
		tp.setServer(1, func(s *fakeServer) { s.latency = 200 * time.Millisecond })
		tp.sendAtRate(400, 700*time.Millisecond)
		tp.setServer(1, func(s *fakeServer) { s.latency = 20 * time.Millisecond })
		tp.sendAtRate(400, 5*time.Second)
		if n := tp.countEvents(pool.EventEjected); n != 0 {
			t.Errorf("a latency spike of less than a second caused an ejection\n%s", tp.eventLog())
		}
	})
}

func TestSlowServiceEjectsNoEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.sendAtRate(200, 10*time.Second)
		for i := 1; i <= 8; i++ {
			tp.setServer(i, func(s *fakeServer) { s.latency = time.Duration(900+20*i) * time.Millisecond })
		}
		tp.sendAtRate(200, 20*time.Second)
		if n := tp.countEvents(pool.EventEjected); n != 0 {
			t.Errorf("%d ejections in a service that is slow everywhere; want 0\n%s", n, tp.eventLog())
		}
	})
}

func TestOutlierDetectionRespectsMaxEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		for i := 1; i <= 3; i++ {
			tp.eject(i)
		}
		for i := 4; i <= 5; i++ {
			tp.setServer(i, func(s *fakeServer) { s.latency = time.Second })
		}
		tp.sendAtRate(200, 8*time.Second)
		open := 0
		for _, e := range tp.Status().Endpoints {
			if e.State == "open" {
				open++
			}
		}
		if open != 4 || tp.Status().Panic {
			t.Errorf("%d of 8 endpoints are ejected; want 4\n%s", open, tp.eventLog())
		}
	})
}

func TestOutlierDetectionCanBeDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{Outlier: pool.Outlier{Disabled: true}})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.latency = time.Second })
		tp.sendAtRate(200, 20*time.Second)
		if n := tp.countEvents(pool.EventEjected); n != 0 {
			t.Errorf("%d ejections; want 0", n)
		}
	})
}

func TestSlowProbeSucceedsWithoutOutlierDetection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{Outlier: pool.Outlier{Disabled: true}})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.status = 500 })
		tp.sendAtRate(200, 5*time.Second)
		if s := tp.endpointStatus(1); s.State != "open" {
			t.Fatalf("after five seconds of failures the endpoint is %+v", s)
		}
		tp.setServer(1, func(s *fakeServer) { s.status, s.latency = 200, time.Second }) // like a server that first has to reconnect
		tp.sendAtRate(200, 30*time.Second)
		if s := tp.endpointStatus(1); s.State != "closed" {
			t.Errorf("after a successful probe the endpoint is %+v", s)
		}
	})
}

func TestStatusMedianLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.latency = 150 * time.Millisecond })
		tp.sendAtRate(100, 3*time.Second)
		for i, want := range map[int]float64{1: 150, 2: 20} {
			if got := tp.endpointStatus(i).LatencyMS; got < 0.88*want || got > 1.12*want {
				t.Errorf("the median latency of endpoint %d is %gms; want %gms within an eighth", i, got, want)
			}
		}
	})
}
