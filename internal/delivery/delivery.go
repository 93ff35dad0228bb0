// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"math"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// delivery is one notification on its way down a route. Its steps either go
// well or return the cause that ends it.
type delivery struct {
	*Route
	n                 *push.Notification
	prior             int       // attempts that were made at n elsewhere
	deadline          time.Time // nothing is begun after it; zero: no limit
	request           *wire.Request
	tried             pool.Tried
	attempts          []push.Attempt
	throttlePermit    retry.Permit
	hasThrottlePermit bool
	globalPermit      *usage    // in the gateway
	adaptivePermit    *usage    // on the way to an endpoint
	leaseWaitStart    time.Time // on that way
}

// acquireGlobal takes a place in the gateway.
func (s *delivery) acquireGlobal(ctx context.Context) (cause push.Outcome, ok bool) {
	if s.globalPermit, cause, ok = s.ConcurrencyLimit.acquire(ctx, s.n, s.maxWait(ctx)); ok {
		return push.Outcome{}, true
	}
	return s.shed(cause), false
}

// shed is the cause of who found no place and would not wait, or not long enough.
func (s *delivery) shed(cause push.Outcome) push.Outcome {
	if expired(s.n) {
		return expiredOutcome
	}
	s.Observer.shed(s.n, cause)
	return cause
}

// acquireThrottle asks the brake, once for all attempts. It counts from here on whom the provider keeps waiting: a wait at the gate or
// for room says nothing of the provider, and is over by then.
func (s *delivery) acquireThrottle() (cause push.Outcome, ok bool) {
	if s.hasThrottlePermit {
		return push.Outcome{}, true
	}
	s.throttlePermit, s.hasThrottlePermit = s.Throttler.Acquire()
	if s.hasThrottlePermit {
		return push.Outcome{}, true
	}
	s.Observer.throttled(s.n)
	return push.Outcome{Verdict: push.Unavailable, Reason: reasonProviderDown, RetryAfter: s.Throttler.RetryAfter()}, false
}

// waitRateLimit passes the gate, which may mean to wait before it. Every attempt does,
// for every attempt counts at the provider, and the gate may have closed since
// the last one. Who would have to wait beyond the deadline, or longer than the
// policy bears, is told at once.
func (s *delivery) waitRateLimit(ctx context.Context) (cause push.Outcome, ok bool) {
	if expired(s.n) {
		return expiredOutcome, false
	}
	patience := min(s.maxWait(ctx), s.Retry.MaxWait())
	turn, wait, ok := s.RateLimiter.Reserve(s.n, patience)
	if turn == nil && ok {
		return push.Outcome{}, true
	}
	s.Observer.rateLimited(s.n, wait, ok)
	if !ok {
		return rateLimited(wait), false
	}
	return s.waitReservation(ctx, turn, patience)
}

// waitReservation waits until the turn has come. It may come later than the gate thought:
// those in a better lane, and apps that were idle, go first.
func (s *delivery) waitReservation(ctx context.Context, turn *quota.Reservation, patience time.Duration) (cause push.Outcome, ok bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-turn.Ready():
	case <-ctx.Done():
		turn.Cancel()
		return orAbandoned(ctx, rateLimited(time.Second)), false
	case <-timer.C:
		turn.Cancel()
		if expired(s.n) {
			return expiredOutcome, false
		}
		return rateLimited(max(s.RateLimiter.RetryAfter(s.n), time.Second)), false
	}
	if wait := max(turn.RetryAfter(), s.RateLimiter.RetryAfter(s.n)); wait > 0 { // a refusal of others has closed it meanwhile
		return rateLimited(wait), false
	}
	return push.Outcome{}, true
}

// acquireAdaptive takes a place on the way to an endpoint. For who had to wait for it, the gate may have closed meanwhile.
func (s *delivery) acquireAdaptive(ctx context.Context) (cause push.Outcome, ok bool) {
	party, waited, cause, ok := s.AdaptiveLimiter.acquire(ctx, s.n, s.maxWait(ctx))
	s.adaptivePermit = party
	if !ok {
		return s.shed(cause), false
	}
	if !waited {
		return push.Outcome{}, true
	}
	if wait := s.RateLimiter.RetryAfter(s.n); wait > 0 {
		s.AdaptiveLimiter.endWait()
		s.AdaptiveLimiter.release(s.adaptivePermit, 0, 0)
		return rateLimited(wait), false
	}
	return push.Outcome{}, true
}

// acquireLease leases an endpoint, one that s has not tried as long as there is one,
// if there is room on the way.
func (s *delivery) acquireLease(ctx context.Context) (lease *pool.Lease, cause push.Outcome) {
	if cause, ok := s.acquireAdaptive(ctx); !ok {
		return nil, cause
	}
	if cause, ok := s.acquireThrottle(); !ok {
		s.AdaptiveLimiter.endWait()
		s.AdaptiveLimiter.release(s.adaptivePermit, 0, 0)
		return nil, cause
	}
	s.leaseWaitStart = time.Now()
	lease, err := s.Pool.Pick(ctx, s.tried)
	s.AdaptiveLimiter.endWait()
	if err != nil {
		s.AdaptiveLimiter.release(s.adaptivePermit, time.Since(s.leaseWaitStart), 0)
		return nil, push.NoResponse(err)
	}
	if expired(s.n) {
		lease.Done(expiredOutcome)
		s.AdaptiveLimiter.release(s.adaptivePermit, time.Since(s.leaseWaitStart), 0)
		return nil, expiredOutcome
	}
	return lease, push.Outcome{}
}

// attempt makes one attempt on lease, hands the lease back, and takes note of
// what came of it.
func (s *delivery) attempt(ctx context.Context, lease *pool.Lease) push.Outcome {
	if len(s.attempts) == 0 {
		s.Budget.Deposit()
	}
	a := push.Attempt{Endpoint: lease.Endpoint().String(), Environment: s.Environment, Started: time.Now()}
	a.Outcome = s.send(ctx, lease)
	a.Took = time.Since(a.Started)
	s.AdaptiveLimiter.release(s.adaptivePermit, a.Started.Sub(s.leaseWaitStart), a.Took)
	s.attempts = append(s.attempts, a)
	s.RateLimiter.Record(s.n, a.Outcome)
	s.Unregistered.record(s.n, a.Outcome)
	s.Observer.attempted(s.n, s.prior+len(s.attempts), a)
	return a.Outcome
}

// send lets the provider use the lease, and returns it exactly once whatever
// the provider does. A provider that panics may have sent before.
func (s *delivery) send(ctx context.Context, lease *pool.Lease) (o push.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			s.logPanic(s.n, p)
			o = push.Outcome{Verdict: push.Unknown, Reason: reasonProviderPanic}
		}
		lease.Done(o)
	}()
	if s.n.BeforeAttempt != nil {
		if err := s.n.BeforeAttempt(s.prior + len(s.attempts) + 1); err != nil {
			return push.Outcome{Verdict: push.Abandoned, Reason: reasonNotNoted}
		}
	}
	return s.Provider.Send(ctx, lease, s.n, s.request)
}

// waitRetry is ok when there is another attempt after one that ended in o, and has
// waited for it. The cause of the end is o, unless the caller left meanwhile.
func (s *delivery) waitRetry(ctx context.Context, o push.Outcome) (cause push.Outcome, ok bool) {
	wait, again := s.Retry.After(s.n, s.countedAttempts(), o)
	if !again || wait > s.remaining() {
		return o, false
	}
	if !s.Throttler.AllowRetry() || !s.Budget.Withdraw(o) {
		s.Observer.retryDenied(s.n, o)
		return o, false
	}
	if !sleep(ctx, wait) {
		return orAbandoned(ctx, o), false
	}
	return push.Outcome{}, true
}

// maxFreeAttempts is how many attempts do not count because they were provably
// never processed. A service that goes away connection by connection meets one
// notification several times, which has then not been tried once. Whoever is
// turned away more often is not in a passing trouble.
const maxFreeAttempts = 8

// countedAttempts is how many attempts count for the policy.
func (s *delivery) countedAttempts() int {
	free := 0
	for i := range s.attempts {
		if s.attempts[i].Verdict == push.Unsent {
			free++
		}
	}
	return max(1, len(s.attempts)-min(free, maxFreeAttempts))
}

// finish closes the account.
func (s *delivery) finish(cause push.Outcome) push.Receipt {
	receipt := push.Receipt{ID: s.n.ID, Outcome: finalOutcome(s.attempts, cause), Attempts: s.attempts}
	if s.hasThrottlePermit {
		s.Throttler.Record(s.throttlePermit, s.lastOutcome())
	}
	return receipt
}

// lastOutcome is how the last attempt ended: what the brake is to know of the provider. Without one it is Unsent.
func (s *delivery) lastOutcome() push.Outcome {
	if len(s.attempts) == 0 {
		return push.Outcome{}
	}
	return s.attempts[len(s.attempts)-1].Outcome
}

// remaining is how long until nothing more is begun.
func (s *delivery) remaining() time.Duration {
	if s.deadline.IsZero() {
		return math.MaxInt64
	}
	return time.Until(s.deadline)
}

// maxWait is how long s may wait for its turn. It keeps an attempt's timeout of what the caller has left, but no more than
// half of it: whoever spent all of it in line would be sent and never know what came of it.
func (s *delivery) maxWait(ctx context.Context) time.Duration {
	patience := s.remaining()
	if deadline, bounded := ctx.Deadline(); bounded {
		left := time.Until(deadline)
		patience = min(patience, left-min(s.Retry.Timeout(), left/2))
	}
	return patience
}

// sleep waits, and returns false if ctx ended first.
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
