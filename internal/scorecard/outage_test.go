// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// steadyResponse has a response time with little variance. The p99 of a few thousand requests is
// then within 1 % of the service's own, and a larger change is caused by the gateway or the
// machine.
func steadyResponse(service string) mockprovider.Fault {
	return mockprovider.Fault{Service: service, Delay: 150 * time.Millisecond, P99: 200 * time.Millisecond}
}

// providerOutage is S09. One of the two providers of an app responds only with 503 for a minute.
// Callers do not repeat notifications.
func providerOutage(s *scenario) {
	const before, outage, after = 10 * time.Second, time.Minute, 10 * time.Second
	healthy := []mockprovider.Fault{steadyResponse(mockprovider.APNs), steadyResponse(mockprovider.FCM)}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(healthy...)})
	files := s.writeMockFiles(m)
	g := s.startGateway("", app{shopApp, joinBlocks(apnsBlock(m, files, ""), fcmBlock(m, files, ""))})
	apns, fcm := s.offerRate(g, loadRate/2, before+outage+after, apnsNotification), s.offerRate(g, loadRate/2, before+outage+after, fcmNotification)
	apns.waitUntil(before)
	failing := steadyResponse(mockprovider.APNs)
	failing.Status = 503
	faultStart := s.playFaults(m, failing, healthy[1])
	apns.waitUntil(before + outage)
	faultEnd := s.playFaults(m, healthy...)
	affected, unaffected := apns.wait(), fcm.wait()

	entries := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs})
	s.expectAmplification("requests per notification sent, after 10s", affected.Between(faultStart.Add(10*time.Second), faultEnd), entries, 1.1)
	s.expectAmplification("overall", affected.Between(faultStart, faultEnd), entries, 1.2)
	s.expectMaxChange("p99 of FCM", unaffected.Between(unaffected.Started.Add(warmUp), faultStart).LatencyQuantile(0.99), unaffected.Between(faultStart, faultEnd).LatencyQuantile(0.99), 0.05)
	s.expectZero("failed at FCM", s.countNotAccepted(unaffected.Samples))
	atMost(&s.rowResult, "goodput back at 95% after", recoveryTime(affected, faultEnd, apns.started.Add(before+outage+after), 0.95), 5*time.Second)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// expectAmplification records the number of requests per notification of which the provider
// received any. It excludes notifications that the gateway held back, which would improve the
// figure.
func (s *scenario) expectAmplification(name string, samples load.Samples, entries []mockprovider.Entry, limit float64) {
	sent, requests := map[string]bool{}, 0
	for i := range samples {
		if len(samples[i].Attempts) > 0 {
			sent[samples[i].ID] = true
		}
	}
	for i := range entries {
		if sent[strings.ToLower(entries[i].ID)] {
			requests++
		}
	}
	s.note("%s: %d requests for %d of %d notifications", name, requests, len(sent), len(samples))
	atMost(&s.rowResult, name, float64(requests)/float64(max(len(sent), 1)), limit)
}

// recoveryTime returns the time after from until sending works permanently: in each later half
// second until end, at least the fraction limit of the notifications due is accepted.
func recoveryTime(r load.Results, from, end time.Time, limit fraction) (after time.Duration) {
	const step = time.Second / 2
	at := from
	for ; !at.Add(step).After(end); at = at.Add(step) {
		if due := r.Between(at, at.Add(step)); fractionOf(len(due)-due.Count(notAccepted), len(due)) < limit {
			after = at.Add(step).Sub(from)
		}
	}
	if !from.Add(after).Before(at) {
		return never
	}
	return after
}
