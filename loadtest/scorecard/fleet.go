// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// fleet is S16: a hundred gateways start at once, each a process with eight endpoints of FCM and no access token. They
// share this machine with the services and the load, which are what the times have to be read with.
func fleet(s *stage) {
	const gateways, minute, later = 100, time.Minute, 20 * time.Second
	fcm := mockprovider.Fault{Service: mockprovider.FCM, Delay: healthy.Delay, P99: healthy.P99}
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(fcm)})
	config := s.configuration("", app{shop, fcmTo(m, s.files(m), "")})
	all := make([]*gateway, gateways)
	for i := range all {
		all[i] = s.launch(config)
	}
	began := time.Now()
	s.eventually("all pools are full", time.Minute, func() bool {
		return !slices.ContainsFunc(all, func(g *gateway) bool { return len(g.since(g.born, "joined", "")) < size })
	})
	full := time.Since(began)
	loads := make([]*load, gateways)
	for i, g := range all {
		if !g.ready() {
			s.Fatalf("a gateway with a full pool is not ready: %s", g.lastWords())
		}
		loads[i] = s.offer(g, rate/gateways, minute+later, toRegistration)
	}
	s.judgeFleet(m, all, loads, minute)
	s.note("the last pool was full after %s", write(full))
}

func (s *stage) judgeFleet(m *mockprovider.Mock, all []*gateway, loads []*load, minute time.Duration) {
	var first, steady loadtest.Samples
	var mu sync.Mutex
	var readers sync.WaitGroup
	for _, l := range loads {
		readers.Go(func() {
			<-l.done
			mu.Lock()
			defer mu.Unlock()
			early, late := l.got.Split(l.began.Add(minute))
			first, steady = append(first, early...), append(steady, late...)
		})
	}
	readers.Wait()
	var slowest time.Duration
	for _, g := range all {
		slowest = max(slowest, g.since(g.born, "joined", "")[0].Time.Sub(g.born))
	}
	seen := m.Ledger().Summary().Services
	atMost(&s.card, "ready", slowest, 3*time.Second)
	dials := int(seen[mockprovider.FCM].Dials)
	s.must("dials", fmt.Sprintf("%d (== %d)", dials, len(all)*size), dials == len(all)*size)
	exchanges := int(seen[mockprovider.OAuth].Requests)
	s.must("token exchanges", fmt.Sprintf("%d (== %d)", exchanges, len(all)), exchanges == len(all))
	atMost(&s.card, "p99 of the first minute", first.Latency(0.99), steady.Latency(0.99)*3/2)
	s.none("failed", first.Count(notAccepted)+steady.Count(notAccepted))
}

func notAccepted(n *loadtest.Sample) bool { return n.Status != "accepted" }
