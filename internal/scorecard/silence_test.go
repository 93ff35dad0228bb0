// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// silentEndpoint is S01. One of eight endpoints accepts all requests and responds to none, not even
// to PING.
func silentEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	silentAddr := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, repeatableNotification)
	run.waitUntil(beforeFault)
	faultStart := s.injectFaults(m, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: silentAddr, Stall: &mockprovider.Stall{}})
	e := collectEvidence(m, run.wait(), faultStart)

	unanswered := e.entriesAt(silentAddr, "stall")
	atLeast(&s.rowResult, "delivered", e.delivered(), 0.9999)
	s.expectP99(e, 50*time.Millisecond)
	s.expectP999(e, 2500*time.Millisecond)
	atMost(&s.rowResult, "requests to the silent endpoint", len(unanswered), 100)
	atMost(&s.rowResult, "out of rotation after", e.lastBefore(unanswered, 8*time.Second), 2500*time.Millisecond)
	atMost(&s.rowResult, "replaced after", e.replacementTime(), 3500*time.Millisecond)
	s.expectZero("duplicates", e.duplicates())
	atMost(&s.rowResult, "amplification", e.amplification(), 1.002)
	s.expectDialBudget(g, m, mockprovider.APNs)
}
