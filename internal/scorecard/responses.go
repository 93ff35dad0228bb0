// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// erroringEndpoint is S02: one of eight endpoints answers 500 and 503, as fast as the others.
func erroringEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, apnsNotification)
	run.waitUntil(beforeFault)
	broken := mockprovider.Fault{Service: mockprovider.APNs, Endpoint: bad, Status: 503, Delay: healthyResponse.Delay, P99: healthyResponse.P99}
	half := broken
	half.Status, half.Share = 500, 0.5
	cut := s.injectFaults(m, half, broken)
	e := collectEvidence(m, run.wait(), cut)

	opened, failures := g.eventsSince(cut, "ejected", bad), 0
	if len(opened) > 0 {
		_, _ = fmt.Sscanf(opened[0].Reason, "%d consecutive failures", &failures)
	}
	s.expect("breaker opened after", fmt.Sprintf("%d failures in a row (<= 5)", failures), failures > 0 && failures <= 5)
	atMost(&s.rowResult, "requests to it", len(e.entriesAt(bad, "status")), 30)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectP99(e, 20*time.Millisecond)
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// flakyEndpoint is S03: one of eight endpoints fails three requests of ten at random.
func flakyEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, apnsNotification)
	run.waitUntil(beforeFault)
	cut := s.injectFaults(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, Share: 0.3, Status: 503, Delay: healthyResponse.Delay, P99: healthyResponse.P99,
	})
	e := collectEvidence(m, run.wait(), cut)

	out := never
	if opened := g.eventsSince(cut, "ejected", bad); len(opened) > 0 {
		out = opened[0].Time.Sub(cut)
		s.note("ejected for: %s", opened[0].Reason)
	}
	atMost(&s.rowResult, "ejected after", out, 10*time.Second)
	atMost(&s.rowResult, "failed", fractionOf(s.countFailed(e.after, e.accepted), len(e.after)), 0.0001)
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// silentForSomeTokens is S03b: one of eight endpoints never answers for one device token in twenty, and answers PING and the other
// tokens as ever. Other endpoints know those tokens.
func silentForSomeTokens(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, repeatableNotification)
	run.waitUntil(beforeFault)
	cut := s.injectFaults(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, TokenShare: 0.05, Stall: &mockprovider.Stall{AnswerPings: true},
	})
	e := collectEvidence(m, run.wait(), cut)

	deaf := map[string]bool{}
	for _, entry := range e.entriesAt(bad, "stall") {
		deaf[entry.ID] = true
	}
	elsewhere := e.after.Count(func(n *load.Sample) bool {
		return deaf[n.ID] && e.accepted[n.ID] == 1 && n.Status == "accepted" && len(n.Attempts) == 2 && n.Latency <= deliveryDeadline
	})
	s.expect("affected tokens", fmt.Sprint(len(deaf)), len(deaf) > 0)
	atLeast(&s.rowResult, "delivered by attempt 2", fractionOf(elsewhere, len(deaf)), 1)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	// With the load end the answers, but not the silences of the last seconds: what they alone bring is not counted.
	end := run.started.Add(beforeFault + faultDuration)
	s.expectZero("ejections", len(g.eventsSince(cut, "ejected", ""))-len(g.eventsSince(end, "ejected", "")))
	s.expectZero("duplicates", e.duplicates())
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// slowEndpoint is S04: one of eight endpoints takes a second longer.
func slowEndpoint(s *scenario) {
	m := s.startMock(mockprovider.Config{Endpoints: poolSize + spareEndpoints})
	g := s.startAPNsGateway(m, "")
	bad := m.APNsAddrs()[0].String()
	run := s.offerRate(g, loadRate, beforeFault+faultDuration, apnsNotification)
	run.waitUntil(beforeFault)
	cut := s.injectFaults(m, mockprovider.Fault{
		Service: mockprovider.APNs, Endpoint: bad, Delay: healthyResponse.Delay + time.Second, P99: healthyResponse.P99 + time.Second,
	})
	e := collectEvidence(m, run.wait(), cut)

	_, later := run.results.Split(cut.Add(5 * time.Second))
	there, _ := later.AttemptsOn(bad)
	flaps := 0
	for _, again := range g.eventsSince(cut, "ejected", bad) {
		if !strings.HasPrefix(again.Reason, "probe failed") {
			flaps++
		}
	}
	atMost(&s.rowResult, "its share of the requests after 5s", fractionOf(there, len(later)), 0.02)
	s.expectMaxIncrease("p99 after 5s", e.before.LatencyQuantile(0.99), later.LatencyQuantile(0.99), 100*time.Millisecond)
	atMost(&s.rowResult, "ejections, except after failed probes", flaps, 1)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectDialBudget(g, m, mockprovider.APNs)
}
