// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

const (
	// minClosed is how long a refusal closes a scope when it names no time.
	minClosed = time.Second
	// maxClosed bounds what a provider can do to us by one answer. Google
	// tells senders to give a message up after about this long.
	maxClosed = time.Hour

	decreaseFactor    = 0.5  // what a refusal leaves of the rate
	minRateFraction   = 0.05 // the part of its ceiling that a rate never falls below
	increasePerSecond = 0.05 // the part of its ceiling that a rate regains each second

	minLearnedRate = 10 // a second: below it a rate that nobody configured is not taken for the quota
	forgetFactor   = 2  // times the rate at which it was refused, and such a rate is forgotten

	probeWindow = time.Second // by this much one goes before the others when a credential's time is over
)

// aimdLimiter is the pace of one scope: a rate that is halved when the provider
// refuses and rises again step by step, and the time until which the scope is
// closed. Where no rate is configured, the one at which the provider refused
// stands in for it until twice as much has gone well. Whoever uses it holds
// the lock that it lies under, and reads the time under it: the bucket's clock
// must not go back.
type aimdLimiter struct {
	limit      Limit
	learnsRate bool     // takes a rate from refusals where none is configured
	fraction   fraction // of the limit that may be spent here

	bucket       *rate.Limiter // nil until a rate is known
	tunedAt      time.Time     // when the bucket got its rate
	closedUntil  time.Time     // closed until then
	blockedUntil time.Time     // closed until then for the credential's sake, which says nothing of the rate
	probePending bool          // has been barred, and nobody has asked since
	probeUntil   time.Time     // when the others may go after the scout
	justReopened bool          // has been closed, and nobody has asked since
	reducedRate  float64       // the rate after a refusal; 0 when it is the limit's
	fullRate     float64       // what it was slowed from, and climbs back to
	reducedAt    time.Time     // when slowed was last touched
	passed       meter
}

// allow lets one through, or returns false.
func (g *aimdLimiter) allow(now time.Time) bool {
	if now.Before(g.closedUntil) || now.Before(g.blockedUntil) || now.Before(g.probeUntil) {
		return false
	}
	bucket := g.bucketAt(now, now)
	if bucket != nil && !bucket.AllowN(now, 1) {
		return false
	}
	g.passed.count(now)
	if g.probePending {
		g.probePending, g.probeUntil = false, now.Add(probeWindow)
	}
	return true
}

// delay returns how long it takes until count in a row could be let through.
func (g *aimdLimiter) delay(now time.Time, count int) time.Duration {
	closed := max(g.closedFor(now), g.probeUntil.Sub(now))
	bucket := g.bucketAt(now, now.Add(closed))
	if bucket == nil {
		return closed
	}
	return closed + timeUntilTokens(bucket, now.Add(closed), count)
}

// timeUntilTokens returns how long it takes until the bucket holds so many tokens.
func timeUntilTokens(bucket *rate.Limiter, now time.Time, count int) time.Duration {
	missing := float64(count) - bucket.TokensAt(now)
	switch {
	case missing <= 0:
		return 0
	case bucket.Limit() == 0: // until there is a share to be had
		return minClosed
	}
	return time.Duration(math.Round(missing / float64(bucket.Limit()) * float64(time.Second)))
}

// closedFor returns how long the scope stays closed.
func (g *aimdLimiter) closedFor(now time.Time) time.Duration {
	return max(later(g.closedUntil, g.blockedUntil).Sub(now), 0)
}

// bucketAt returns the bucket with its rate of that moment, nil where nothing
// limits it. A scope that has been closed opens with one token at the most, so
// that nobody bursts into a quota that has only just come back. A part that
// ends between now and then is taken to be renewed: it is looked at again
// before anybody is let through.
func (g *aimdLimiter) bucketAt(now, at time.Time) *rate.Limiter {
	if until, ended := g.fraction.expire(now); ended {
		g.updateBucket(until)
	}
	if g.updateBucket(at); g.bucket == nil {
		return nil
	}
	if g.justReopened && !at.Before(g.closedUntil) {
		g.justReopened = false
		g.bucket.AllowN(g.tunedAt, max(int(g.bucket.TokensAt(g.tunedAt))-1, 0))
	}
	return g.bucket
}

// spendable returns the part of the rate that is this gate's to spend. One that was learned was learned from its own traffic.
func (g *aimdLimiter) spendable() float64 {
	if !g.fraction.shared || g.limit.Rate == 0 {
		return 1
	}
	return g.fraction.current
}

// updateBucket gives the bucket its rate and its size from that moment on, or from the latest that it was asked for: while the
// scope is closed that is when it opens.
func (g *aimdLimiter) updateBucket(at time.Time) {
	at = later(at, g.tunedAt)
	g.tunedAt = at
	whole := g.currentRate(at)
	if whole == 0 {
		g.bucket = nil
		return
	}
	limit, burst := rate.Limit(whole*g.spendable()), scaledBurst(g.spendable(), g.burst())
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
func (g *aimdLimiter) burst() int {
	if g.limit.Rate > 0 {
		return g.limit.burst()
	}
	return Limit{Rate: g.fullRate}.burst()
}

// setLimit puts another limit in place. What the bucket holds stays, as far as it has room for it.
func (g *aimdLimiter) setLimit(now time.Time, limit Limit) {
	if g.limit == limit {
		return
	}
	g.bucketAt(now, now)
	g.limit = limit
	if limit.Rate > 0 && g.reducedRate > 0 {
		g.fullRate, g.reducedRate = limit.refillRate(), min(g.reducedRate, limit.refillRate())
	}
	g.bucketAt(now, now)
}

// recordRefusal closes the scope and slows it down. The refusals of all that was in
// flight together count as one.
func (g *aimdLimiter) recordRefusal(now time.Time, wait time.Duration) {
	if !g.closedUntil.After(now) {
		g.decrease(now)
	}
	g.closedUntil = later(g.closedUntil, now.Add(clampClosed(wait)))
	g.reducedAt, g.justReopened = g.closedUntil, true
}

// recordCredentialRefusal closes the scope while its credential is not taken. Less traffic would not mend that, so the rate stays. When the
// time is over one goes ahead, for the credential may still not be taken.
func (g *aimdLimiter) recordCredentialRefusal(now time.Time, wait time.Duration) {
	g.blockedUntil, g.probePending = later(g.blockedUntil, now.Add(clampClosed(wait))), true
}

func clampClosed(wait time.Duration) time.Duration { return min(max(wait, minClosed), maxClosed) }

func (g *aimdLimiter) decrease(now time.Time) {
	current := g.currentRate(now)
	g.fullRate = g.limit.refillRate()
	if g.limit.Rate == 0 && g.learnsRate {
		g.fullRate = max(g.passed.perSecond(now), minLearnedRate)
		current = g.fullRate
	}
	g.reducedRate = max(current*decreaseFactor, g.fullRate*minRateFraction)
}

// currentRate returns the rate after what it has regained by now, 0 where there is none.
func (g *aimdLimiter) currentRate(now time.Time) float64 {
	if g.reducedRate == 0 {
		return g.limit.refillRate()
	}
	if passed := now.Sub(g.reducedAt); passed > 0 {
		g.reducedRate += g.fullRate * increasePerSecond * passed.Seconds()
		g.reducedAt = now
	}
	whole := g.fullRate
	if g.limit.Rate == 0 {
		whole *= forgetFactor
	}
	if g.reducedRate >= whole {
		g.reducedRate = 0
		return g.limit.refillRate()
	}
	return g.reducedRate
}

// refillRate is the rate at which the bucket is refilled. A full bucket of size b that gets r a second lets through, in any
// half-open span of t seconds, at most b + ⌈r × t⌉ - 1; the last part in a million is for the rounding of numbers.
func (l Limit) refillRate() float64 {
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
	start             time.Time
	previous, current float64
}

func (m *meter) count(now time.Time) {
	m.advance(now)
	m.current++
}

func (m *meter) advance(now time.Time) {
	switch passed := now.Sub(m.start); {
	case passed < time.Second:
	case passed < 2*time.Second:
		m.start, m.previous, m.current = m.start.Add(time.Second), m.current, 0
	default:
		*m = meter{start: now}
	}
}

// perSecond returns the greater of this second's count and the last one's.
func (m *meter) perSecond(now time.Time) float64 {
	m.advance(now)
	return max(m.previous, m.current)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
