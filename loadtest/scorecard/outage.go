// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/mockprovider"
)

// even is an answer that takes nearly always the same time: the p99 of a few thousand is then the service's own within a
// hundredth, and what moves it by more is the gateway's doing or the machine's.
func even(service string) mockprovider.Fault {
	return mockprovider.Fault{Service: service, Delay: 150 * time.Millisecond, P99: 200 * time.Millisecond}
}

// down is S09: one of the two providers of an app answers nothing but 503 for a minute. Nobody who is told so comes back
// with the same notification, as nobody should who has a gateway to do that.
func down(s *stage) {
	const calm, outage, after = 10 * time.Second, time.Minute, 10 * time.Second
	usual := []mockprovider.Fault{even(mockprovider.APNs), even(mockprovider.FCM)}
	m := s.mock(mockprovider.Config{Endpoints: size, Script: script(usual...)})
	files := s.files(m)
	g := s.serve("", app{shop, both(apnsTo(m, files, ""), fcmTo(m, files, ""))})
	apns, fcm := s.offer(g, rate/2, calm+outage+after, toDevice), s.offer(g, rate/2, calm+outage+after, toRegistration)
	apns.at(calm)
	ill := even(mockprovider.APNs)
	ill.Status = 503
	cut := s.play(m, ill, usual[1])
	apns.at(calm + outage)
	heal := s.play(m, usual...)
	hit, other := apns.wait(), fcm.wait()

	entries := m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs})
	s.amplified("requests for each notification sent, after 10s", hit.Between(cut.Add(10*time.Second), heal), entries, 1.1)
	s.amplified("overall", hit.Between(cut, heal), entries, 1.2)
	s.moved("p99 of FCM", other.Between(other.Began.Add(warmUp), cut).Latency(0.99), other.Between(cut, heal).Latency(0.99), 0.05)
	s.none("failed at FCM", s.unaccepted(other.Samples))
	atMost(&s.card, "95% goodput again after", recovered(hit, heal, apns.began.Add(calm+outage+after), 0.95), 5*time.Second)
	s.dials(g, m, mockprovider.APNs)
}

// amplified enters how many requests the provider got for each notification of which it got any. Those that were held
// back are left out, though they would flatter the figure.
func (s *stage) amplified(name string, samples loadtest.Samples, entries []mockprovider.Entry, most float64) {
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
	atMost(&s.card, name, float64(requests)/float64(max(len(sent), 1)), most)
}

// recovered is how long after from all goes well for good: of those that are due in each later half second, until the
// load's end, that share is accepted.
func recovered(r loadtest.Results, from, end time.Time, least share) (after time.Duration) {
	const step = time.Second / 2
	at := from
	for ; !at.Add(step).After(end); at = at.Add(step) {
		if due := r.Between(at, at.Add(step)); shareOf(len(due)-due.Count(notAccepted), len(due)) < least {
			after = at.Add(step).Sub(from)
		}
	}
	if !from.Add(after).Before(at) {
		return never
	}
	return after
}
