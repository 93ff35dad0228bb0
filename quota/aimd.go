// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"math"
	"time"

	"golang.org/x/time/rate"
)

const (
	// minClosed is how long a refusal without a Retry-After closes a scope.
	minClosed = time.Second
	// maxClosed is the longest time that one refusal can close a scope. Google tells senders to
	// give up a message after about this time.
	maxClosed = time.Hour

	decreaseFactor    = 0.5  // factor applied to the rate after a refusal
	minRateFraction   = 0.05 // lower bound of the rate, relative to fullRate
	increasePerSecond = 0.05 // recovery of the rate per second, relative to fullRate

	minLearnedRate = 10 // per second; lower bound of a learned full rate
	forgetFactor   = 2  // a learned rate is dropped when the rate reaches this multiple of it

	probeWindow = time.Second // lead of the first attempt after a credential refusal
)

// aimdLimiter limits the rate of one scope by additive increase and multiplicative decrease: a
// refusal by the provider halves the rate and closes the scope for a time; then the rate recovers
// step by step. Without a configured rate, the rate at the time of the refusal is used as the limit
// until the rate has recovered to twice that value.
//
// The caller must hold the lock that guards the aimdLimiter and read the time while holding it: the
// clock of the bucket must not go backwards.
type aimdLimiter struct {
	limit      Limit
	learnsRate bool     // learn the rate from refusals if none is configured
	fraction   fraction // of the limit that this gateway may use

	bucket       *rate.Limiter // nil while no rate is known
	tunedAt      time.Time     // time of the last updateBucket
	closedUntil  time.Time     // end of a quota refusal
	blockedUntil time.Time     // end of a credential refusal, which does not affect the rate
	probePending bool          // blocked, and no attempt has been allowed since
	probeUntil   time.Time     // while the probe has the lead, no other attempt is allowed
	justReopened bool          // closed, and the bucket has not been drained since
	reducedRate  float64       // rate after a refusal; 0: not reduced
	fullRate     float64       // rate to which reducedRate recovers
	reducedAt    time.Time     // time at which reducedRate was computed
	passed       meter         // allowed attempts
}

// take takes up to n tokens, and returns how many.
func (l *aimdLimiter) take(now time.Time, n int) int {
	if now.Before(l.closedUntil) || now.Before(l.blockedUntil) || now.Before(l.probeUntil) {
		return 0
	}
	if l.probePending {
		n = min(n, 1)
	}
	if bucket := l.bucketAt(now, now); bucket != nil {
		n = min(n, int(bucket.TokensAt(now))+1) // AllowN rounds up
		for n > 0 && !bucket.AllowN(now, n) {
			n--
		}
	}
	if n == 0 {
		return 0
	}
	l.passed.count(now, n)
	if l.probePending {
		l.probePending, l.probeUntil = false, now.Add(probeWindow)
	}
	return n
}

// restore returns n tokens that were not used.
func (l *aimdLimiter) restore(now time.Time, n int) {
	l.passed.count(now, -n)
	if bucket := l.bucketAt(now, now); bucket != nil {
		bucket.AllowN(later(now, l.tunedAt), -n)
	}
}

// delay returns the time until count attempts in a row can be allowed.
func (l *aimdLimiter) delay(now time.Time, count int) time.Duration {
	closed := max(l.closedFor(now), l.probeUntil.Sub(now))
	bucket := l.bucketAt(now, now.Add(closed))
	if bucket == nil {
		return closed
	}
	return closed + timeUntilTokens(bucket, now.Add(closed), count)
}

// timeUntilTokens returns the time until the bucket has count tokens.
func timeUntilTokens(bucket *rate.Limiter, now time.Time, count int) time.Duration {
	missing := float64(count) - bucket.TokensAt(now)
	switch {
	case missing <= 0:
		return 0
	case bucket.Limit() == 0: // no share: try again until there is one
		return minClosed
	}
	return time.Duration(math.Round(missing / float64(bucket.Limit()) * float64(time.Second)))
}

// closedFor returns how long the scope stays closed.
func (l *aimdLimiter) closedFor(now time.Time) time.Duration {
	return max(later(l.closedUntil, l.blockedUntil).Sub(now), 0)
}

// bucketAt returns the bucket with the rate at the time at, or nil if there is no limit. A scope
// that was closed reopens with at most one token, so that no burst hits a quota that has just
// recovered. bucketAt assumes that a share that expires between now and at is renewed; allow checks
// it again.
func (l *aimdLimiter) bucketAt(now, at time.Time) *rate.Limiter {
	if until, expired := l.fraction.expire(now); expired {
		l.updateBucket(until)
	}
	if l.updateBucket(at); l.bucket == nil {
		return nil
	}
	if l.justReopened && !at.Before(l.closedUntil) {
		l.justReopened = false
		l.bucket.AllowN(l.tunedAt, max(int(l.bucket.TokensAt(l.tunedAt))-1, 0))
	}
	return l.bucket
}

// spendable returns the fraction of the rate that this gateway may use. It is 1 for a learned rate,
// which comes from the gateway's own traffic.
func (l *aimdLimiter) spendable() float64 {
	if !l.fraction.shared || l.limit.Rate == 0 {
		return 1
	}
	return l.fraction.current
}

// updateBucket sets the rate and the size of the bucket from the time at on. at never goes back:
// while the scope is closed, it is the time at which the scope reopens.
func (l *aimdLimiter) updateBucket(at time.Time) {
	at = later(at, l.tunedAt)
	l.tunedAt = at
	total := l.currentRate(at)
	if total == 0 {
		l.bucket = nil
		return
	}
	adjustBucket(&l.bucket, at, rate.Limit(total*l.spendable()), scaledBurst(l.spendable(), l.burst()))
}

// adjustBucket sets the rate and the size of a bucket from the time at on, and returns it. It creates
// the bucket on first use.
func adjustBucket(bucket **rate.Limiter, at time.Time, limit rate.Limit, burst int) *rate.Limiter {
	b := *bucket
	if b == nil {
		b = rate.NewLimiter(limit, burst)
		b.AllowN(at, 0) // start its clock
		*bucket = b
	}
	if b.Limit() != limit {
		b.SetLimitAt(at, limit)
	}
	if b.Burst() != burst {
		b.SetBurstAt(at, burst)
	}
	return b
}

// burst returns the burst of the configured or the learned rate.
func (l *aimdLimiter) burst() int {
	if l.limit.Rate > 0 {
		return l.limit.burst()
	}
	return Limit{Rate: l.fullRate}.burst()
}

// setLimit replaces the limit. The bucket keeps its tokens up to its new size.
func (l *aimdLimiter) setLimit(now time.Time, limit Limit) {
	if l.limit == limit {
		return
	}
	l.bucketAt(now, now)
	l.limit = limit
	if limit.Rate > 0 && l.reducedRate > 0 {
		l.fullRate, l.reducedRate = limit.refillRate(), min(l.reducedRate, limit.refillRate())
	}
	l.bucketAt(now, now)
}

// recordRefusal closes the scope and lowers its rate. Refusals while the scope is closed, such as
// those of all attempts in flight, lower it only once.
func (l *aimdLimiter) recordRefusal(now time.Time, wait time.Duration) {
	if !l.closedUntil.After(now) {
		l.decrease(now)
	}
	l.closedUntil = later(l.closedUntil, now.Add(clampClosed(wait)))
	l.reducedAt, l.justReopened = l.closedUntil, true
}

// recordCredentialRefusal closes the scope after its credential was refused. The rate does not
// change: less traffic would not help. Then one attempt is allowed before the others, because the
// credential may still be refused.
func (l *aimdLimiter) recordCredentialRefusal(now time.Time, wait time.Duration) {
	l.blockedUntil, l.probePending = later(l.blockedUntil, now.Add(clampClosed(wait))), true
}

func clampClosed(wait time.Duration) time.Duration { return min(max(wait, minClosed), maxClosed) }

// decrease lowers the rate after a refusal.
func (l *aimdLimiter) decrease(now time.Time) {
	current := l.currentRate(now)
	l.fullRate = l.limit.refillRate()
	if l.limit.Rate == 0 && l.learnsRate {
		l.fullRate = max(l.passed.perSecond(now), minLearnedRate)
		current = l.fullRate
	}
	l.reducedRate = max(current*decreaseFactor, l.fullRate*minRateFraction)
}

// currentRate returns the rate including its recovery until now; 0 means no limit.
func (l *aimdLimiter) currentRate(now time.Time) float64 {
	if l.reducedRate == 0 {
		return l.limit.refillRate()
	}
	if elapsed := now.Sub(l.reducedAt); elapsed > 0 {
		l.reducedRate += l.fullRate * increasePerSecond * elapsed.Seconds()
		l.reducedAt = now
	}
	recovered := l.fullRate
	if l.limit.Rate == 0 {
		recovered *= forgetFactor
	}
	if l.reducedRate >= recovered {
		l.reducedRate = 0
		return l.limit.refillRate()
	}
	return l.reducedRate
}

// refillRate returns the rate at which the bucket is refilled. A full bucket of size b with refill
// rate r allows at most b + ⌈r × t⌉ - 1 in any half-open interval of t seconds. refillRate is lower
// by one millionth because of rounding.
func (l Limit) refillRate() float64 {
	if l.Per == 0 || l.Rate == 0 {
		return l.Rate
	}
	total := l.Rate * l.Per.Seconds()
	return max(total-float64(l.burst()-1), 1) / l.Per.Seconds() * (1 - 1e-6)
}

// burst returns the size of the bucket. With the default, no second has more than 1.04 times the
// rate. The provider can see slightly more, because requests can bunch on the way; 1.05 times
// leaves room for that.
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

// count adds n, which is negative for what did not happen after all.
func (m *meter) count(now time.Time, n int) {
	m.advance(now)
	m.current = max(m.current+float64(n), 0)
}

func (m *meter) advance(now time.Time) {
	switch elapsed := now.Sub(m.start); {
	case elapsed < time.Second:
	case elapsed < 2*time.Second:
		m.start, m.previous, m.current = m.start.Add(time.Second), m.current, 0
	default:
		*m = meter{start: now}
	}
}

// perSecond returns the larger of the counts of the current and the previous second.
func (m *meter) perSecond(now time.Time) float64 {
	m.advance(now)
	return max(m.previous, m.current)
}

// scaledBurst returns the share of a burst: at least 1 unless the share is 0.
func scaledBurst(share float64, burst int) int {
	if share == 0 {
		return 0
	}
	return max(1, int(share*float64(burst)))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
