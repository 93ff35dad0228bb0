// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// erroringEndpoint is S02. One of eight endpoints responds with 500 and 503, as fast as the others.
func erroringEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, apnsNotification)
	run.waitUntil(beforeFault)
	unavailable := mockprovider.Fault{Service: mockprovider.APNs, Endpoint: bad, Status: 503, Delay: healthyResponse.Delay, P99: healthyResponse.P99}
	internalError := unavailable
	internalError.Status, internalError.Share = 500, 0.5
	faultStart := s.injectFaults(m, internalError, unavailable)
	e := collectEvidence(m, run.wait(), faultStart)

	ejections, failures := g.eventsSince(faultStart, "ejected", bad), 0
	if len(ejections) > 0 {
		_, _ = fmt.Sscanf(ejections[0].Reason, "%d consecutive failures", &failures)
	}
	s.expect("breaker opened after", fmt.Sprintf("%d failures in a row (<= 5)", failures), failures > 0 && failures <= 5)
	atMost(&s.rowResult, "requests to it", len(e.entriesAt(bad, "status")), 30)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectP99(e, 20*time.Millisecond)
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// flakyEndpoint is S03. One of eight endpoints fails 30 % of its requests at random.
func flakyEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, apnsNotification)
	run.waitUntil(beforeFault)
	faultStart := s.injectFaults(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, Share: 0.3, Status: 503, Delay: healthyResponse.Delay, P99: healthyResponse.P99,
	})
	e := collectEvidence(m, run.wait(), faultStart)

	ejectedAfter := never
	if ejections := g.eventsSince(faultStart, "ejected", bad); len(ejections) > 0 {
		ejectedAfter = ejections[0].Time.Sub(faultStart)
		s.note("reason of the ejection: %s", ejections[0].Reason)
	}
	atMost(&s.rowResult, "ejected after", ejectedAfter, 10*time.Second)
	atMost(&s.rowResult, "failed", fractionOf(s.countFailed(e.after, e.accepted), len(e.after)), 0.0001)
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// randomFailures is S03c. Every endpoint fails 10 % of its requests at random.
func randomFailures(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, apnsNotification)
	run.waitUntil(beforeFault)
	faultStart := s.injectFaults(m, mockprovider.Fault{
		Service: mockprovider.APNs, Share: 0.1, Status: 503, Delay: healthyResponse.Delay, P99: healthyResponse.P99,
	})
	e := collectEvidence(m, run.wait(), faultStart)

	atMost(&s.rowResult, "failed", fractionOf(s.countFailed(e.after, e.accepted), len(e.after)), 0.0001)
	atMost(&s.rowResult, "amplification", e.amplification(), 1.12) // 1/0.9 is necessary
	s.expectMaxIncrease("p99", e.before.LatencyQuantile(0.99), e.after.LatencyQuantile(0.99), 250*time.Millisecond)
	s.note("%d ejections", len(g.eventsSince(faultStart, "ejected", "")))
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// silentForSomeTokens is S03b. One of eight endpoints never responds for one device token in
// twenty. It responds to PING and for other tokens as usual. Other endpoints respond for all
// tokens.
func silentForSomeTokens(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, repeatableNotification)
	run.waitUntil(beforeFault)
	faultStart := s.injectFaults(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, TokenShare: 0.05, Stall: &mockprovider.Stall{AnswerPings: true},
	})
	e := collectEvidence(m, run.wait(), faultStart)

	affected := map[string]bool{}
	for _, entry := range e.entriesAt(bad, "stall") {
		affected[entry.ID] = true
	}
	delivered := e.after.Count(func(n *load.Sample) bool {
		return affected[n.ID] && e.accepted[n.ID] == 1 && n.Status == "accepted" && len(n.Attempts) == 2 && n.Latency <= deliveryDeadline
	})
	s.expect("affected tokens", fmt.Sprint(len(affected)), len(affected) > 0)
	atLeast(&s.rowResult, "delivered by attempt 2", fractionOf(delivered, len(affected)), 1)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	// After the load has ended, only the unanswered requests of the last seconds are left to end.
	// Ejections that they cause do not count.
	end := run.started.Add(beforeFault + faultDuration)
	s.expectZero("ejections", len(g.eventsSince(faultStart, "ejected", ""))-len(g.eventsSince(end, "ejected", "")))
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// slowEndpoint is S04. One of eight endpoints is a second slower.
func slowEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, apnsNotification)
	run.waitUntil(beforeFault)
	faultStart := s.injectFaults(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, Delay: healthyResponse.Delay + time.Second, P99: healthyResponse.P99 + time.Second,
	})
	e := collectEvidence(m, run.wait(), faultStart)

	_, later := run.results.Split(faultStart.Add(5 * time.Second))
	attempts, _ := later.AttemptsOn(bad)
	ejections := 0
	for _, ejection := range g.eventsSince(faultStart, "ejected", bad) {
		if !strings.HasPrefix(ejection.Reason, "probe failed") {
			ejections++
		}
	}
	atMost(&s.rowResult, "its share of the requests after 5s", fractionOf(attempts, len(later)), 0.02)
	s.expectMaxIncrease("p99 after 5s", e.before.LatencyQuantile(0.99), later.LatencyQuantile(0.99), 100*time.Millisecond)
	atMost(&s.rowResult, "ejections, except after failed probes", ejections, 1)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectDialBudget(g, m, mockprovider.APNs)
}
