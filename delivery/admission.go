// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"math"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Admission bounds how many notifications are on their way to an endpoint at a time, waiting for one or on it, and turns
// the others away at once. It is the bulkhead of one credential: what is stuck before one provider takes no place before
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
// Bulk is turned away at 80 % of the bound, normal at 90 %, critical at all of it. Beyond its share, by weight among those
// that have something on the way, an app is lent what others leave, up to 80 % of the leases that there are; the rest is
// kept for those who come back for theirs. The zero value is the default, a nil one admits everything. It must not be
// copied once in use.
type Admission struct {
	// Start is the bound before anything is known; default 1024.
	Start int
	// Least is the lowest that the bound shrinks; default 16. What the endpoints can bear in health keeps a cold start
	// from being taken for an overload.
	Least int
	// Most is the highest that the bound grows; default 10000, of some 10 KiB each.
	Most int
	// Weights are the shares of apps, by name; default 1 each.
	Weights map[string]int

	mu       sync.Mutex
	limit    float64
	inFlight int
	waiting  int            // of those in flight, without a lease yet
	apps     map[string]int // in flight, by app
	full     float64        // how many leases there were when somebody waited for one; 0: not known
	shed     uint64
	sample   sample
}

// sample is what was measured since began.
type sample struct {
	began      time.Time
	wait, work time.Duration
	count      int
	peak       int // most in flight
}

const (
	steepest    = 0.9 // of the bound is left by one sample, so that a cold start is not taken for an overload
	sampleTime  = 100 * time.Millisecond
	bearable    = 1.5 // times as long as the work alone may work and wait take
	lent        = 0.8 // of the leases may be taken when an app beyond its share takes one more
	sampleLeast = 10
	shedAwhile  = time.Second
)

// lanePart is the part of the bound that a lane may fill.
func lanePart(n *push.Notification) float64 {
	switch n.InLane() {
	case push.LaneCritical:
		return 1
	case push.LaneBulk:
		return 0.8
	default:
		return 0.9
	}
}

// enter lets n on its way, or returns why not. After ok, leave is to be called.
func (a *Admission) enter(n *push.Notification) (cause push.Outcome, ok bool) {
	if a == nil {
		return push.Outcome{}, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting > 1 {
		a.full = float64(a.inFlight - a.waiting)
	}
	bound := a.bound()
	most := bound * lanePart(n)
	switch taken := float64(a.inFlight); {
	case taken >= most:
		a.shed++
		return push.Outcome{Verdict: push.Unsent, Reason: overloaded, RetryAfter: shedAwhile}, false
	case a.full > 0 && taken >= a.full*lent && a.overShare(n.App):
		a.shed++
		return push.Outcome{Verdict: push.Throttled, Reason: overShare, RetryAfter: shedAwhile}, false
	}
	if a.apps == nil {
		a.apps = make(map[string]int)
	}
	a.apps[n.App]++
	a.inFlight++
	a.waiting++
	a.sample.peak = max(a.sample.peak, a.inFlight)
	return push.Outcome{}, true
}

// leased tells that one of those in flight has its lease, or will never have one.
func (a *Admission) leased() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting--
}

// leave takes n off the way. wait is how long it waited for its lease, work how long it was on it.
func (a *Admission) leave(n *push.Notification, wait, work time.Duration) {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inFlight--
	if a.apps[n.App]--; a.apps[n.App] == 0 {
		delete(a.apps, n.App)
	}
	s, now := &a.sample, time.Now()
	s.wait += wait
	s.work += work
	s.count++
	if s.count >= sampleLeast && now.Sub(s.began) >= sampleTime {
		a.adapt(s)
		a.sample = sample{began: now, peak: a.inFlight}
	}
}

// adapt moves the bound. It does not grow where it was not put to use. a.mu is held.
func (a *Admission) adapt(s *sample) {
	bound := a.bound()
	gradient := 1.0
	if whole := s.wait + s.work; whole > 0 {
		gradient = min(max(bearable*float64(s.work)/float64(whole), steepest), 1)
	}
	if s.wait < s.work/100 {
		a.full += math.Sqrt(a.full) / 8
	}
	next := bound*gradient + math.Sqrt(bound)/8
	if float64(s.peak) < bound/2 {
		next = min(next, bound)
	}
	a.limit = min(max(next, float64(cmp.Or(a.Least, 16))), float64(cmp.Or(a.Most, 10_000)))
}

func (a *Admission) bound() float64 {
	if a.limit == 0 {
		a.limit = float64(cmp.Or(a.Start, 1024))
	}
	return a.limit
}

// overShare reports whether the app holds more than its share, by weight, of the leases that are held. Alone, it cannot.
// a.mu is held.
func (a *Admission) overShare(app string) bool {
	own := float64(max(a.Weights[app], 1))
	all := own
	for other := range a.apps {
		if other != app {
			all += float64(max(a.Weights[other], 1))
		}
	}
	return all > own && float64(a.apps[app]) >= float64(a.inFlight-a.waiting)*own/all
}

// AdmissionStatus is an Admission's state at a moment.
type AdmissionStatus struct {
	Limit    int    `json:"limit"`
	InFlight int    `json:"in_flight"`
	Shed     uint64 `json:"shed"`
}

// Status returns the state now.
func (a *Admission) Status() AdmissionStatus {
	if a == nil {
		return AdmissionStatus{}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return AdmissionStatus{Limit: int(a.bound()), InFlight: a.inFlight, Shed: a.shed}
}
