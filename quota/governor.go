// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
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
// A rate.Limiter's SetLimit "may be violated or underutilized" by those who
// hold a place when it is called. It is never violated here: the rate is cut
// only together with closing the scope, and whoever holds a place then finds
// it closed when his time comes.
type governor struct {
	limit Limit

	mu      sync.Mutex
	bucket  *rate.Limiter // made when it is first needed; nil where there is no limit
	latest  time.Time     // the bucket's clock, which must not go back
	opens   time.Time     // closed until then
	slowed  float64       // the rate after a refusal; 0 when it is the limit's
	changed time.Time     // when slowed was last touched
}

// place is what take hands out. Its zero value is a place that costs nothing.
type place struct {
	governor *governor
	token    *rate.Reservation
	at       time.Time // the bucket's time when it was taken
}

// take takes a place that comes up within patience and returns how long until
// then; or it takes nothing and returns how long the scope is closed or full.
func (g *governor) take(now time.Time, patience time.Duration) (p place, wait time.Duration, ok bool) {
	if g == nil {
		return place{}, 0, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.latest = later(g.latest, later(now, g.opens))
	wait = max(g.opens.Sub(now), 0)
	if g.limit.Rate > 0 {
		p = place{governor: g, token: g.filled(g.latest).ReserveN(g.latest, 1), at: g.latest}
		wait += p.token.DelayFrom(g.latest)
	}
	if wait > patience {
		p.returned()
		return place{}, wait, false
	}
	return p, wait, true
}

// giveBack returns a place that was just taken and will not be used.
func (p place) giveBack() {
	if p.governor == nil {
		return
	}
	p.governor.mu.Lock()
	defer p.governor.mu.Unlock()
	p.returned()
}

// returned is giveBack for those who hold the governor's mu.
func (p place) returned() {
	if p.token != nil {
		p.token.CancelAt(p.at)
	}
}

// filled returns the bucket with its rate of that moment. g.mu is held.
func (g *governor) filled(at time.Time) *rate.Limiter {
	limit := rate.Limit(g.rate(at))
	if g.bucket == nil {
		g.bucket = rate.NewLimiter(limit, g.limit.burst())
	}
	if g.bucket.Limit() != limit {
		g.bucket.SetLimitAt(at, limit)
	}
	return g.bucket
}

// refused closes the scope and slows it down. The refusals of all that was in
// flight together count as one. It opens with one token in its bucket at the
// most, so that nobody bursts into a quota that has only just come back, and
// those who hold a later place are counted.
func (g *governor) refused(now time.Time, wait time.Duration) {
	opens := now.Add(min(max(wait, leastClosed), mostClosed))
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.opens.After(now) && g.limit.Rate > 0 {
		g.slowed = max(g.rate(now)*cut, g.limit.Rate*floor)
	}
	g.opens = later(g.opens, opens)
	g.changed = g.opens
	g.latest = later(g.latest, g.opens)
	if g.limit.Rate <= 0 {
		return
	}
	bucket := g.filled(g.latest)
	if surplus := int(bucket.TokensAt(g.latest)) - 1; surplus > 0 {
		bucket.AllowN(g.latest, surplus)
	}
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

// burst is how many a full bucket lets go at once.
func (l Limit) burst() int {
	if l.Burst > 0 {
		return l.Burst
	}
	return max(1, int(l.Rate/10))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
