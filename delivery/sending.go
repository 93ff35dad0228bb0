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

// sending is one notification on its way down a route. Its steps either go
// well or return the cause that ends it.
type sending struct {
	*Route
	n        *push.Notification
	before   int       // attempts that were made at n elsewhere
	latest   time.Time // nothing is begun after it; zero: no limit
	request  *wire.Request
	tried    pool.Tried
	attempts []push.Attempt
	passage  retry.Passage
	passed   bool
	guest    *party    // in the gateway
	party    *party    // on the way to an endpoint
	entered  time.Time // on that way
}

// comeIn takes a place in the gateway.
func (s *sending) comeIn(ctx context.Context) (cause push.Outcome, ok bool) {
	if s.guest, cause, ok = s.Ceiling.enter(ctx, s.n, s.patience(ctx)); ok {
		return push.Outcome{}, true
	}
	return s.shed(cause), false
}

// shed is the cause of who found no place and would not wait, or not long enough.
func (s *sending) shed(cause push.Outcome) push.Outcome {
	if expired(s.n) {
		return tooLate
	}
	s.Observer.shed(s.n, cause)
	return cause
}

// pass asks the brake, once for all attempts. It counts from here on whom the provider keeps waiting: a wait at the gate or
// for room says nothing of the provider, and is over by then.
func (s *sending) pass() (cause push.Outcome, ok bool) {
	if s.passed {
		return push.Outcome{}, true
	}
	s.passage, s.passed = s.Brake.Pass()
	if s.passed {
		return push.Outcome{}, true
	}
	s.Observer.held(s.n)
	return push.Outcome{Verdict: push.Unavailable, Reason: providerDown, RetryAfter: s.Brake.RetryAfter()}, false
}

// admit passes the gate, which may mean to wait before it. Every attempt does,
// for every attempt counts at the provider, and the gate may have closed since
// the last one. Who would have to wait beyond the deadline, or longer than the
// policy bears, is told at once.
func (s *sending) admit(ctx context.Context) (cause push.Outcome, ok bool) {
	if expired(s.n) {
		return tooLate, false
	}
	patience := min(s.patience(ctx), s.Retry.Patience())
	turn, wait, ok := s.Gate.Admit(s.n, patience)
	if turn == nil && ok {
		return push.Outcome{}, true
	}
	s.Observer.gated(s.n, wait, ok)
	if !ok {
		return overQuota(wait), false
	}
	return s.await(ctx, turn, patience)
}

// await waits until the turn has come. It may come later than the gate thought:
// those in a better lane, and apps that were idle, go first.
func (s *sending) await(ctx context.Context, turn *quota.Turn, patience time.Duration) (cause push.Outcome, ok bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-turn.Ready():
	case <-ctx.Done():
		turn.Leave()
		return departed(ctx, overQuota(time.Second)), false
	case <-timer.C:
		turn.Leave()
		if expired(s.n) {
			return tooLate, false
		}
		return overQuota(max(s.Gate.Closed(s.n), time.Second)), false
	}
	if wait := max(turn.Refused(), s.Gate.Closed(s.n)); wait > 0 { // a refusal of others has closed it meanwhile
		return overQuota(wait), false
	}
	return push.Outcome{}, true
}

// enter takes a place on the way to an endpoint. For who had to wait for it, the gate may have closed meanwhile.
func (s *sending) enter(ctx context.Context) (cause push.Outcome, ok bool) {
	party, waited, cause, ok := s.Admission.enter(ctx, s.n, s.patience(ctx))
	s.party = party
	if !ok {
		return s.shed(cause), false
	}
	if !waited {
		return push.Outcome{}, true
	}
	if wait := s.Gate.Closed(s.n); wait > 0 {
		s.Admission.leased()
		s.Admission.leave(s.party, 0, 0)
		return overQuota(wait), false
	}
	return push.Outcome{}, true
}

// pick leases an endpoint, one that s has not tried as long as there is one,
// if there is room on the way.
func (s *sending) pick(ctx context.Context) (lease *pool.Lease, cause push.Outcome) {
	if cause, ok := s.enter(ctx); !ok {
		return nil, cause
	}
	if cause, ok := s.pass(); !ok {
		s.Admission.leased()
		s.Admission.leave(s.party, 0, 0)
		return nil, cause
	}
	s.entered = time.Now()
	lease, err := s.Pool.Pick(ctx, s.tried)
	s.Admission.leased()
	if err != nil {
		s.Admission.leave(s.party, time.Since(s.entered), 0)
		return nil, push.NoResponse(err)
	}
	if expired(s.n) {
		lease.Done(tooLate)
		s.Admission.leave(s.party, time.Since(s.entered), 0)
		return nil, tooLate
	}
	return lease, push.Outcome{}
}

// attempt makes one attempt on lease, hands the lease back, and takes note of
// what came of it.
func (s *sending) attempt(ctx context.Context, lease *pool.Lease) push.Outcome {
	if len(s.attempts) == 0 {
		s.Budget.Earn()
	}
	a := push.Attempt{Endpoint: lease.Endpoint().String(), Environment: s.Environment, Started: time.Now()}
	a.Outcome = s.send(ctx, lease)
	a.Took = time.Since(a.Started)
	s.Admission.leave(s.party, a.Started.Sub(s.entered), a.Took)
	s.attempts = append(s.attempts, a)
	s.Gate.Learn(s.n, a.Outcome)
	s.Dead.learn(s.n, a.Outcome)
	s.Observer.attempted(s.n, s.before+len(s.attempts), a)
	return a.Outcome
}

// send lets the provider use the lease, and returns it exactly once whatever
// the provider does. A provider that panics may have sent before.
func (s *sending) send(ctx context.Context, lease *pool.Lease) (o push.Outcome) {
	defer func() {
		if p := recover(); p != nil {
			s.report(s.n, p)
			o = push.Outcome{Verdict: push.Unknown, Reason: providerPanic}
		}
		lease.Done(o)
	}()
	if s.n.BeforeAttempt != nil {
		if err := s.n.BeforeAttempt(s.before + len(s.attempts) + 1); err != nil {
			return push.Outcome{Verdict: push.Abandoned, Reason: notNoted}
		}
	}
	return s.Provider.Send(ctx, lease, s.n, s.request)
}

// again is ok when there is another attempt after one that ended in o, and has
// waited for it. The cause of the end is o, unless the caller left meanwhile.
func (s *sending) again(ctx context.Context, o push.Outcome) (cause push.Outcome, ok bool) {
	wait, again := s.Retry.After(s.n, s.counted(), o)
	if !again || wait > s.left() {
		return o, false
	}
	if !s.Brake.Again() || !s.Budget.Take(o) {
		s.Observer.denied(s.n, o)
		return o, false
	}
	if !sleep(ctx, wait) {
		return departed(ctx, o), false
	}
	return push.Outcome{}, true
}

// freeAttempts is how many attempts do not count because they were provably
// never processed. A service that goes away connection by connection meets one
// notification several times, which has then not been tried once. Whoever is
// turned away more often is not in a passing trouble.
const freeAttempts = 8

// counted is how many attempts count for the policy.
func (s *sending) counted() int {
	free := 0
	for i := range s.attempts {
		if s.attempts[i].Verdict == push.Unsent {
			free++
		}
	}
	return max(1, len(s.attempts)-min(free, freeAttempts))
}

// end closes the account.
func (s *sending) end(cause push.Outcome) push.Receipt {
	receipt := push.Receipt{ID: s.n.ID, Outcome: conclude(s.attempts, cause), Attempts: s.attempts}
	if s.passed {
		s.Brake.Done(s.passage, s.met())
	}
	return receipt
}

// met is how the last attempt ended: what the brake is to know of the provider. Without one it is Unsent.
func (s *sending) met() push.Outcome {
	if len(s.attempts) == 0 {
		return push.Outcome{}
	}
	return s.attempts[len(s.attempts)-1].Outcome
}

// left is how long until nothing more is begun.
func (s *sending) left() time.Duration {
	if s.latest.IsZero() {
		return math.MaxInt64
	}
	return time.Until(s.latest)
}

// patience is how long s may wait for its turn. It keeps an attempt's timeout of what the caller has left, but no more than
// half of it: whoever spent all of it in line would be sent and never know what came of it.
func (s *sending) patience(ctx context.Context) time.Duration {
	patience := s.left()
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
