// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"time"

	"github.com/sluice-push/sluice/internal/scorecard/load"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// lossyLinks is S21b: the zones of S21 at the end of lines that take 15 ms each way and lose one packet in a hundred. Then
// nothing that the first zone sends arrives, while it hears all: it cannot know that it is alone.
func lossyLinks(s *scenario) {
	const calm, losing, mute, after = 15 * time.Second, 20 * time.Second, 10 * time.Second, 15 * time.Second
	r := s.startRegion(3, 15*time.Millisecond)
	for zone, c := range r.clients {
		c.start(zoneRate, calm+losing+mute+after, func(i int) *push.Notification { return repeatableNotification(zone<<24 + i) })
	}
	home := r.clients[0]
	home.waitUntil(calm)
	for _, h := range r.hosts {
		h.link.setLoss(toHost, lossFraction)
		h.link.setLoss(fromHost, lossFraction)
	}
	bad := time.Now()
	home.waitUntil(calm + losing)
	lost := 0
	for _, h := range r.hosts {
		lost += h.link.lostFrames()
	}
	s.expect("packets lost", strconv.Itoa(lost), lost > 0)
	r.hosts[0].link.setLoss(fromHost, 1)
	cut := time.Now()
	home.waitUntil(calm + losing + mute)
	r.hosts[0].link.setLoss(fromHost, lossFraction)
	heal := time.Now()
	for _, c := range r.clients {
		c.wait()
	}
	r.checkLossyLinks(bad, cut, heal)
}

// lossFraction is the part of the packets that does not arrive, in each direction.
const lossFraction = 0.01

func (r *region) checkLossyLinks(bad, cut, heal time.Time) {
	seen, accepted := r.requestTimes(), r.mock.Ledger().AcceptedByID()
	var before, since load.Samples
	failed, given, due, late := 0, 0, 0, 0
	for _, c := range r.clients {
		failed += r.countFailed(c.results.Samples, accepted)
		given += c.abandonedBetween(bad, cut)
		before = append(before, c.results.Between(c.started.Add(warmUp), bad)...)
		since = append(since, c.results.Between(bad, cut.Add(-time.Second))...) // what is due later may meet the silence
		for _, s := range c.results.Between(cut.Add(2*time.Second), heal) {
			if due++; s.Latency > time.Second {
				late++
			}
		}
	}
	r.expectZero("gateways dropped because of it", given)
	r.expectMaxIncrease("p99", before.LatencyQuantile(0.99), since.LatencyQuantile(0.99), 200*time.Millisecond)
	atMost(&r.rowResult, "cross-zone traffic", seen.crossZoneFraction(bad.Add(time.Second), cut), 0.01)
	atMost(&r.rowResult, "muted zone avoided by its callers after", r.clients[0].abandonedAfter(r.gateways[:gatewaysPerZone], cut), 2*time.Second)
	atLeast(&r.rowResult, "later calls answered within 1s", fractionOf(due-late, due), 0.99)
	r.expectZero("failed", failed)
	r.note("p99 without losses %s, p99.9 with them %s", format(before.LatencyQuantile(0.99)), format(since.LatencyQuantile(0.999)))
}

// abandonedBetween counts the gateways that were given up between two times.
func (c *clientLoad) abandonedBetween(from, until time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if (e.Kind == pool.EventConnLost || e.Kind == pool.EventEjected) && e.Time.After(from) && e.Time.Before(until) {
			n++
		}
	}
	return n
}
