// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strconv"
	"time"

	"github.com/sluice-push/sluice/loadtest"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// badLines is S21b: the zones of S21 at the end of lines that take 15 ms each way and lose one packet in a hundred. Then
// nothing that the first zone sends arrives, while it hears all: it cannot know that it is alone.
func badLines(s *stage) {
	const calm, losing, mute, after = 15 * time.Second, 20 * time.Second, 10 * time.Second, 15 * time.Second
	r := s.region(3, 15*time.Millisecond)
	for zone, c := range r.callers {
		c.offer(ofAZone, calm+losing+mute+after, func(i int) *push.Notification { return repeated(zone<<24 + i) })
	}
	home := r.callers[0]
	home.at(calm)
	for _, h := range r.hosts {
		h.trunk.lose(there, lossy)
		h.trunk.lose(back, lossy)
	}
	bad := time.Now()
	home.at(calm + losing)
	lost := 0
	for _, h := range r.hosts {
		lost += h.trunk.losses()
	}
	s.must("packets lost on the way", strconv.Itoa(lost), lost > 0)
	r.hosts[0].trunk.lose(back, 1)
	cut := time.Now()
	home.at(calm + losing + mute)
	r.hosts[0].trunk.lose(back, lossy)
	heal := time.Now()
	for _, c := range r.callers {
		c.wait()
	}
	r.judgeLines(bad, cut, heal)
}

// lossy is the part of the packets that does not arrive, in each direction.
const lossy = 0.01

func (r *region) judgeLines(bad, cut, heal time.Time) {
	seen, accepted := r.sent(), r.m.Ledger().AcceptedByID()
	var before, since loadtest.Samples
	failed, given, due, late := 0, 0, 0, 0
	for _, c := range r.callers {
		failed += r.failed(c.got.Samples, accepted)
		given += c.gaveUp(bad, cut)
		before = append(before, c.got.Between(c.began.Add(warmUp), bad)...)
		since = append(since, c.got.Between(bad, cut.Add(-time.Second))...) // what is due later may meet the silence
		for _, s := range c.got.Between(cut.Add(2*time.Second), heal) {
			if due++; s.Latency > time.Second {
				late++
			}
		}
	}
	r.none("gateways given up for that", given)
	r.added("p99", before.Latency(0.99), since.Latency(0.99), 200*time.Millisecond)
	atMost(&r.card, "across zones", seen.crossed(bad.Add(time.Second), cut), 0.01)
	atMost(&r.card, "a zone that cannot be heard left by its callers", r.callers[0].lost(r.gateways[:inZone], cut), 2*time.Second)
	atLeast(&r.card, "of calls due from then on, answered within 1s", shareOf(due-late, due), 0.99)
	r.none("failed", failed)
	r.note("p99 without losses %s, p99.9 with them %s", write(before.Latency(0.99)), write(since.Latency(0.999)))
}

// gaveUp counts the gateways that were given up between two times.
func (c *callers) gaveUp(from, until time.Time) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if (e.Kind == pool.EventConnLost || e.Kind == pool.EventEjected) && e.Time.After(from) && e.Time.Before(until) {
			n++
		}
	}
	return n
}
