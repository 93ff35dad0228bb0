// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"math"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// AdaptiveLimiter bounds the number of requests that wait for a lease or hold one. It rejects the
// others immediately; those with CanQueue wait. The requests of a failing provider can therefore not
// use up the memory. The limit adapts to what the endpoints can take, as in Envoy's adaptive
// concurrency and Netflix's concurrency-limits:
//
//	limit ← limit × min(1, 1.5 × work / (work + wait)) + √limit / 8
//
// Those implementations compare the latency with the lowest latency seen, and therefore treat a
// provider that has become slow as overloaded. AdaptiveLimiter measures wait, the time before a
// lease, and work, the time with the lease, separately. A slow provider increases work and does not
// lower the limit. A queue before the endpoints lowers the limit until wait is half of work. Requests
// with CanQueue are meant to wait: their waits do not count.
//
// Lane bulk may use 80 % of the limit, normal 90 % and critical 111 %, since a sample can lower the
// limit by a tenth. A flow that exceeds its weighted share of what is in flight may borrow leases up to
// 80 % of all leases; the rest is reserved for flows below their share.
//
// The zero value has the defaults; a nil AdaptiveLimiter sets no limit. An AdaptiveLimiter belongs to
// one pool and must not be copied after first use.
type AdaptiveLimiter struct {
	// InitialLimit is the limit before anything is measured; default 1024.
	InitialLimit int
	// MinLimit is the lower bound of the limit; default 16. It should be at least what healthy
	// endpoints can take, so that a cold start does not look like an overload.
	MinLimit int
	// MaxLimit is the upper bound of the limit; default 10000. A request in flight takes about 10 KiB.
	MaxLimit int
	// MaxQueue is the maximum number of requests with CanQueue that wait; default 10000. Others are
	// rejected.
	MaxQueue int
	// Weights are the weights of flows by name; default 1 each.
	Weights map[string]int

	mu       sync.Mutex
	leases   int            // maximum number of leases of the pool; set by New
	inFlight int            // requests that hold a lease, and those without CanQueue that wait for one
	flows    map[string]int // the same by flow, at least 1
	shed     uint64
	limit    float64
	sample   sample
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
	borrowThreshold = 0.8 // fraction of all leases up to which a flow beyond its share may take one more
	shedRetryAfter  = time.Second
)

// Reasons of a *push.RejectedError of PickN.
const (
	ReasonOverloaded = "OVERLOADED"     // the limit of the AdaptiveLimiter is reached
	ReasonOverShare  = "APP_OVER_SHARE" // the leases are scarce and the flow exceeds its share
)

func overloaded() *push.RejectedError {
	return &push.RejectedError{Outcome: push.Outcome{Verdict: push.Unsent, Reason: ReasonOverloaded, RetryAfter: shedRetryAfter}}
}

// admit counts up to n requests as in flight and returns how many. If there are none, those without
// CanQueue are rejected.
func (a *AdaptiveLimiter) admit(r *Request, n int) (granted int, rejected *push.RejectedError) {
	if a == nil {
		return n, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for ; granted < n; granted++ {
		if rejected = a.check(r, granted); rejected != nil {
			break
		}
	}
	switch {
	case granted > 0:
		a.addLocked(r.Flow, granted)
	case !r.CanQueue:
		a.countShed(n)
		return 0, rejected
	}
	return granted, nil
}

// check returns why r must not be in flight in addition to what is, and to so many others like r. a.mu
// is held.
func (a *AdaptiveLimiter) check(r *Request, others int) *push.RejectedError {
	inFlight := a.inFlight + others
	switch {
	case !r.CanQueue && float64(inFlight) >= a.currentLimit()*laneFraction(r.Lane):
		return overloaded()
	case float64(inFlight) >= float64(a.leases)*borrowThreshold && a.exceedsShare(r.Flow, others):
		return &push.RejectedError{Outcome: push.Outcome{Verdict: push.Throttled, Reason: ReasonOverShare, RetryAfter: shedRetryAfter}}
	}
	return nil
}

// laneFraction returns the fraction of the limit that requests of a lane may use. One sample can lower
// the limit to what the other lanes already use; critical requests must not be rejected for that.
func laneFraction(lane push.Lane) float64 {
	if lane == push.LaneCritical {
		return 1 / minGradient
	}
	return 1 - 0.1*float64(lane.Priority())
}

// exceedsShare reports whether a flow, with so many requests more, has more than its weighted share of
// what is in flight. It returns false if no other flow has requests in flight. a.mu is held.
func (a *AdaptiveLimiter) exceedsShare(flow string, more int) bool {
	own, total := float64(a.weight(flow)), 0.0
	for other := range a.flows {
		if other != flow {
			total += float64(a.weight(other))
		}
	}
	return total > 0 && float64(a.flows[flow]+more) >= float64(a.inFlight+more)*own/(own+total)
}

func (a *AdaptiveLimiter) weight(flow string) int { return max(a.Weights[flow], 1) }

// add adds n requests, which may be negative, to those in flight.
func (a *AdaptiveLimiter) add(flow string, n int) {
	if a == nil || n == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addLocked(flow, n)
}

func (a *AdaptiveLimiter) addLocked(flow string, n int) {
	if a.flows == nil {
		a.flows = make(map[string]int)
	}
	if a.flows[flow] += n; a.flows[flow] == 0 {
		delete(a.flows, flow) // exceedsShare reads all flows
	}
	a.inFlight += n
	a.sample.peak = max(a.sample.peak, a.inFlight)
}

// rejectWaiting returns the error of n requests with CanQueue that cannot wait or have waited too long.
func (a *AdaptiveLimiter) rejectWaiting(n int) *push.RejectedError {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.countShed(n)
	return overloaded()
}

// countShed counts rejected requests. Of several that are rejected together, each is tried again alone.
// a.mu is held.
func (a *AdaptiveLimiter) countShed(n int) {
	if n == 1 {
		a.shed++
	}
}

// release ends n requests of a lease after took, which is 0 for those that were not sent.
func (a *AdaptiveLimiter) release(l *Lease, n int, took time.Duration) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.addLocked(l.flow, -n)
	if l.canQueue {
		return
	}
	s, now := &a.sample, time.Now()
	s.wait += l.waited * time.Duration(n)
	s.work += took * time.Duration(n)
	s.count += n
	if s.count >= minSamples && now.Sub(s.start) >= minSampleTime {
		a.updateLimit(s)
		a.sample = sample{start: now, peak: a.inFlight}
	}
}

// updateLimit adapts the limit to a sample. The limit does not grow while less than half of it is
// used. a.mu is held.
func (a *AdaptiveLimiter) updateLimit(s *sample) {
	limit := a.currentLimit()
	gradient := 1.0
	if total := s.wait + s.work; total > 0 {
		gradient = min(max(waitTolerance*float64(s.work)/float64(total), minGradient), 1)
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

// SetWeights replaces Weights.
func (a *AdaptiveLimiter) SetWeights(weights map[string]int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.Weights = weights
}

// LimitStatus is the state of a limit of concurrency.
type LimitStatus struct {
	// Limit is the current limit, and InFlight the number of notifications that count towards it.
	Limit    int `json:"limit"`
	InFlight int `json:"in_flight"`
	// Waiting is the number of queued notifications.
	Waiting int `json:"waiting"`
	// Shed is the number of notifications rejected since the start.
	Shed uint64 `json:"shed"`
}

// LimitStatus returns the state of Config.Limiter, or the zero value without one.
func (p *Pool) LimitStatus() LimitStatus {
	a := p.cfg.Limiter
	if a == nil {
		return LimitStatus{}
	}
	waiting := p.queue.queuedRequests()
	a.mu.Lock()
	defer a.mu.Unlock()
	return LimitStatus{Limit: int(a.currentLimit()), InFlight: a.inFlight, Waiting: waiting, Shed: a.shed}
}
