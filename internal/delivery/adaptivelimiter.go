// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"math"
	"time"

	"github.com/sluice-push/sluice/push"
)

// AdaptiveLimiter bounds how many notifications are on their way to an endpoint at a time, waiting for one or on it. It turns the
// others away at once, but for the patient ones, who wait for a place. It is the bulkhead of one credential: what is stuck before one provider takes no place before
// another. The bound follows what the endpoints can bear, as in Envoy's adaptive concurrency and Netflix's
// concurrency-limits:
//
//	limit ← limit × min(1, 1.5 × work / (work + wait)) + √limit / 8
//
// Those compare latency with the best that they have seen, and so take a service that has become slow for one that is
// overloaded. Here the two are measured apart: wait is the time before a lease, work the time on it. A slow provider
// makes the work longer and is borne; a line before the endpoints makes the bound shrink until the wait is half of the
// work.
//
// Bulk is turned away at 80 % of the bound, normal at 90 %, critical at all of it; patient ones wait at nine tenths of
// that. Beyond its share, by weight among those that have something on the way, an app is lent what others leave, up to
// 80 % of the leases that there are; the rest is kept for those who come back for theirs. The zero value is the default, a
// nil one admits everything. It must not be copied once in use.
type AdaptiveLimiter struct {
	// Start is the bound before anything is known; default 1024.
	InitialLimit int
	// Least is the lowest that the bound shrinks; default 16. What the endpoints can bear in health keeps a cold start
	// from being taken for an overload.
	MinLimit int
	// Most is the highest that the bound grows; default 10000, of some 10 KiB each.
	MaxLimit int
	// Line is how many patient notifications may wait for a place; default 10000. One more is turned away.
	MaxQueue int
	// Weights are the shares of apps, by name; default 1 each.
	Weights map[string]int

	fairQueue
	limit         float64
	unleased      int     // of those inside, without a lease yet
	leaseCapacity float64 // how many leases there were when somebody waited for one; 0: not known
	sample        sample
}

// sample is what was measured since began.
type sample struct {
	start      time.Time
	wait, work time.Duration
	count      int
	peak       int // most in flight
}

const (
	minGradient     = 0.9 // of the bound is left by one sample, so that a cold start is not taken for an overload
	minSampleTime   = 100 * time.Millisecond
	waitTolerance   = 1.5 // times as long as the work alone may work and wait take
	borrowThreshold = 0.8 // of the leases may be taken when an app beyond its share takes one more
	minSamples      = 10
	shedRetryAfter  = time.Second
)

// acquire lets n on its way, or returns why not; waited tells that it took its time. After ok, leave is to be called with
// the party.
func (a *AdaptiveLimiter) acquire(ctx context.Context, n *push.Notification, patience time.Duration) (p *usage, waited bool, cause push.Outcome, ok bool) {
	if a == nil {
		return nil, false, push.Outcome{}, true
	}
	p, waited, cause = a.fairQueue.acquire(ctx, n, patience, cmp.Or(a.MaxQueue, 10_000), a)
	return p, waited, cause, p != nil
}

// admit is the rule. a.mu is held.
func (a *AdaptiveLimiter) admit(n *push.Notification, p *usage) (cause push.Outcome, ok bool) {
	if a.unleased > 1 {
		a.leaseCapacity = float64(a.inFlight - a.unleased)
	}
	switch taken := float64(a.inFlight); {
	case taken >= a.currentLimit()*limitFraction(n):
		return push.Outcome{Verdict: push.Unsent, Reason: reasonOverloaded, RetryAfter: shedRetryAfter}, false
	case a.leaseCapacity > 0 && taken >= a.leaseCapacity*borrowThreshold && a.exceedsShare(p):
		return push.Outcome{Verdict: push.Throttled, Reason: reasonOverShare, RetryAfter: shedRetryAfter}, false
	}
	a.start(p)
	a.unleased++
	a.sample.peak = max(a.sample.peak, a.inFlight)
	return push.Outcome{}, true
}

// endWait tells that one of those in flight has its lease, or will never have one.
func (a *AdaptiveLimiter) endWait() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.unleased--
}

// release takes one of p off the way. wait is how long it waited for its lease, work how long it was on it.
func (a *AdaptiveLimiter) release(p *usage, wait, work time.Duration) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s, now := &a.sample, time.Now()
	s.wait += wait
	s.work += work
	s.count++
	if s.count >= minSamples && now.Sub(s.start) >= minSampleTime {
		a.updateLimit(s)
		a.sample = sample{start: now, peak: a.inFlight}
	}
	a.finish(p, a)
}

// updateLimit moves the bound. It does not grow where it was not put to use. a.mu is held.
func (a *AdaptiveLimiter) updateLimit(s *sample) {
	bound := a.currentLimit()
	gradient := 1.0
	if whole := s.wait + s.work; whole > 0 {
		gradient = min(max(waitTolerance*float64(s.work)/float64(whole), minGradient), 1)
	}
	if s.wait < s.work/100 {
		a.leaseCapacity += math.Sqrt(a.leaseCapacity) / 8
	}
	next := bound*gradient + math.Sqrt(bound)/8
	if float64(s.peak) < bound/2 {
		next = min(next, bound)
	}
	a.limit = min(max(next, float64(cmp.Or(a.MinLimit, 16))), float64(cmp.Or(a.MaxLimit, 10_000)))
}

func (a *AdaptiveLimiter) currentLimit() float64 {
	if a.limit == 0 {
		a.limit = float64(cmp.Or(a.InitialLimit, 1024))
	}
	return a.limit
}

// exceedsShare reports whether p holds more than its share, by weight, of the leases that are held. Alone, it cannot.
// a.mu is held.
func (a *AdaptiveLimiter) exceedsShare(p *usage) bool {
	own := float64(max(a.Weights[p.key.app], 1))
	all := own
	for _, other := range a.usages {
		if other != p && other.inFlight > 0 {
			all += float64(max(a.Weights[other.key.app], 1))
		}
	}
	return all > own && float64(p.inFlight) >= float64(max(a.inFlight-a.unleased, 1))*own/all
}

// SetWeights puts other weights in the place of Weights.
func (a *AdaptiveLimiter) SetWeights(weights map[string]int) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Weights = weights
}

// LimitStatus is an Admission's state at a moment.
type LimitStatus struct {
	Limit    int `json:"limit"`
	InFlight int `json:"in_flight"`
	// Waiting is how many patient ones wait for a place.
	Waiting int    `json:"waiting"`
	Shed    uint64 `json:"shed"`
}

// Status returns the state now.
func (a *AdaptiveLimiter) Status() LimitStatus {
	if a == nil {
		return LimitStatus{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return LimitStatus{Limit: int(a.currentLimit()), InFlight: a.inFlight, Waiting: a.queue.length, Shed: a.shed}
}
