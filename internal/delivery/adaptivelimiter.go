// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"math"
	"time"

	"github.com/sluice-push/sluice/push"
)

// AdaptiveLimiter bounds the number of notifications of one credential that wait for an endpoint or
// are being sent. It sheds the others immediately; those with CanQueue wait. A failing provider
// therefore cannot use up the capacity of another. The limit adapts to what the endpoints can take,
// as in Envoy's adaptive concurrency and Netflix's concurrency-limits:
//
//	limit ← limit × min(1, 1.5 × work / (work + wait)) + √limit / 8
//
// Those implementations compare the latency with the lowest latency seen, and therefore treat a
// provider that has become slow as overloaded. AdaptiveLimiter measures wait, the time before a
// lease, and work, the time with the lease, separately. A slow provider increases work and does not
// lower the limit. A queue before the endpoints lowers the limit until wait is half of work.
//
// Lane bulk may use 80 % of the limit, normal 90 % and critical all of it; notifications with
// CanQueue get nine tenths of that. An app that exceeds its weighted share of the leases may borrow
// unused leases up to 80 % of all leases; the rest is reserved for apps below their share.
//
// The zero value has the defaults; a nil AdaptiveLimiter sets no limit. An AdaptiveLimiter must not
// be copied after first use.
type AdaptiveLimiter struct {
	// InitialLimit is the limit before anything is measured; default 1024.
	InitialLimit int
	// MinLimit is the lower bound of the limit; default 16. It should be at least what healthy
	// endpoints can take, so that a cold start does not look like an overload.
	MinLimit int
	// MaxLimit is the upper bound of the limit; default 10000. A notification in flight takes about
	// 10 KiB.
	MaxLimit int
	// Leases is the number of leases of healthy endpoints; default 0. The limiter never assumes that
	// there are fewer: a lower number is measured while endpoints connect, and by chance while
	// notifications are between the limit and their leases.
	Leases int
	// MaxQueue is the maximum number of notifications that wait; default 10000. Others are shed.
	MaxQueue int
	// Weights are the weights of apps by name; default 1 each.
	Weights map[string]int

	fairQueue
	limit         float64
	unleased      int     // notifications in flight that have no lease yet
	leaseWaiters  int     // permits with such notifications
	leaseCapacity float64 // number of leases when a notification last had to wait for one; 0: unknown
	sample        sample
}

// sample holds the measurements since start.
type sample struct {
	start      time.Time
	wait, work time.Duration
	count      int
	peak       int // maximum in flight
}

const (
	minGradient     = 0.9 // smallest factor that one sample applies, so that a cold start does not look like an overload
	minSampleTime   = 100 * time.Millisecond
	minSamples      = 10
	waitTolerance   = 1.5 // ratio of work + wait to work that does not lower the limit
	borrowThreshold = 0.8 // fraction of all leases up to which an app beyond its share may take one more
	shedRetryAfter  = time.Second
)

// acquire waits for places for count notifications like n, and returns for how many, or a *push.RejectedError.
// With the leases, the caller must call leased of the permit.
func (a *AdaptiveLimiter) acquire(ctx context.Context, n *push.Call, count int, maxWait time.Duration) (p permit, granted int, err error) {
	if a == nil {
		return permit{}, count, nil
	}
	if p, granted, err = a.fairQueue.acquire(ctx, n, count, maxWait, cmp.Or(a.MaxQueue, 10_000), a); err == nil {
		p.adaptive, p.unleased, p.start = a, granted, time.Now()
	}
	return p, granted, err
}

// admit implements limiter.
func (a *AdaptiveLimiter) admit(n *push.Call, count, own int) (granted int, cause push.Outcome) {
	if a.leaseWaiters > 1 {
		a.leaseCapacity = float64(a.inFlight - a.unleased)
	}
	for ; granted < count; granted++ {
		if cause = a.check(n, a.inFlight+granted, own+granted); cause.Reason != "" {
			break
		}
	}
	if granted > 0 {
		a.unleased += granted
		a.leaseWaiters++
		a.sample.peak = max(a.sample.peak, a.inFlight+granted)
	}
	return granted, cause
}

// check returns the outcome of the rejection of n, or the zero Outcome. inFlight counts all
// notifications in flight and own those of n's flow. a.mu is held.
func (a *AdaptiveLimiter) check(n *push.Call, inFlight, own int) push.Outcome {
	switch {
	case float64(inFlight) >= a.currentLimit()*limitFraction(n):
		return push.Outcome{Verdict: push.Unsent, Reason: reasonOverloaded, RetryAfter: shedRetryAfter}
	case a.leaseCapacity > 0 && float64(inFlight) >= max(a.leaseCapacity, float64(a.Leases))*borrowThreshold && a.exceedsShare(flowOf(n), own):
		return push.Outcome{Verdict: push.Throttled, Reason: reasonOverShare, RetryAfter: shedRetryAfter}
	}
	return push.Outcome{}
}

// endWait records that count notifications have a lease or will not get one. last is true if these
// are the last ones of their permit.
func (a *AdaptiveLimiter) endWait(count int, last bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unleased -= count; last {
		a.leaseWaiters--
	}
}

// release implements limiter.
func (a *AdaptiveLimiter) release(flow flowKey, count int, wait, took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, now := &a.sample, time.Now()
	s.wait += wait * time.Duration(count)
	s.work += took * time.Duration(count)
	s.count += count
	if s.count >= minSamples && now.Sub(s.start) >= minSampleTime {
		a.updateLimit(s)
		a.sample = sample{start: now, peak: a.inFlight}
	}
	a.finish(flow, count, a)
}

// updateLimit adapts the limit to a sample. The limit does not grow while less than half of it is
// used. a.mu is held.
func (a *AdaptiveLimiter) updateLimit(s *sample) {
	limit := a.currentLimit()
	gradient := 1.0
	if total := s.wait + s.work; total > 0 {
		gradient = min(max(waitTolerance*float64(s.work)/float64(total), minGradient), 1)
	}
	if s.wait < s.work/100 {
		a.leaseCapacity += math.Sqrt(a.leaseCapacity) / 8
	}
	next := limit*gradient + math.Sqrt(limit)/8
	if float64(s.peak) < limit/2 {
		next = min(next, limit)
	}
	a.limit = min(max(next, float64(cmp.Or(a.MinLimit, 16))), float64(cmp.Or(a.MaxLimit, 10_000)))
}

func (a *AdaptiveLimiter) currentLimit() float64 {
	if a.limit == 0 {
		a.limit = float64(cmp.Or(a.InitialLimit, 1024))
	}
	return a.limit
}

// exceedsShare reports whether a flow with the given number of notifications has more than its
// weighted share of the leases. It returns false if no other flow has notifications in flight. a.mu
// is held.
func (a *AdaptiveLimiter) exceedsShare(flow flowKey, inFlight int) bool {
	own := float64(max(a.Weights[flow.app], 1))
	total := own
	for other := range a.flows {
		if other != flow {
			total += float64(max(a.Weights[other.app], 1))
		}
	}
	return total > own && float64(inFlight) >= float64(max(a.inFlight-a.unleased, 1))*own/total
}

// SetWeights replaces Weights.
func (a *AdaptiveLimiter) SetWeights(weights map[string]int) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Weights = weights
}

// LimitStatus is the state of an AdaptiveLimiter or a ConcurrencyLimit.
type LimitStatus struct {
	// Limit is the current limit, and InFlight the number of notifications that count towards it.
	Limit    int `json:"limit"`
	InFlight int `json:"in_flight"`
	// Waiting is the number of queued notifications.
	Waiting int `json:"waiting"`
	// Shed is the number of notifications rejected since the start.
	Shed uint64 `json:"shed"`
}

// Status returns the current state.
func (a *AdaptiveLimiter) Status() LimitStatus {
	if a == nil {
		return LimitStatus{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return LimitStatus{Limit: int(a.currentLimit()), InFlight: a.inFlight, Waiting: a.waiting, Shed: a.shed}
}
