// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

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
	s.none("failed", e.failures())
	s.p99(e, 20*time.Millisecond)
	s.none("duplicates", e.duplicates())
	s.dials(g, m, mockprovider.APNs)
}
