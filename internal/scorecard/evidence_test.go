// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/mockprovider"
)

// evidence combines the results of a load with the ledger of the service. Only the ledger shows
// what was delivered.
type evidence struct {
	before, after load.Samples // due before the fault, and after it or in the second before it
	faultStart    time.Time    // start of the fault
	entries       []mockprovider.Entry
	accepted      map[string]int // number of acceptances by notification ID
}

// collectEvidence splits the results at the start of the fault. It counts the last second before
// the fault as part of the fault, because notifications in flight are affected.
func collectEvidence(m *mockprovider.Mock, results load.Results, faultStart time.Time) evidence {
	e := evidence{faultStart: faultStart, entries: m.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}), accepted: m.Ledger().AcceptedByID()}
	e.before = results.Between(results.Started.Add(warmUp), faultStart.Add(-time.Second))
	_, e.after = results.Split(faultStart.Add(-time.Second))
	return e
}

// delivered returns the fraction of notifications that the service accepted and for which the
// sender got the receipt within the deadline.
func (e evidence) delivered() fraction {
	n := e.after.Count(func(s *load.Sample) bool { return e.accepted[s.ID] > 0 && s.Latency <= deliveryDeadline })
	return fractionOf(n, len(e.after))
}

// countFailed counts the notifications that did not end as accepted or that the service did not
// accept. It notes how they ended.
func (s *scenario) countFailed(samples load.Samples, accepted map[string]int) int {
	return s.countEnds(samples, func(n *load.Sample) bool { return accepted[n.ID] > 0 })
}

// countNotAccepted counts the notifications that did not end as accepted, for services that do not
// see the IDs of notifications.
func (s *scenario) countNotAccepted(samples load.Samples) int {
	return s.countEnds(samples, func(*load.Sample) bool { return true })
}

func (s *scenario) countEnds(samples load.Samples, inLedger func(*load.Sample) bool) (n int) {
	ends := map[string]int{}
	for i := range samples {
		switch end := &samples[i]; {
		case end.Status != "accepted":
			ends[fmt.Sprintf("%s %s after %d attempts", end.Status, end.Reason, len(end.Attempts))]++
			n++
		case !inLedger(end):
			ends["accepted, but not in the ledger"]++
			n++
		}
	}
	for _, end := range slices.Sorted(maps.Keys(ends)) {
		s.note("%d ended as %s", ends[end], end)
	}
	return n
}

// duplicates returns the number of acceptances beyond the first of each notification.
func (e evidence) duplicates() (n int) {
	for _, times := range e.accepted {
		n += times - 1
	}
	return n
}

// amplification returns the number of requests per notification since the fault.
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

// entriesAt returns the requests that an endpoint received since the fault, optionally only those
// hit by one kind of fault.
func (e evidence) entriesAt(endpoint, fault string) (matching []mockprovider.Entry) {
	for _, entry := range e.entries {
		if entry.Endpoint == endpoint && !entry.Time.Before(e.faultStart) && (fault == "" || entry.Fault == fault) {
			matching = append(matching, entry)
		}
	}
	return matching
}

// lastBefore returns the time of the last entry within limit after the fault, counted from the
// fault.
func (e evidence) lastBefore(entries []mockprovider.Entry, limit time.Duration) (last time.Duration) {
	for _, entry := range entries {
		if d := entry.Time.Sub(e.faultStart); d <= limit {
			last = max(last, d)
		}
	}
	return last
}

// replacementTime returns the time from the fault to the first request at an endpoint that received
// none before.
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

// expectP99 records the increase of the 99th percentile of the latency since the fault.
func (s *scenario) expectP99(e evidence, limit time.Duration) {
	s.expectMaxIncrease("p99", e.before.LatencyQuantile(0.99), e.after.LatencyQuantile(0.99), limit)
}

func (s *scenario) expectP999(e evidence, limit time.Duration) {
	s.expectMaxIncrease("p99.9", e.before.LatencyQuantile(0.999), e.after.LatencyQuantile(0.999), limit)
}

// expectDialBudget checks the dial budget: the size of the pools, plus one dial per lost or ejected
// endpoint and per GOAWAY, plus one dial per pool slot every ten seconds. It uses the higher of the
// counts of the gateway and the service.
func (s *scenario) expectDialBudget(g *gateway, m *mockprovider.Mock, service string) {
	slots, dials := 0, 0
	for _, service := range g.status().Services {
		slots += service.Pool.Size
		dials += service.Pool.Dials
	}
	if seen := int(m.Ledger().Summary().Services[service].Dials); seen > dials {
		dials = seen
	}
	lost := len(g.eventsSince(g.startedAt, "ejected", "")) + len(g.eventsSince(g.startedAt, "lost", "")) + len(g.eventsSince(g.startedAt, "go_away", ""))
	atMost(&s.rowResult, "dials", dials, slots+lost+slots*int(time.Since(g.startedAt)/(10*time.Second)))
}
