// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// fleetStart is S16. A hundred gateways start at the same time, each a process with eight FCM
// endpoints and no access token. They share the machine with the services and the load, which
// affects the measured times.
func fleetStart(s *scenario) {
	const gateways, minute, afterMinute = 100, time.Minute, 20 * time.Second
	fcm := mockprovider.Fault{Service: mockprovider.FCM, Delay: healthyResponse.Delay, P99: healthyResponse.P99}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(fcm)})
	config := s.writeConfig("", app{shopApp, fcmBlock(m, s.writeMockFiles(m), "")})
	all := make([]*gateway, gateways)
	for i := range all {
		all[i] = s.startProcess(config)
	}
	start := time.Now()
	s.eventually("waiting for full pools", time.Minute, func() bool {
		return !slices.ContainsFunc(all, func(g *gateway) bool { return len(g.eventsSince(g.startedAt, "joined", "")) < poolSize })
	})
	full := time.Since(start)
	loads := make([]*loadRun, gateways)
	for i, g := range all {
		if !g.ready() {
			s.Fatalf("a gateway with a full pool is not ready: %s", g.lastLog())
		}
		loads[i] = s.offerRate(g, loadRate/gateways, minute+afterMinute, fcmNotification)
	}
	s.checkFleet(m, all, loads, minute)
	s.note("the last pool was full after %s", format(full))
}

func (s *scenario) checkFleet(m *mockprovider.Mock, all []*gateway, loads []*loadRun, minute time.Duration) {
	var first, steady load.Samples
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, l := range loads {
		wg.Go(func() {
			<-l.done
			mu.Lock()
			defer mu.Unlock()
			early, late := l.results.Split(l.started.Add(minute))
			first, steady = append(first, early...), append(steady, late...)
		})
	}
	wg.Wait() // bounded by the context of the row
	var slowest time.Duration
	for _, g := range all {
		slowest = max(slowest, g.eventsSince(g.startedAt, "joined", "")[0].Time.Sub(g.startedAt))
	}
	services := m.Ledger().Summary().Services
	atMost(&s.rowResult, "ready after", slowest, 3*time.Second)
	dials := int(services[mockprovider.FCM].Dials)
	s.expect("dials", fmt.Sprintf("%d (== %d)", dials, len(all)*poolSize), dials == len(all)*poolSize)
	exchanges := int(services[mockprovider.OAuth].Requests)
	s.expect("token exchanges", fmt.Sprintf("%d (== %d)", exchanges, len(all)), exchanges == len(all))
	atMost(&s.rowResult, "p99 of the first minute", first.LatencyQuantile(0.99), steady.LatencyQuantile(0.99)*3/2)
	s.expectZero("failed", first.Count(notAccepted)+steady.Count(notAccepted))
}

func notAccepted(n *load.Sample) bool { return n.Status != "accepted" }
