// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"math"
	"sync"
	"time"
)

const (
	// leastClosed is how long a refusal closes a scope when it names no time.
	leastClosed = time.Second
	// mostClosed bounds what a provider can do to us by one answer. Google
	// tells senders to give a message up after about this long.
	mostClosed = time.Hour

	cut   = 0.5  // what a refusal leaves of the rate
	floor = 0.05 // the part of its limit that a rate never falls below
	climb = 0.05 // the part of its limit that a rate regains each second
)

// governor lets one scope's notifications through at a rate that it halves
// when the provider refuses one and raises again step by step. A nil governor
// lets everything through.
//
// The bucket is kept as in the generic cell rate algorithm (ITU-T I.371): one
// time says it all. A rate.Limiter would not do, for its SetLimit "may be
// violated" by those who hold a reservation, and here they often do.
type governor struct {
	limit Limit

	mu      sync.Mutex
	full    time.Time // when the bucket will be full again if nobody takes
	opens   time.Time // closed until then
	slowed  float64   // the rate after a refusal; 0 when it is the limit's
	changed time.Time // when slowed was last touched
}

// take takes a place that comes up within patience and returns how long until
// then; or it takes nothing and returns how long the scope is closed or full.
func (g *governor) take(now time.Time, patience time.Duration) (wait time.Duration, ok bool) {
	if g == nil {
		return 0, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	at, full := later(now, g.opens), g.full
	if g.limit.Rate > 0 {
		at, full = place(g.full, now, interval(g.rate(now)), g.limit.tolerance())
	}
	if wait = at.Sub(now); wait > patience {
		return wait, false
	}
	g.full = full
	return wait, true
}

// giveBack returns a place that was just taken and will not be used.
func (g *governor) giveBack() {
	if g == nil || g.limit.Rate <= 0 {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.full = g.full.Add(-interval(g.limit.Rate))
}

// refused closes the scope and slows it down. The refusals of all that was in
// flight together count as one. It opens with an empty bucket, so that nobody
// bursts into a quota that has only just come back, and no place comes before.
func (g *governor) refused(now time.Time, wait time.Duration) {
	opens := now.Add(min(max(wait, leastClosed), mostClosed))
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.opens.After(now) && g.limit.Rate > 0 {
		g.slowed = max(g.rate(now)*cut, g.limit.Rate*floor)
	}
	g.opens = later(g.opens, opens)
	g.changed = g.opens
	g.full = later(g.full, g.opens.Add(g.limit.tolerance()))
}

// closed returns how long the scope stays closed.
func (g *governor) closed(now time.Time) time.Duration {
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.opens.Sub(now), 0)
}

// speed returns the rate that the scope has now.
func (g *governor) speed(now time.Time) float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.rate(now)
}

// rate returns the rate after what it has regained by now. g.mu is held.
func (g *governor) rate(now time.Time) float64 {
	if g.slowed == 0 {
		return g.limit.Rate
	}
	if passed := now.Sub(g.changed); passed > 0 {
		g.slowed += g.limit.Rate * climb * passed.Seconds()
		g.changed = now
	}
	if g.slowed >= g.limit.Rate {
		g.slowed = 0
		return g.limit.Rate
	}
	return g.slowed
}

// place returns when the next notification may pass a bucket that will be full
// at the time full, and when it will be full after that one.
func place(full, now time.Time, interval, tolerance time.Duration) (at, after time.Time) {
	return later(now, full.Add(-tolerance)), later(now, full).Add(interval)
}

// interval is the time between two at the given rate, rounded so that the rate
// is kept.
func interval(rate float64) time.Duration {
	return time.Duration(math.Ceil(float64(time.Second) / rate))
}

// tolerance is how far ahead of its even pace a full bucket lets one run.
func (l Limit) tolerance() time.Duration {
	if l.Rate <= 0 {
		return 0
	}
	burst := l.Burst
	if burst <= 0 {
		burst = max(1, int(l.Rate/10))
	}
	return time.Duration(burst-1) * interval(l.Rate)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
