// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// silent is S01: one of eight endpoints takes everything and answers nothing, not even a PING.
func silent(s *stage) {
	m := s.mock(mockprovider.Config{Endpoints: size + spares})
	g := s.gateway(m, "")
	hole := m.APNsAddrs()[0].String()
	load := s.offer(g, rate, calm+trouble, repeated)
	load.at(calm)
	cut := s.begin(m, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: hole, Stall: &mockprovider.Stall{}})
	e := gather(m, load.wait(), cut)

	swallowed := e.at(hole, "stall")
	atLeast(&s.card, "delivered", e.delivered(), 0.9999)
	s.p99(e, 50*time.Millisecond)
	s.p999(e, 2500*time.Millisecond)
	atMost(&s.card, "into the hole", len(swallowed), 100)
	atMost(&s.card, "out", e.lastBefore(swallowed, 8*time.Second), 2500*time.Millisecond)
	atMost(&s.card, "replaced", e.replacement(), 3500*time.Millisecond)
	s.none("duplicates", e.duplicates())
	atMost(&s.card, "amplification", e.amplification(), 1.002)
	s.dials(g, m, mockprovider.APNs)
}
