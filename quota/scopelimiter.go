// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// minDispatchInterval is the minimum time between two dispatches. At 10,000 per second, a timer per
// reservation would cost more than the reservation.
const minDispatchInterval = time.Millisecond

// scopeLimiter limits a scope that many notifications share, and queues reservations. Higher lanes
// are served first, and within a lane the apps share by weight. An attempt is allowed immediately
// if no reservation waits in its lane or a higher one. Apps can therefore use the unused share of
// other apps, which get it back with the next token.
type scopeLimiter struct {
	mu       sync.Mutex
	weights  map[string]int
	aimd     aimdLimiter
	rejected meter
	lanes    [3]laneQueue
	waiting  int
	timer    *time.Timer
	armed    bool
}

// laneQueue holds the reservations of one lane by app. Each token advances the pass of its app by
// its stride, the inverse of its weight; the app with the lowest pass is next (stride scheduling;
// Waldspurger and Weihl, 1995).
type laneQueue struct {
	apps       map[string]*appQueue
	globalPass float64 // pass of the app that was served last
	waiting    int
}

type appQueue struct {
	stride       float64
	pass         float64
	reservations []*Reservation // in order, including removed ones
	waiting      int            // without removed ones
}

// lanePriority returns the priority of n's lane; 0 is the highest.
func lanePriority(n *push.Notification) int {
	switch n.EffectiveLane() {
	case push.LaneCritical:
		return 0
	case push.LaneBulk:
		return 2
	default:
		return 1
	}
}

// tryAcquire allows an attempt at n, or returns false if it would have to wait.
func (l *scopeLimiter) tryAcquire(n *push.Notification) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 && l.waitingUpTo(lanePriority(n)) > 0 {
		return false
	}
	return l.aimd.allow(time.Now())
}

// waitingUpTo counts the reservations in the lane of this priority and in higher lanes. l.mu is
// held.
func (l *scopeLimiter) waitingUpTo(priority int) (count int) {
	for i := range priority + 1 {
		count += l.lanes[i].waiting
	}
	return count
}

// reserve allows r's attempt, queues r, or rejects it if its wait would exceed its deadline. wait
// is the estimated wait.
func (l *scopeLimiter) reserve(r *Reservation) (wait time.Duration, queued, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	ahead := l.countAhead(r)
	if ahead == 0 && l.aimd.allow(now) {
		return 0, false, true
	}
	if wait = l.aimd.delay(now, ahead+1); now.Add(wait).After(r.deadline) {
		l.rejected.count(now)
		return wait, false, false
	}
	l.enqueue(r)
	l.armTimer(now)
	return wait, true, true
}

// countAhead estimates the number of reservations that will be served before r: all in higher
// lanes, all of r's app, and of each other app in the lane what its weight gives it until then.
// l.mu is held.
func (l *scopeLimiter) countAhead(r *Reservation) int {
	if l.waiting == 0 {
		return 0
	}
	lane := &l.lanes[r.priority]
	own := lane.queueFor(r.app, l.weights)
	count := l.waitingUpTo(r.priority) - lane.waiting + own.waiting
	for _, q := range lane.apps {
		if q != own {
			count += min(q.waiting, int(float64(own.waiting+1)*own.stride/q.stride))
		}
	}
	return count
}

// enqueue adds r to its queue. l.mu is held.
func (l *scopeLimiter) enqueue(r *Reservation) {
	lane := &l.lanes[r.priority]
	q := lane.queueFor(r.app, l.weights)
	if q.waiting == 0 {
		q.pass = max(q.pass, lane.globalPass)
	}
	r.removed = false
	q.reservations = append(q.reservations, r)
	q.waiting++
	lane.waiting++
	l.waiting++
}

func (l *laneQueue) queueFor(app string, weights map[string]int) *appQueue {
	q, ok := l.apps[app]
	if !ok {
		if l.apps == nil {
			l.apps = make(map[string]*appQueue)
		}
		q = &appQueue{stride: appStride(weights, app), pass: l.globalPass}
		l.apps[app] = q
	}
	return q
}

func appStride(weights map[string]int, app string) float64 { return 1 / float64(max(weights[app], 1)) }

// dequeue removes and returns the next reservation, or nil if there is none. l.mu is held.
func (l *scopeLimiter) dequeue() *Reservation {
	for i := range l.lanes {
		lane := &l.lanes[i]
		if lane.waiting == 0 {
			continue
		}
		q := lane.nextApp()
		lane.globalPass = q.pass
		q.pass += q.stride
		return l.remove(lane, q, q.popFront())
	}
	return nil
}

// nextApp returns the queue with the lowest pass that is not empty.
func (l *laneQueue) nextApp() (next *appQueue) {
	for _, q := range l.apps {
		if q.waiting > 0 && (next == nil || q.pass < next.pass) {
			next = q
		}
	}
	return next
}

// popFront returns the first reservation that is not removed. The queue must have one.
func (q *appQueue) popFront() *Reservation {
	for {
		r := q.reservations[0]
		q.reservations[0] = nil
		if q.reservations = q.reservations[1:]; !r.removed {
			return r
		}
	}
}

// remove marks r as removed and updates the counts. l.mu is held.
func (l *scopeLimiter) remove(lane *laneQueue, q *appQueue, r *Reservation) *Reservation {
	r.removed = true
	q.waiting--
	lane.waiting--
	l.waiting--
	if q.waiting == 0 {
		q.reservations = nil
	}
	return r
}

// cancel removes r from the queue.
func (l *scopeLimiter) cancel(r *Reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !r.removed {
		l.remove(&l.lanes[r.priority], l.lanes[r.priority].apps[r.app], r)
	}
}

// armTimer sets the timer for the next dispatch. l.mu is held.
func (l *scopeLimiter) armTimer(now time.Time) {
	if l.armed || l.waiting == 0 {
		return
	}
	l.armed = true
	wait := max(l.aimd.delay(now, 1), minDispatchInterval)
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.dispatch)
		return
	}
	l.timer.Reset(wait)
}

// dispatch gives the available tokens to the next reservations.
func (l *scopeLimiter) dispatch() {
	for _, r := range l.takeReady() {
		r.advance()
	}
}

func (l *scopeLimiter) takeReady() (ready []*Reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for l.waiting > 0 && l.aimd.allow(now) {
		ready = append(ready, l.dequeue())
	}
	l.armed = false
	l.armTimer(now)
	return ready
}

// applyRefusal closes the scope with record, one of the two record methods of aimdLimiter, and
// rejects the reservations whose deadline is before the scope reopens. It returns true if the scope
// was open.
func (l *scopeLimiter) applyRefusal(record func(l *aimdLimiter, now time.Time, wait time.Duration), wait time.Duration) (wasOpen bool) {
	evicted, closed, wasOpen := l.closeAndEvict(record, wait)
	for _, r := range evicted {
		r.resolve(closed)
	}
	return wasOpen
}

func (l *scopeLimiter) closeAndEvict(record func(*aimdLimiter, time.Time, time.Duration), wait time.Duration) (evicted []*Reservation, closed time.Duration, wasOpen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	wasOpen = l.aimd.closedFor(now) == 0
	record(&l.aimd, now, wait)
	closed = l.aimd.closedFor(now)
	for i := range l.lanes {
		for _, q := range l.lanes[i].apps {
			for _, r := range q.reservations {
				if !r.removed && r.deadline.Before(now.Add(closed)) {
					evicted = append(evicted, l.remove(&l.lanes[i], q, r))
				}
			}
		}
	}
	return evicted, closed, wasOpen
}

// closedFor returns how long the scope stays closed.
func (l *scopeLimiter) closedFor() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.aimd.closedFor(time.Now())
}

// status returns the current state.
func (l *scopeLimiter) status(name string) ScopeStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.aimd.bucketAt(now, now)
	return ScopeStatus{
		Name: name, Limit: l.aimd.limit.Rate, Rate: l.aimd.currentRate(now) * l.aimd.spendable(), Share: l.aimd.spendable(), ClosedFor: l.aimd.closedFor(now).Seconds(),
		Waiting: Waiting{Critical: l.lanes[0].waiting, Normal: l.lanes[1].waiting, Bulk: l.lanes[2].waiting},
	}
}
