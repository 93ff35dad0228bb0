// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"math"
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
	floor = 0.05 // the part of its ceiling that a rate never falls below
	climb = 0.05 // the part of its ceiling that a rate regains each second

	leastLearned = 10 // a second: below it a rate that nobody configured is not taken for the quota
	forgiven     = 2  // times the rate at which it was refused, and such a rate is forgotten

	ahead = time.Second // by this much one goes before the others when a credential's time is over
)

// governor is the pace of one scope: a rate that is halved when the provider
// refuses and rises again step by step, and the time until which the scope is
// closed. Where no rate is configured, the one at which the provider refused
// stands in for it until twice as much has gone well. Whoever uses it holds
// the lock that it lies under, and reads the time under it: the bucket's clock
// must not go back.
type governor struct {
	limit  Limit
	learns bool // takes a rate from refusals where none is configured
	part   part // of the limit that may be spent here

	bucket   *rate.Limiter // nil until a rate is known
	tuned    time.Time     // when the bucket got its rate
	opens    time.Time     // closed until then
	barred   time.Time     // closed until then for the credential's sake, which says nothing of the rate
	scout    bool          // has been barred, and nobody has asked since
	follow   time.Time     // when the others may go after the scout
	reopened bool          // has been closed, and nobody has asked since
	slowed   float64       // the rate after a refusal; 0 when it is the limit's
	ceiling  float64       // what it was slowed from, and climbs back to
	changed  time.Time     // when slowed was last touched
	seen     meter
}

// take lets one through, or returns false.
func (g *governor) take(now time.Time) bool {
	if now.Before(g.opens) || now.Before(g.barred) || now.Before(g.follow) {
		return false
	}
	bucket := g.filled(now, now)
	if bucket != nil && !bucket.AllowN(now, 1) {
		return false
	}
	g.seen.count(now)
	if g.scout {
		g.scout, g.follow = false, now.Add(ahead)
	}
	return true
}

// wait returns how long it takes until count in a row could be let through.
func (g *governor) wait(now time.Time, count int) time.Duration {
	closed := max(g.closed(now), g.follow.Sub(now))
	bucket := g.filled(now, now.Add(closed))
	if bucket == nil {
		return closed
	}
	return closed + shortage(bucket, now.Add(closed), count)
}

// shortage returns how long it takes until the bucket holds so many tokens.
func shortage(bucket *rate.Limiter, now time.Time, count int) time.Duration {
	missing := float64(count) - bucket.TokensAt(now)
	switch {
	case missing <= 0:
		return 0
	case bucket.Limit() == 0: // until there is a share to be had
		return leastClosed
	}
	return time.Duration(math.Round(missing / float64(bucket.Limit()) * float64(time.Second)))
}

// closed returns how long the scope stays closed.
func (g *governor) closed(now time.Time) time.Duration {
	return max(later(g.opens, g.barred).Sub(now), 0)
}

// filled returns the bucket with its rate of that moment, nil where nothing
// limits it. A scope that has been closed opens with one token at the most, so
// that nobody bursts into a quota that has only just come back. A part that
// ends between now and then is taken to be renewed: it is looked at again
// before anybody is let through.
func (g *governor) filled(now, at time.Time) *rate.Limiter {
	if until, ended := g.part.end(now); ended {
		g.tune(until)
	}
	if g.tune(at); g.bucket == nil {
		return nil
	}
	if g.reopened && !at.Before(g.opens) {
		g.reopened = false
		g.bucket.AllowN(g.tuned, max(int(g.bucket.TokensAt(g.tuned))-1, 0))
	}
	return g.bucket
}

// spends returns the part of the rate that is this gate's to spend. One that was learned was learned from its own traffic.
func (g *governor) spends() float64 {
	if !g.part.shared || g.limit.Rate == 0 {
		return 1
	}
	return g.part.now
}

// tune gives the bucket its rate and its size from that moment on, or from the latest that it was asked for: while the
// scope is closed that is when it opens.
func (g *governor) tune(at time.Time) {
	at = later(at, g.tuned)
	g.tuned = at
	whole := g.rate(at)
	if whole == 0 {
		g.bucket = nil
		return
	}
	limit, burst := rate.Limit(whole*g.spends()), partOf(g.spends(), g.burst())
	if g.bucket == nil {
		g.bucket = rate.NewLimiter(limit, burst)
		g.bucket.AllowN(at, 0) // its clock begins here
	}
	if g.bucket.Limit() != limit {
		g.bucket.SetLimitAt(at, limit)
	}
	if g.bucket.Burst() != burst {
		g.bucket.SetBurstAt(at, burst)
	}
}

// burst is the configured one, or that of the rate that was learned.
func (g *governor) burst() int {
	if g.limit.Rate > 0 {
		return g.limit.burst()
	}
	return Limit{Rate: g.ceiling}.burst()
}

// change puts another limit in place. What the bucket holds stays, as far as it has room for it.
func (g *governor) change(now time.Time, limit Limit) {
	if g.limit == limit {
		return
	}
	g.filled(now, now)
	g.limit = limit
	if limit.Rate > 0 && g.slowed > 0 {
		g.ceiling, g.slowed = limit.pace(), min(g.slowed, limit.pace())
	}
	g.filled(now, now)
}

// refused closes the scope and slows it down. The refusals of all that was in
// flight together count as one.
func (g *governor) refused(now time.Time, wait time.Duration) {
	if !g.opens.After(now) {
		g.slow(now)
	}
	g.opens = later(g.opens, now.Add(bounded(wait)))
	g.changed, g.reopened = g.opens, true
}

// bar closes the scope while its credential is not taken. Less traffic would not mend that, so the rate stays. When the
// time is over one goes ahead, for the credential may still not be taken.
func (g *governor) bar(now time.Time, wait time.Duration) {
	g.barred, g.scout = later(g.barred, now.Add(bounded(wait))), true
}

func bounded(wait time.Duration) time.Duration { return min(max(wait, leastClosed), mostClosed) }

func (g *governor) slow(now time.Time) {
	current := g.rate(now)
	g.ceiling = g.limit.pace()
	if g.limit.Rate == 0 && g.learns {
		g.ceiling = max(g.seen.perSecond(now), leastLearned)
		current = g.ceiling
	}
	g.slowed = max(current*cut, g.ceiling*floor)
}

// rate returns the rate after what it has regained by now, 0 where there is none.
func (g *governor) rate(now time.Time) float64 {
	if g.slowed == 0 {
		return g.limit.pace()
	}
	if passed := now.Sub(g.changed); passed > 0 {
		g.slowed += g.ceiling * climb * passed.Seconds()
		g.changed = now
	}
	whole := g.ceiling
	if g.limit.Rate == 0 {
		whole *= forgiven
	}
	if g.slowed >= whole {
		g.slowed = 0
		return g.limit.pace()
	}
	return g.slowed
}

// pace is the rate at which the bucket is refilled. A full bucket of size b that gets r a second lets through, in any
// half-open span of t seconds, at most b + ⌈r × t⌉ - 1; the last part in a million is for the rounding of numbers.
func (l Limit) pace() float64 {
	if l.Per == 0 || l.Rate == 0 {
		return l.Rate
	}
	most := l.Rate * l.Per.Seconds()
	return max(most-float64(l.burst()-1), 1) / l.Per.Seconds() * (1 - 1e-6)
}

// burst is how many a full bucket lets go at once. By default no second gets
// more than 1.04 times the rate from here: what bunches on the way has room
// below 1.05.
func (l Limit) burst() int {
	if l.Burst > 0 {
		return l.Burst
	}
	return max(1, int(l.Rate/25))
}

// meter measures a rate over the last second.
type meter struct {
	began       time.Time
	before, now float64
}

func (m *meter) count(now time.Time) {
	m.roll(now)
	m.now++
}

func (m *meter) roll(now time.Time) {
	switch passed := now.Sub(m.began); {
	case passed < time.Second:
	case passed < 2*time.Second:
		m.began, m.before, m.now = m.began.Add(time.Second), m.now, 0
	default:
		*m = meter{began: now}
	}
}

// perSecond returns the greater of this second's count and the last one's.
func (m *meter) perSecond(now time.Time) float64 {
	m.roll(now)
	return max(m.before, m.now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
