// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

// execution is the state of one notification that an Executor sends. Each step returns nil, or the
// cause that ends the execution. Outcomes and receipts are passed by address, because every call that
// is in flight keeps the frames of its functions: see TestStackOfCall.
type execution struct {
	*Executor
	*push.Call
	makeAttempt    Attempt
	prior          int         // attempts made by other executors before this execution
	deadline       time.Time   // no step starts after it; zero: no deadline
	lease          *pool.Lease // of the last attempt
	tried          pool.Tried
	attempts       []push.Attempt
	admitted       bool // has a place in ConcurrencyLimit
	throttlePermit retry.Permit
	cancelled      bool // the caller cancelled the last attempt, which says nothing about the provider
}

// run makes attempts until there is a final outcome, and sets the receipt of the call. If a first
// attempt was made elsewhere, run continues after it.
func (x *execution) run(ctx context.Context) {
	x.deadline = sendDeadline(ctx, x.Notification)
	defer x.release()
	for {
		cause := x.begin(ctx)
		if cause == nil {
			cause = x.waitRateLimit(ctx)
		}
		if cause != nil {
			x.setReceipt(cause)
			return
		}
		lease, cause := x.acquireLease(ctx)
		if lease == nil {
			x.RateLimiter.Return([]*push.Notification{x.Notification})
			x.setReceipt(cause)
			return
		}
		x.attempt(ctx, lease)
	}
}

// begin is admit before the first attempt, and retry before each further one.
func (x *execution) begin(ctx context.Context) (cause *push.Outcome) {
	if len(x.attempts) == 0 {
		return x.admit(ctx)
	}
	return x.retry(ctx)
}

// admit acquires the concurrency limit of the gateway. While the provider is down, it also acquires a
// permit of the throttler: nothing should wait for the rate limit then.
func (x *execution) admit(ctx context.Context) (cause *push.Outcome) {
	since := x.Observer.startWait(x.Notification)
	_, err := x.ConcurrencyLimit.acquire(ctx, x.Call, 1, x.maxWait(ctx))
	x.Observer.waited(x.Notification, WaitConcurrencyLimit, since)
	if err != nil {
		return x.shed(err)
	}
	x.admitted = true
	if x.Throttler.RejectionRate() > 0 {
		return x.acquireThrottle()
	}
	return nil
}

// shed reports that a limit rejected the notification and returns the cause.
func (x *execution) shed(err error) *push.Outcome {
	if expired(x.Notification) {
		return &expiredOutcome
	}
	cause := &err.(*push.RejectedError).Outcome
	x.Observer.shed(x.Notification, *cause)
	return cause
}

// acquireThrottle acquires a permit of the throttler, once for all attempts. Call it after all waits: the
// throttler counts all time from here on as time that the provider takes.
func (x *execution) acquireThrottle() (cause *push.Outcome) {
	if x.throttlePermit != (retry.Permit{}) {
		return nil
	}
	var err error
	if x.throttlePermit, err = x.Throttler.Acquire(1); err != nil {
		x.Observer.throttled(x.Notification)
		return &err.(*push.RejectedError).Outcome
	}
	return nil
}

// waitRateLimit waits until the rate limiter allows an attempt. It is called before every attempt:
// each one counts at the provider, and a scope may have been closed since the last one. It fails
// immediately if the wait would exceed the deadline or the maximum wait of the policy.
func (x *execution) waitRateLimit(ctx context.Context) (cause *push.Outcome) {
	if expired(x.Notification) {
		return &expiredOutcome
	}
	since := x.Observer.startWait(x.Notification)
	wait, err := x.RateLimiter.Acquire(ctx, x.Notification, min(x.maxWait(ctx), x.Executor.Retry.MaxWait()))
	x.Observer.waited(x.Notification, WaitRateLimit, since)
	rejected, ok := errors.AsType[*push.RejectedError](err)
	switch {
	case ok && expired(x.Notification):
		return &expiredOutcome
	case ok:
		x.Observer.rateLimited(x.Notification, rejected.RetryAfter, false)
		return &rejected.Outcome
	case err != nil:
		return orAbandoned(ctx, rateLimited(time.Second))
	case wait > 0:
		x.Observer.rateLimited(x.Notification, wait, true)
	}
	return nil
}

// acquireLease acquires the lease of an endpoint that the execution has not tried, if there is one, and
// then the throttler.
func (x *execution) acquireLease(ctx context.Context) (*pool.Lease, *push.Outcome) {
	since := x.Observer.startWait(x.Notification)
	lease, err := x.Pool.PickN(ctx, pool.Request{Tried: x.tried, Lane: x.Lane, Flow: x.App, CanQueue: x.CanQueue, MaxWait: x.maxWait(ctx)})
	x.Observer.waited(x.Notification, WaitEndpoint, since)
	if _, rejected := errors.AsType[*push.RejectedError](err); rejected {
		return nil, x.shed(err)
	}
	if err != nil {
		return nil, noLease(err)
	}
	if cause := x.mayUse(lease); cause != nil {
		lease.Done(push.Outcome{})
		return nil, cause
	}
	return lease, nil
}

// mayUse acquires the throttler. After a wait for the lease it checks the rate limiter again: a scope
// may have been closed.
func (x *execution) mayUse(lease *pool.Lease) (cause *push.Outcome) {
	if expired(x.Notification) {
		return &expiredOutcome
	}
	if lease.Waited() > 0 {
		if wait := x.RateLimiter.RetryAfter(x.Notification); wait > 0 {
			return rateLimited(wait)
		}
	}
	return x.acquireThrottle()
}

// attempt makes one attempt with lease, returns the lease exactly once, even after a panic, and records
// the outcome.
func (x *execution) attempt(ctx context.Context, lease *pool.Lease) {
	if len(x.attempts) == 0 {
		x.Budget.Deposit(1)
	}
	x.lease = lease
	x.attempts = append(x.attempts, push.Attempt{})
	a := &x.attempts[len(x.attempts)-1]
	a.Endpoint, a.Environment, a.Started = lease.Endpoint().String(), x.Environment, time.Now()
	defer func() {
		a.Took = time.Since(a.Started)
		lease.Done(a.Outcome)
		x.record()
	}()
	defer x.recoverPanic(x.Notification, func(unknown push.Outcome) { a.Outcome = unknown })
	if x.BeforeAttempt != nil {
		if err := x.BeforeAttempt(x.prior + len(x.attempts)); err != nil {
			a.Verdict, a.Reason = push.Abandoned, reasonNotRecorded
			return
		}
	}
	ctx = push.AttemptContext(ctx)
	a.Outcome = x.makeAttempt(ctx, lease)
	x.cancelled = a.Verdict == push.Unknown && errors.Is(ctx.Err(), context.Canceled)
}

// record records the last attempt, which has ended.
func (x *execution) record() {
	a := &x.attempts[len(x.attempts)-1]
	if x.RateLimiter.Record(x.Notification, a.Outcome) {
		x.logLimited(x.Notification, a)
	}
	x.Observer.attempted(x.Notification, x.prior+len(x.attempts), a, x.lease.Conn())
	if a.Reason == push.IntermediaryResponse {
		x.logIntermediary(x.Notification, a)
	}
}

// retry decides whether another attempt follows the last one, and waits for it. If none follows, the
// cause is the outcome of the last one, or Abandoned if the caller cancelled the wait.
func (x *execution) retry(ctx context.Context) (cause *push.Outcome) {
	o := &x.attempts[len(x.attempts)-1].Outcome
	wait, ok := x.Executor.Retry.After(x.Notification, x.countedAttempts(), *o)
	if !ok || wait > x.remaining() {
		return o
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return orAbandoned(ctx, o)
	}
	if !x.Throttler.AllowRetry() || !x.Budget.Withdraw(*o) {
		x.Observer.retryDenied(x.Notification, *o)
		return o
	}
	if !sleep.For(ctx, wait) {
		return orAbandoned(ctx, o)
	}
	if o.Verdict != push.Unsent { // an unsent attempt says nothing about its endpoint
		x.tried = append(x.tried, x.lease.Endpoint())
	}
	return nil
}

// maxFreeAttempts is the maximum number of unprocessed attempts that do not count. A service that
// closes its connections one by one can leave several attempts of a notification unprocessed. More
// of them than this are not a transient condition.
const maxFreeAttempts = 8

// countedAttempts returns the number of attempts that count for the policy.
func (x *execution) countedAttempts() int {
	free := 0
	for i := range x.attempts {
		if x.attempts[i].Verdict == push.Unsent {
			free++
		}
	}
	return max(1, len(x.attempts)-min(free, maxFreeAttempts))
}

// setReceipt sets the receipt of an execution that cause has ended.
func (x *execution) setReceipt(cause *push.Outcome) {
	o := finalOutcome(x.attempts, *cause)
	setReceipt(x.Call, &o, x.attempts...)
}

// release releases what is held for all attempts.
func (x *execution) release() {
	if x.admitted {
		x.ConcurrencyLimit.release(x.Call, 1)
	}
	x.throttlePermit.Release(x.lastOutcome(), 1)
}

// lastOutcome returns the outcome of the last attempt, which the throttler records. Without an
// attempt it is the zero Outcome, whose verdict is Unsent.
func (x *execution) lastOutcome() push.Outcome {
	switch {
	case len(x.attempts) == 0:
		return push.Outcome{}
	case x.cancelled:
		return push.Outcome{Verdict: push.Abandoned}
	default:
		return x.attempts[len(x.attempts)-1].Outcome
	}
}

// remaining returns the time until the deadline.
func (x *execution) remaining() time.Duration {
	if x.deadline.IsZero() {
		return math.MaxInt64
	}
	return time.Until(x.deadline)
}

// maxWait returns how long the execution may wait in a queue. Of the caller's remaining time it
// reserves the attempt timeout for an attempt, but at most half: an attempt that starts at the
// deadline would end with an unknown outcome.
func (x *execution) maxWait(ctx context.Context) time.Duration {
	wait := x.remaining()
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		wait = min(wait, left-min(x.Executor.Retry.Timeout(), left/2))
	}
	return wait
}
