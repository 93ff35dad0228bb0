// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// refusing is S02: one of eight endpoints answers 500 and 503, as fast as the others.
func refusing(s *stage) {
	m := s.mock(mockprovider.Config{Endpoints: size + spares})
	g := s.gateway(m, "")
	bad := m.APNsAddrs()[0].String()
	load := s.offer(g, rate, calm+trouble, toDevice)
	load.at(calm)
	broken := mockprovider.Fault{Service: mockprovider.APNs, Endpoint: bad, Status: 503, Delay: healthy.Delay, P99: healthy.P99}
	half := broken
	half.Status, half.Share = 500, 0.5
	cut := s.begin(m, half, broken)
	e := gather(m, load.wait(), cut)

	opened, failures := g.since(cut, "ejected", bad), 0
	if len(opened) > 0 {
		_, _ = fmt.Sscanf(opened[0].Reason, "%d failures in a row", &failures)
	}
	s.must("opened after", fmt.Sprintf("%d in a row (<= 5)", failures), failures > 0 && failures <= 5)
	atMost(&s.card, "hits", len(e.at(bad, "status")), 30)
	s.none("failed", s.failed(e.after, e.accepted))
	s.p99(e, 20*time.Millisecond)
	s.none("duplicates", e.duplicates())
	s.dials(g, m, mockprovider.APNs)
}

// flaky is S03: one of eight endpoints fails three requests of ten at random.
func flaky(s *stage) {
	m := s.mock(mockprovider.Config{Endpoints: size + spares})
	g := s.gateway(m, "")
	bad := m.APNsAddrs()[0].String()
	load := s.offer(g, rate, calm+trouble, toDevice)
	load.at(calm)
	cut := s.begin(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, Share: 0.3, Status: 503, Delay: healthy.Delay, P99: healthy.P99,
	})
	e := gather(m, load.wait(), cut)

	out := never
	if opened := g.since(cut, "ejected", bad); len(opened) > 0 {
		out = opened[0].Time.Sub(cut)
		s.note("ejected for: %s", opened[0].Reason)
	}
	atMost(&s.card, "ejected", out, 10*time.Second)
	atMost(&s.card, "failed", shareOf(s.failed(e.after, e.accepted), len(e.after)), 0.0001)
	s.none("duplicates", e.duplicates())
	s.dials(g, m, mockprovider.APNs)
}

// deafToSome is S03b: one of eight endpoints never answers for one device token in twenty, and answers PING and the other
// tokens as ever. Other endpoints know those tokens.
func deafToSome(s *stage) {
	m := s.mock(mockprovider.Config{Endpoints: size + spares})
	g := s.gateway(m, "")
	bad := m.APNsAddrs()[0].String()
	load := s.offer(g, rate, calm+trouble, repeated)
	load.at(calm)
	cut := s.begin(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, TokenShare: 0.05, Stall: &mockprovider.Stall{AnswerPings: true},
	})
	e := gather(m, load.wait(), cut)

	deaf := map[string]bool{}
	for _, entry := range e.at(bad, "stall") {
		deaf[entry.ID] = true
	}
	elsewhere := e.after.Count(func(n *loadtest.Sample) bool {
		return deaf[n.ID] && e.accepted[n.ID] == 1 && n.Status == "accepted" && len(n.Attempts) == 2 && n.Latency <= deadline
	})
	s.must("tokens met", fmt.Sprint(len(deaf)), len(deaf) > 0)
	atLeast(&s.card, "delivered by attempt 2", shareOf(elsewhere, len(deaf)), 1)
	s.none("failed", s.failed(e.after, e.accepted))
	// With the load end the answers, but not the silences of the last seconds: what they alone bring is not counted.
	end := load.began.Add(calm + trouble)
	s.none("ejections", len(g.since(cut, "ejected", ""))-len(g.since(end, "ejected", "")))
	s.none("duplicates", e.duplicates())
	s.dials(g, m, mockprovider.APNs)
}

// slow is S04: one of eight endpoints takes a second longer.
func slow(s *stage) {
	m := s.mock(mockprovider.Config{Endpoints: size + spares})
	g := s.gateway(m, "")
	bad := m.APNsAddrs()[0].String()
	load := s.offer(g, rate, calm+trouble, toDevice)
	load.at(calm)
	cut := s.begin(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, Delay: healthy.Delay + time.Second, P99: healthy.P99 + time.Second,
	})
	e := gather(m, load.wait(), cut)

	_, later := load.got.Split(cut.Add(5 * time.Second))
	there, _ := later.Visited(bad)
	flaps := 0
	for _, again := range g.since(cut, "ejected", bad) {
		if !strings.HasPrefix(again.Reason, "the probe failed") {
			flaps++
		}
	}
	atMost(&s.card, "its share after 5s", shareOf(there, len(later)), 0.02)
	s.added("p99 after 5s", e.calm.Latency(0.99), later.Latency(0.99), 100*time.Millisecond)
	atMost(&s.card, "ejections, but for failed probes", flaps, 1)
	s.none("failed", s.failed(e.after, e.accepted))
	s.dials(g, m, mockprovider.APNs)
}
