// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// evidence is a load's results beside what the service received, which alone says what was delivered.
type evidence struct {
	before, after load.Samples // before the fault, and from just before it on
	faultStart    time.Time    // when the fault began
	entries       []mockprovider.Entry
	accepted      map[string]int // by notification
}

// collectEvidence parts the results at the fault. A second before it belongs to it, for what was in flight then meets it, too.
func collectEvidence(m *mockprovider.Mock, got load.Results, cut time.Time) evidence {
	e := evidence{faultStart: cut, entries: m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}), accepted: m.Ledger().AcceptedByID()}
	e.before = got.Between(got.Started.Add(warmUp), cut.Add(-time.Second))
	_, e.after = got.Split(cut.Add(-time.Second))
	return e
}

// delivered is the share of those whom the service has accepted, and whose sender knew it within the deadline.
func (e evidence) delivered() fraction {
	n := e.after.Count(func(s *load.Sample) bool { return e.accepted[s.ID] > 0 && s.Latency <= deliveryDeadline })
	return fractionOf(n, len(e.after))
}

// countFailed counts those that did not end as accepted, or of which the service knows nothing, and notes how they ended.
func (s *scenario) countFailed(samples load.Samples, accepted map[string]int) int {
	return s.countEnds(samples, func(n *load.Sample) bool { return accepted[n.ID] > 0 })
}

// countNotAccepted counts those that did not end as accepted, for services that do not know the notifications' IDs.
func (s *scenario) countNotAccepted(samples load.Samples) int {
	return s.countEnds(samples, func(*load.Sample) bool { return true })
}

func (s *scenario) countEnds(samples load.Samples, known func(*load.Sample) bool) (n int) {
	ends := map[string]int{}
	for i := range samples {
		switch end := &samples[i]; {
		case end.Status != "accepted":
			ends[fmt.Sprintf("%s %s after %d attempts", end.Status, end.Reason, len(end.Attempts))]++
			n++
		case !known(end):
			ends["accepted, and the service knows nothing of it"]++
			n++
		}
	}
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		s.note("%d ended as %s", ends[end], end)
	}
	return n
}

// duplicates are acceptances beyond the first.
func (e evidence) duplicates() (n int) {
	for _, times := range e.accepted {
		n += times - 1
	}
	return n
}

// amplification is how many requests a notification cost since the fault.
func (e evidence) amplification() float64 {
	ids := map[string]bool{}
	for i := range e.after {
		ids[e.after[i].ID] = true
	}
	requests := 0
	for _, entry := range e.entries {
		if ids[strings.ToLower(entry.ID)] {
			requests++
		}
	}
	return float64(requests) / float64(max(len(e.after), 1))
}

// entriesAt returns what an endpoint received of a kind since the fault.
func (e evidence) entriesAt(endpoint, fault string) (found []mockprovider.Entry) {
	for _, entry := range e.entries {
		if entry.Endpoint == endpoint && !entry.Time.Before(e.faultStart) && (fault == "" || entry.Fault == fault) {
			found = append(found, entry)
		}
	}
	return found
}

// lastBefore is when the last of the entries came, counted from the fault, that came before the limit.
func (e evidence) lastBefore(entries []mockprovider.Entry, limit time.Duration) (last time.Duration) {
	for _, entry := range entries {
		if d := entry.Time.Sub(e.faultStart); d <= limit {
			last = max(last, d)
		}
	}
	return last
}

// replacementTime is when an endpoint that had received nothing before the fault received its first request.
func (e evidence) replacementTime() time.Duration {
	seen := map[string]bool{}
	for _, entry := range e.entries {
		if entry.Time.Before(e.faultStart) {
			seen[entry.Endpoint] = true
		} else if !seen[entry.Endpoint] {
			return entry.Time.Sub(e.faultStart)
		}
	}
	return never
}

// expectP99 and p999 enter by how much the latency has grown since the fault.
func (s *scenario) expectP99(e evidence, most time.Duration) {
	s.expectMaxIncrease("p99", e.before.LatencyQuantile(0.99), e.after.LatencyQuantile(0.99), most)
}

func (s *scenario) expectP999(e evidence, most time.Duration) {
	s.expectMaxIncrease("p99.9", e.before.LatencyQuantile(0.999), e.after.LatencyQuantile(0.999), most)
}

// expectDialBudget holds every row against the dial budget: the pool, one for each endpoint or connection that was lost, and one for
// each place in every ten seconds. Of the gateway's count and the service's the greater one counts.
func (s *scenario) expectDialBudget(g *gateway, m *mockprovider.Mock, service string) {
	places, dialled := 0, 0
	for _, service := range g.status().Services {
		places += service.Pool.Size
		dialled += service.Pool.Dials
	}
	if seen := int(m.Ledger().Summary().Services[service].Dials); seen > dialled {
		dialled = seen
	}
	lost := len(g.eventsSince(g.startedAt, "ejected", "")) + len(g.eventsSince(g.startedAt, "lost", "")) + len(g.eventsSince(g.startedAt, "go_away", ""))
	atMost(&s.rowResult, "dials", dialled, places+lost+places*int(time.Since(g.startedAt)/(10*time.Second)))
}
