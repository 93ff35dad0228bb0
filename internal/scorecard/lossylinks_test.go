// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"strconv"
	"time"

	"github.com/sluice-push/sluice/internal/load"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// lossyLinks is S21b. It uses the zones of S21 behind links with 15 ms of delay in each direction
// that lose one packet in a hundred. Later, all packets from the first zone are lost while packets
// to it still arrive, so the zone cannot detect the fault.
func lossyLinks(s *scenario) {
	const before, losing, muted, after = 15 * time.Second, 20 * time.Second, 10 * time.Second, 15 * time.Second
	r := s.startRegion(3, 15*time.Millisecond)
	for zone, c := range r.clients {
		c.start(zoneRate, before+losing+muted+after, func(i int) *push.Notification { return repeatableNotification(zone<<24 + i) })
	}
	mutedZone := r.clients[0]
	mutedZone.waitUntil(before)
	for _, h := range r.hosts {
		h.link.setLoss(toHost, lossFraction)
		h.link.setLoss(fromHost, lossFraction)
	}
	lossStart := time.Now()
	mutedZone.waitUntil(before + losing)
	lost := 0
	for _, h := range r.hosts {
		lost += h.link.lostFrames()
	}
	s.expect("packets lost", strconv.Itoa(lost), lost > 0)
	r.hosts[0].link.setLoss(fromHost, 1)
	muteStart := time.Now()
	mutedZone.waitUntil(before + losing + muted)
	r.hosts[0].link.setLoss(fromHost, lossFraction)
	muteEnd := time.Now()
	for _, c := range r.clients {
		c.wait()
	}
	r.checkLossyLinks(lossStart, muteStart, muteEnd)
}

// lossFraction is the fraction of packets lost in each direction.
const lossFraction = 0.01

func (r *region) checkLossyLinks(lossStart, muteStart, muteEnd time.Time) {
	sent, accepted := r.requestTimes(), r.mock.Ledger().AcceptedByID()
	var before, during load.Samples
	failed, abandoned, due, late := 0, 0, 0, 0
	for _, c := range r.clients {
		failed += r.countFailed(c.results.Samples, accepted)
		abandoned += c.abandonedBetween(lossStart, muteStart)
		before = append(before, c.results.Between(c.started.Add(warmUp), lossStart)...)
		during = append(during, c.results.Between(lossStart, muteStart.Add(-time.Second))...) // later calls may be affected by the muted zone
		for _, s := range c.results.Between(muteStart.Add(2*time.Second), muteEnd) {
			if due++; s.Latency > time.Second {
				late++
			}
		}
	}
	r.expectZero("gateways dropped because of it", abandoned)
	r.expectMaxIncrease("p99", before.LatencyQuantile(0.99), during.LatencyQuantile(0.99), 200*time.Millisecond)
	atMost(&r.rowResult, "cross-zone traffic", sent.crossZoneFraction(lossStart.Add(time.Second), muteStart), 0.01)
	atMost(&r.rowResult, "muted zone avoided by its callers after", r.clients[0].abandonedAfter(r.gateways[:gatewaysPerZone], muteStart), 2*time.Second)
	atLeast(&r.rowResult, "later calls answered within 1s", fractionOf(due-late, due), 0.99)
	r.expectZero("failed", failed)
	r.note("p99 without packet loss %s, p99.9 with packet loss %s", format(before.LatencyQuantile(0.99)), format(during.LatencyQuantile(0.999)))
}

// abandonedBetween counts the gateways that the client stopped using between two times.
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
