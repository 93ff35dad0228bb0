// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/fairqueue"
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
	queue    fairqueue.Queue[string, *Reservation] // flows are apps
	timer    *time.Timer
	armed    bool
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

// take takes up to count tokens for notifications like n, and returns how many.
func (l *scopeLimiter) take(n *push.Notification, count int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for priority := range lanePriority(n) + 1 {
		if l.queue.LaneLen(priority) > 0 {
			return 0
		}
	}
	return l.aimd.take(time.Now(), count)
}

// restore returns count tokens that were not used.
func (l *scopeLimiter) restore(count int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.aimd.restore(now, count)
	l.resetTimer(now)
}

// reserve allows r's attempt, queues r, or rejects it if its wait would exceed its deadline. wait
// is the estimated wait.
func (l *scopeLimiter) reserve(r *Reservation) (wait time.Duration, queued, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	ahead := l.queue.Ahead(r.priority, r.app, l.weights[r.app])
	if ahead == 0 && l.aimd.take(now, 1) == 1 {
		return 0, false, true
	}
	if wait = l.aimd.delay(now, ahead+1); now.Add(wait).After(r.deadline) {
		l.rejected.count(now, 1)
		return wait, false, false
	}
	r.item = l.queue.Push(r.priority, r.app, l.weights[r.app], r)
	l.armTimer(now)
	return wait, true, true
}

// cancel removes r from the queue.
func (l *scopeLimiter) cancel(r *Reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue.Remove(r.item)
}

// armTimer sets the timer for the next dispatch. l.mu is held.
func (l *scopeLimiter) armTimer(now time.Time) {
	if l.armed || l.queue.Len() == 0 {
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
	for l.queue.Len() > 0 && l.aimd.take(now, 1) == 1 {
		ready = append(ready, l.queue.Pop(nil).Value)
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
	for item := range l.queue.All() {
		if item.Value.deadline.Before(now.Add(closed)) {
			l.queue.Remove(item)
			evicted = append(evicted, item.Value)
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
		Waiting: Waiting{Critical: l.queue.LaneLen(0), Normal: l.queue.LaneLen(1), Bulk: l.queue.LaneLen(2)},
	}
}
