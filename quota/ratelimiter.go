// SPDX-License-Identifier: Apache-2.0

// Package quota limits the rate of notifications per scope, queues them fairly, and adapts to the
// provider's refusals. It sends nothing and starts no goroutine.
package quota

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Config holds the known quotas of a provider. The zero value sets no limit; a scope closes only
// when the provider refuses it.
type Config struct {
	// Total is the limit of all notifications of the RateLimiter. FCM's default for a project is
	// 600,000 per minute: {Rate: 10000}.
	Total Limit
	// Topics is the limit of all notifications to topics, conditions and channels together. Google
	// limits the number of concurrent fan-outs, which senders cannot observe; a sender can only
	// limit the rate at which it starts them.
	Topics Limit
	// Scopes are additional limits set by the operator.
	Scopes []Scope
	// Device is the limit of each device; FCM's for Android is 240 per minute:
	// {Rate: 4, Burst: 240}.
	Device Limit
	// Sustained is the limit of each device over a longer time; FCM's for Android is 5,000 per
	// hour: {Rate: 5000. / 3600, Burst: 5000}.
	Sustained Limit
	// Collapsible is the limit of collapsible notifications to each device; FCM's is a burst of 20
	// and one every three minutes: {Rate: 1. / 180, Burst: 20}.
	Collapsible Limit
	// Topic is the limit of each topic, condition or channel.
	Topic Limit
	// Weights are the weights of apps that wait at the same time, by name; default 1 each.
	Weights map[string]int
	// MaxTargets is the maximum number of devices and topics that are tracked at a time; default
	// 65536. Each takes about 300 bytes with one limit and 500 with three. The least recently used
	// one is evicted, even if it is closed.
	MaxTargets int
}

// Limit is a token bucket. In any interval it allows at most Rate × seconds + Burst notifications.
type Limit struct {
	// Rate is in notifications per second; 0 means no limit.
	Rate float64
	// Per is an interval in which at most Rate × Per notifications are allowed, including the
	// burst; 0 means that the burst is allowed in addition. With Per, the bucket is refilled more
	// slowly than Rate, by the share of the burst in that interval: by 0.07 % for a minute, by 4 %
	// for a second.
	Per time.Duration
	// Burst is the size of the bucket; default Rate / 25, at least 1.
	Burst int
}

// Scope is a limit that the operator sets for a part of the notifications.
type Scope struct {
	// Name is the name of the scope in Status.
	Name string
	// Apps and Lanes select the notifications; empty selects all.
	Apps  []string
	Lanes []push.Lane
	Limit
}

// RateLimiter enforces the quotas of one credential. When the provider refuses a scope, that scope
// closes for the time that the provider asks for; other scopes stay open. Routes may share a
// RateLimiter. A nil RateLimiter sets no limit.
type RateLimiter struct {
	*limits
	service *serviceScope // nil without Service
}

// limits are the limits of a credential.
type limits struct {
	total     *scopeLimiter
	totalOnly []*scopeLimiter // total alone: the limiters of most notifications
	scopeList atomic.Pointer[[]scope]
	targets   targetTable

	configMu sync.Mutex // guards share and the replacement of scopeList
	share    shareConfig
}

// scope is a scope within the total: that of all topics, or one of the operator.
type scope struct {
	Scope
	key     string // in Demand and SetShare
	limiter *scopeLimiter
}

func (s *scope) matches(n *push.Notification) bool {
	if s.key == Topics {
		return isTopic(n)
	}
	return (len(s.Apps) == 0 || slices.Contains(s.Apps, n.App)) &&
		(len(s.Lanes) == 0 || slices.Contains(s.Lanes, n.EffectiveLane()))
}

// scopes returns the scopes within the total: that of the topics, if it is limited, and those of the
// operator.
func (l *limits) scopes() []scope { return *l.scopeList.Load() }

// New returns a RateLimiter with all scopes open.
func New(cfg Config) *RateLimiter {
	l := &RateLimiter{limits: &limits{total: &scopeLimiter{}}}
	l.total.aimd.learnsRate = true
	l.totalOnly = []*scopeLimiter{l.total}
	l.scopeList.Store(new([]scope))
	l.targets.init()
	l.Reconfigure(cfg)
	return l
}

// ReasonClosed is the reason of a *push.RejectedError: a rate limit allows no attempt in time.
const ReasonClosed = "GATE_CLOSED"

func rejected(wait time.Duration) error { return push.Reject(push.Throttled, ReasonClosed, wait) }

// Acquire waits until an attempt at n is allowed, at most for maxWait, and returns how long it
// waited. If the estimated wait is longer, or if a scope closes for longer, it returns a
// *push.RejectedError with the verdict Throttled immediately. It returns the error of ctx when that
// ends first. After an error, no token is taken.
//
// Only the shared scopes have a queue: the total, the topics and the operator's scopes. A
// notification to a device or a topic that is closed or has used its limit is rejected immediately:
// while it waited for its target, it would hold a token of the shared scopes.
func (l *RateLimiter) Acquire(ctx context.Context, n *push.Notification, maxWait time.Duration) (wait time.Duration, err error) {
	if l == nil {
		return 0, nil
	}
	if wait, ok := l.targets.take(n); !ok {
		return 0, rejected(max(wait, l.closedFor()))
	}
	limiters := l.limitersFor(n)
	if take(limiters, n, 1) == 1 {
		return 0, nil
	}
	start, passed := time.Now(), limiters[:0]
	for _, limiter := range limiters {
		if err = limiter.acquire(ctx, n, start.Add(min(maxWait, maxClosed))); err != nil {
			break
		}
		passed = limiters[:len(passed)+1]
	}
	closed := l.RetryAfter(n) // another scope may have closed during the wait
	if err == nil && closed > 0 {
		err = rejected(closed)
	}
	if err != nil {
		restore(passed, 1)
		l.targets.restore(n)
	}
	if r, ok := errors.AsType[*push.RejectedError](err); ok {
		r.RetryAfter = max(r.RetryAfter, closed)
	}
	return time.Since(start), err
}

// TryAcquireN returns how many notifications of ns, from the front, may be attempted immediately,
// and takes their tokens. It returns 0 if a notification waits in their lane or a higher one, or if
// a scope is closed. It stops before a notification whose app, lane or scopes differ from those of
// the first, and before one whose target is closed or has used its limit. Call Return for
// notifications that are not attempted after all.
func (l *RateLimiter) TryAcquireN(ns []*push.Notification) int {
	if l == nil {
		return len(ns)
	}
	count := 0
	for ; count < len(ns) && haveSameScopes(ns[0], ns[count]); count++ {
		if _, ok := l.targets.take(ns[count]); !ok {
			break
		}
	}
	if count == 0 {
		return 0
	}
	allowed := take(l.limitersFor(ns[0]), ns[0], count)
	for _, n := range ns[allowed:count] {
		l.targets.restore(n)
	}
	return allowed
}

// Return gives back the tokens of notifications that are not attempted. unused is what one call of
// Acquire or TryAcquireN has allowed, or a part of it.
func (l *RateLimiter) Return(unused []*push.Notification) {
	if l == nil || len(unused) == 0 {
		return
	}
	restore(l.limitersFor(unused[0]), len(unused))
	for _, n := range unused {
		l.targets.restore(n)
	}
}

// haveSameScopes reports whether the same shared scopes apply to two notifications.
func haveSameScopes(a, b *push.Notification) bool {
	return a.App == b.App && a.EffectiveLane() == b.EffectiveLane() && isTopic(a) == isTopic(b)
}

// take takes up to count tokens for notifications like n from each of the limiters, and returns how
// many.
func take(limiters []*scopeLimiter, n *push.Notification, count int) int {
	for i, l := range limiters {
		taken := l.take(n, count)
		restore(limiters[:i], count-taken)
		if count = taken; count == 0 {
			break
		}
	}
	return count
}

func restore(limiters []*scopeLimiter, count int) {
	if count == 0 {
		return
	}
	for _, l := range limiters {
		l.restore(count)
	}
}

// limitersFor returns the limiters that n must pass, the total last.
func (l *RateLimiter) limitersFor(n *push.Notification) []*scopeLimiter {
	var limiters []*scopeLimiter
	for _, s := range l.scopes() {
		if s.matches(n) {
			limiters = append(limiters, s.limiter)
		}
	}
	if service := l.service.activeLimiter(); service != nil {
		limiters = append(limiters, service)
	}
	if limiters == nil {
		return l.totalOnly
	}
	return append(limiters, l.total)
}

// closedFor returns how long the total or the service stays closed.
func (l *RateLimiter) closedFor() time.Duration {
	closed := l.total.closedFor()
	if service := l.service.activeLimiter(); service != nil {
		closed = max(closed, service.closedFor())
	}
	return closed
}

// RetryAfter returns how long the total, the service or n's target stays closed; 0 means open.
func (l *RateLimiter) RetryAfter(n *push.Notification) time.Duration {
	if l == nil {
		return 0
	}
	return max(l.closedFor(), l.targets.lookup(n).closedFor())
}

// Record records the outcome of an attempt. A Throttled outcome closes its scope: scopes project
// and credential close everything, or everything that is sent to one service (see Service);
// narrower scopes close n's target. A refused credential, such as with Apple's
// TooManyProviderTokenUpdates, does not lower the rate. Other outcomes have no effect. Record
// returns true if it closes more than n's target, and that was open before.
func (l *RateLimiter) Record(n *push.Notification, o push.Outcome) (closed bool) {
	if l == nil {
		return false
	}
	if o.Verdict == push.Throttled {
		closed = l.recordRefusal(n, o)
	}
	if l.service != nil && l.service.recordAttempt(l.targets.key(n), o.Verdict) {
		closed = l.service.recordRefusal(o.RetryAfter) || closed
	}
	return closed
}

// recordRefusal closes the scope of a Throttled outcome.
func (l *RateLimiter) recordRefusal(n *push.Notification, o push.Outcome) (closed bool) {
	switch o.Scope {
	case push.ScopeProject, push.ScopeCredential:
		switch {
		case l.service != nil:
			return l.service.recordRefusal(o.RetryAfter)
		case o.Scope == push.ScopeProject:
			return l.total.applyRefusal((*aimdLimiter).recordRefusal, o.RetryAfter)
		}
		return l.total.applyRefusal((*aimdLimiter).recordCredentialRefusal, o.RetryAfter)
	case push.ScopeDevice, push.ScopeTopic, push.ScopeNone:
		l.targets.getOrCreate(n).recordRefusal(o.RetryAfter)
	}
	return false
}
