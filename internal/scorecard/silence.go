// SPDX-License-Identifier: Apache-2.0

package main

import (
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// silentEndpoint is S01: one of eight endpoints takes everything and answers nothing, not even a PING.
func silentEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	hole := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, repeatableNotification)
	run.waitUntil(beforeFault)
	cut := s.injectFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: hole, Stall: &mockprovider.Stall{}})
	e := collectEvidence(m, run.wait(), cut)

	swallowed := e.entriesAt(hole, "stall")
	atLeast(&s.rowResult, "delivered", e.delivered(), 0.9999)
	s.expectP99(e, 50*time.Millisecond)
	s.expectP999(e, 2500*time.Millisecond)
	atMost(&s.rowResult, "requests to the silent endpoint", len(swallowed), 100)
	atMost(&s.rowResult, "out of rotation after", e.lastBefore(swallowed, 8*time.Second), 2500*time.Millisecond)
	atMost(&s.rowResult, "replaced after", e.replacementTime(), 3500*time.Millisecond)
	s.expectZero("duplicates", e.duplicates())
	atMost(&s.rowResult, "amplification", e.amplification(), 1.002)
	s.expectDialBudget(g, m, mockprovider.APNs)
}
