// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// steadyResponse is an answer that takes nearly always the same time: the p99 of a few thousand is then the service's own within a
// hundredth, and what moves it by more is the gateway's doing or the machine's.
func steadyResponse(service string) mockprovider.Fault {
	return mockprovider.Fault{Service: service, Delay: 150 * time.Millisecond, P99: 200 * time.Millisecond}
}

// providerOutage is S09: one of the two providers of an app answers nothing but 503 for a minute. Nobody who is told so comes back
// with the same notification, as nobody should who has a gateway to do that.
func providerOutage(s *scenario) {
	const calm, outage, after = 10 * time.Second, time.Minute, 10 * time.Second
	usual := []mockprovider.Fault{steadyResponse(mockprovider.APNs), steadyResponse(mockprovider.FCM)}
	m := s.startMock(mockprovider.Config{Endpoints: poolSize, Script: script(usual...)})
	files := s.writeMockFiles(m)
	g := s.startGateway("", app{shopApp, joinBlocks(apnsBlock(m, files, ""), fcmBlock(m, files, ""))})
	apns, fcm := s.offerRate(g, loadRate/2, calm+outage+after, apnsNotification), s.offerRate(g, loadRate/2, calm+outage+after, fcmNotification)
	apns.waitUntil(calm)
	ill := steadyResponse(mockprovider.APNs)
	ill.Status = 503
	cut := s.playFaults(m, ill, usual[1])
	apns.waitUntil(calm + outage)
	heal := s.playFaults(m, usual...)
	hit, other := apns.wait(), fcm.wait()

	entries := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs})
	s.expectAmplification("requests per notification sent, after 10s", hit.Between(cut.Add(10*time.Second), heal), entries, 1.1)
	s.expectAmplification("overall", hit.Between(cut, heal), entries, 1.2)
	s.expectMaxChange("p99 of FCM", other.Between(other.Started.Add(warmUp), cut).LatencyQuantile(0.99), other.Between(cut, heal).LatencyQuantile(0.99), 0.05)
	s.expectZero("failed at FCM", s.countNotAccepted(other.Samples))
	atMost(&s.rowResult, "goodput back at 95% after", recoveryTime(hit, heal, apns.started.Add(calm+outage+after), 0.95), 5*time.Second)
	s.expectDialBudget(g, m, mockprovider.APNs)
}

// expectAmplification enters how many requests the provider got for each notification of which it got any. Those that were held
// back are left out, though they would flatter the figure.
func (s *scenario) expectAmplification(name string, samples load.Samples, entries []mockprovider.Entry, most float64) {
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
	atMost(&s.rowResult, name, float64(requests)/float64(max(len(sent), 1)), most)
}

// recoveryTime is how long after from all goes well for good: of those that are due in each later half second, until the
// load's end, that share is accepted.
func recoveryTime(r load.Results, from, end time.Time, least fraction) (after time.Duration) {
	const step = time.Second / 2
	at := from
	for ; !at.Add(step).After(end); at = at.Add(step) {
		if due := r.Between(at, at.Add(step)); fractionOf(len(due)-due.Count(notAccepted), len(due)) < least {
			after = at.Add(step).Sub(from)
		}
	}
	if !from.Add(after).Before(at) {
		return never
	}
	return after
}
