// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// delivery is the state of one notification on a route. Each step either succeeds or returns the
// cause that ends the delivery.
type delivery struct {
	*Route
	n                 *push.Notification
	prior             int       // attempts made on other routes before this delivery
	deadline          time.Time // no step starts after it; zero: no deadline
	request           *wire.Request
	tried             pool.Tried
	attempts          []push.Attempt
	throttlePermit    retry.Permit
	hasThrottlePermit bool
	globalPermit      *usage // of ConcurrencyLimit
	adaptivePermit    *usage // of AdaptiveLimiter
	leaseWaitStart    time.Time
	cancelled         bool // the caller cancelled the last attempt, which says nothing about the provider
}

// acquireGlobal acquires the concurrency limit of the gateway.
func (d *delivery) acquireGlobal(ctx context.Context) (cause push.Outcome, ok bool) {
	if d.globalPermit, cause, ok = d.ConcurrencyLimit.acquire(ctx, d.n, d.maxWait(ctx)); ok {
		return push.Outcome{}, true
	}
	return d.shed(cause), false
}

// shed reports that a limit rejected the notification and returns the cause.
func (d *delivery) shed(cause push.Outcome) push.Outcome {
	if expired(d.n) {
		return expiredOutcome
	}
	d.Observer.shed(d.n, cause)
	return cause
}

// acquireThrottle acquires a permit of the throttler, once for all attempts. The throttler counts
// time from here on as time that the provider takes. The waits for rate limits and concurrency
// limits, which say nothing about the provider, must therefore be over.
func (d *delivery) acquireThrottle() (cause push.Outcome, ok bool) {
	if d.hasThrottlePermit {
		return push.Outcome{}, true
	}
	d.throttlePermit, d.hasThrottlePermit = d.Throttler.Acquire()
	if d.hasThrottlePermit {
		return push.Outcome{}, true
	}
	d.Observer.throttled(d.n)
	return push.Outcome{Verdict: push.Unavailable, Reason: reasonProviderDown, RetryAfter: d.Throttler.RetryAfter()}, false
}

// waitRateLimit waits until the rate limiter allows an attempt. It is called before every attempt:
// each one counts at the provider, and a scope may have been closed since the last one. It fails
// immediately if the wait would exceed the deadline or the maximum wait of the policy.
func (d *delivery) waitRateLimit(ctx context.Context) (cause push.Outcome, ok bool) {
	if expired(d.n) {
		return expiredOutcome, false
	}
	maxWait := min(d.maxWait(ctx), d.Retry.MaxWait())
	reservation, wait, ok := d.RateLimiter.Reserve(d.n, maxWait)
	if reservation == nil && ok {
		return push.Outcome{}, true
	}
	d.Observer.rateLimited(d.n, wait, ok)
	if !ok {
		return rateLimited(wait), false
	}
	return d.waitReservation(ctx, reservation, maxWait)
}

// waitReservation waits for a reservation. The wait can be longer than estimated: higher lanes and
// apps that were idle overtake.
func (d *delivery) waitReservation(ctx context.Context, reservation *quota.Reservation, maxWait time.Duration) (cause push.Outcome, ok bool) {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-reservation.Ready():
	case <-ctx.Done():
		reservation.Cancel()
		return orAbandoned(ctx, rateLimited(time.Second)), false
	case <-timer.C:
		reservation.Cancel()
		if expired(d.n) {
			return expiredOutcome, false
		}
		return rateLimited(max(d.RateLimiter.RetryAfter(d.n), time.Second)), false
	}
	// A refusal of another notification may have closed a scope during the wait.
	if wait := max(reservation.RetryAfter(), d.RateLimiter.RetryAfter(d.n)); wait > 0 {
		return rateLimited(wait), false
	}
	return push.Outcome{}, true
}

// acquireAdaptive acquires the adaptive limit. After a wait it checks the rate limiter again: a
// scope may have been closed.
func (d *delivery) acquireAdaptive(ctx context.Context) (cause push.Outcome, ok bool) {
	permit, waited, cause, ok := d.AdaptiveLimiter.acquire(ctx, d.n, d.maxWait(ctx))
	d.adaptivePermit = permit
	if !ok {
		return d.shed(cause), false
	}
	if !waited {
		return push.Outcome{}, true
	}
	if wait := d.RateLimiter.RetryAfter(d.n); wait > 0 {
		d.AdaptiveLimiter.endWait()
		d.AdaptiveLimiter.release(d.adaptivePermit, 0, 0)
		return rateLimited(wait), false
	}
	return push.Outcome{}, true
}

// acquireLease acquires the adaptive limit, the throttler and the lease of an endpoint, in this
// order. The pool prefers endpoints that the delivery has not tried.
func (d *delivery) acquireLease(ctx context.Context) (lease *pool.Lease, cause push.Outcome) {
	if cause, ok := d.acquireAdaptive(ctx); !ok {
		return nil, cause
	}
	if cause, ok := d.acquireThrottle(); !ok {
		d.AdaptiveLimiter.endWait()
		d.AdaptiveLimiter.release(d.adaptivePermit, 0, 0)
		return nil, cause
	}
	d.leaseWaitStart = time.Now()
	lease, err := d.Pool.Pick(ctx, d.tried)
	d.AdaptiveLimiter.endWait()
	if err != nil {
		d.AdaptiveLimiter.release(d.adaptivePermit, time.Since(d.leaseWaitStart), 0)
		return nil, noLease(err)
	}
	if expired(d.n) {
		lease.Done(expiredOutcome)
		d.AdaptiveLimiter.release(d.adaptivePermit, time.Since(d.leaseWaitStart), 0)
		return nil, expiredOutcome
	}
	return lease, push.Outcome{}
}

// attempt makes one attempt with lease, returns the lease, and records the outcome.
func (d *delivery) attempt(ctx context.Context, lease *pool.Lease) push.Outcome {
	if len(d.attempts) == 0 {
		d.Budget.Deposit()
	}
	a := push.Attempt{Endpoint: lease.Endpoint().String(), Environment: d.Environment, Started: time.Now()}
	a.Outcome = d.send(ctx, lease)
	a.Took = time.Since(a.Started)
	d.AdaptiveLimiter.release(d.adaptivePermit, a.Started.Sub(d.leaseWaitStart), a.Took)
	d.attempts = append(d.attempts, a)
	if d.RateLimiter.Record(d.n, a.Outcome) {
		d.logLimited(d.n, &a)
	}
	d.Unregistered.record(d.n, a.Outcome)
	d.Observer.attempted(d.n, d.prior+len(d.attempts), a)
	if a.Reason == push.IntermediaryResponse {
		d.logIntermediary(d.n, &a)
	}
	return a.Outcome
}

// send lets the provider use the lease and returns the lease exactly once, even if the provider
// panics. The outcome of a panic is Unknown: the provider may already have sent the request.
func (d *delivery) send(ctx context.Context, lease *pool.Lease) (o push.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			d.logPanic(d.n, p)
			o = push.Outcome{Verdict: push.Unknown, Reason: reasonProviderPanic}
		}
		lease.Done(o)
	}()
	if d.n.BeforeAttempt != nil {
		if err := d.n.BeforeAttempt(d.prior + len(d.attempts) + 1); err != nil {
			return push.Outcome{Verdict: push.Abandoned, Reason: reasonNotNoted}
		}
	}
	ctx = push.AttemptContext(ctx)
	o = d.Provider.Send(ctx, lease, d.n, d.request)
	d.cancelled = o.Verdict == push.Unknown && errors.Is(ctx.Err(), context.Canceled)
	return o
}

// waitRetry decides whether another attempt follows one that ended in o, and waits for it. If none
// follows, the cause is o, or Abandoned if the caller cancelled the wait.
func (d *delivery) waitRetry(ctx context.Context, o push.Outcome) (cause push.Outcome, ok bool) {
	wait, ok := d.Retry.After(d.n, d.countedAttempts(), o)
	if !ok || wait > d.remaining() {
		return o, false
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return orAbandoned(ctx, o), false
	}
	if !d.Throttler.AllowRetry() || !d.Budget.Withdraw(o) {
		d.Observer.retryDenied(d.n, o)
		return o, false
	}
	if !sleep(ctx, wait) {
		return orAbandoned(ctx, o), false
	}
	return push.Outcome{}, true
}

// maxFreeAttempts is the maximum number of unprocessed attempts that do not count. A service that
// closes its connections one by one can leave several attempts of a notification unprocessed. More
// of them than this are not a transient condition.
const maxFreeAttempts = 8

// countedAttempts returns the number of attempts that count for the policy.
func (d *delivery) countedAttempts() int {
	free := 0
	for i := range d.attempts {
		if d.attempts[i].Verdict == push.Unsent {
			free++
		}
	}
	return max(1, len(d.attempts)-min(free, maxFreeAttempts))
}

// finish returns the receipt and releases the permit of the throttler.
func (d *delivery) finish(cause push.Outcome) push.Receipt {
	receipt := push.Receipt{ID: d.n.ID, Outcome: finalOutcome(d.attempts, cause), Warnings: d.n.Warnings, Attempts: d.attempts}
	if d.hasThrottlePermit {
		d.Throttler.Record(d.throttlePermit, d.lastOutcome())
	}
	return receipt
}

// lastOutcome returns the outcome of the last attempt, which the throttler records. Without an
// attempt it is the zero Outcome, whose verdict is Unsent.
func (d *delivery) lastOutcome() push.Outcome {
	switch {
	case len(d.attempts) == 0:
		return push.Outcome{}
	case d.cancelled:
		return push.Outcome{Verdict: push.Abandoned}
	default:
		return d.attempts[len(d.attempts)-1].Outcome
	}
}

// remaining returns the time until the deadline.
func (d *delivery) remaining() time.Duration {
	if d.deadline.IsZero() {
		return math.MaxInt64
	}
	return time.Until(d.deadline)
}

// maxWait returns how long the delivery may wait in a queue. Of the caller's remaining time it
// reserves the attempt timeout for an attempt, but at most half: an attempt that starts at the
// deadline would end with an unknown outcome.
func (d *delivery) maxWait(ctx context.Context) time.Duration {
	wait := d.remaining()
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		wait = min(wait, left-min(d.Retry.Timeout(), left/2))
	}
	return wait
}

// sleep waits, and returns false if ctx ends first.
func sleep(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
