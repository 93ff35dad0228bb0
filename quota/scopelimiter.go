// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// minDispatchInterval is the least time between two handouts: at 10,000 a second a timer for
// each place would cost more than the places.
const minDispatchInterval = time.Millisecond

// scopeLimiter is a scope that is waited for, with those who wait: the better lane
// first, and within a lane the apps by their weights. Whoever comes while
// nobody waits in his lane or a better one takes a place at once, so what one
// app leaves is lent to the others, and taken back with the next place.
type scopeLimiter struct {
	mu       sync.Mutex
	weights  map[string]int
	aimd     aimdLimiter
	rejected meter // those who were turned away
	lanes    [3]laneQueue
	waiting  int
	timer    *time.Timer
	armed    bool
}

// laneQueue holds those who wait in one lane, app by app. Each place moves its app
// on by the inverse of its weight, and the app that is farthest behind is next
// (stride scheduling; Waldspurger and Weihl, 1995).
type laneQueue struct {
	apps       map[string]*appQueue
	globalPass float64 // how far the app was that had the last place
	waiting    int
}

type appQueue struct {
	stride       float64
	pass         float64
	reservations []*Reservation // in order; those who have left are passed over
	waiting      int
}

// lanePriority is a lane's place: the lower goes first.
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

// tryAcquire lets n through if that can be at once.
func (l *scopeLimiter) tryAcquire(n *push.Notification) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting > 0 && l.waitingUpTo(lanePriority(n)) > 0 {
		return false
	}
	return l.aimd.allow(time.Now())
}

// waitingUpTo counts those who wait in this lane and the better ones. l.mu is held.
func (l *scopeLimiter) waitingUpTo(rank int) (count int) {
	for i := range rank + 1 {
		count += l.lanes[i].waiting
	}
	return count
}

// reserve puts t in line, or lets it through at once, or says how long it would
// have to wait if that is longer than it can.
func (l *scopeLimiter) reserve(t *Reservation) (wait time.Duration, queued, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	ahead := l.countAhead(t)
	if ahead == 0 && l.aimd.allow(now) {
		return 0, false, true
	}
	if wait = l.aimd.delay(now, ahead+1); now.Add(wait).After(t.deadline) {
		l.rejected.count(now)
		return wait, false, false
	}
	l.enqueue(t)
	l.armTimer(now)
	return wait, true, true
}

// countAhead counts those who will go before t: everybody in the better lanes, and
// of each app in its own what its weight gives it meanwhile. l.mu is held.
func (l *scopeLimiter) countAhead(t *Reservation) int {
	if l.waiting == 0 {
		return 0
	}
	lane := &l.lanes[t.priority]
	own := lane.queueFor(t.app, l.weights)
	count := l.waitingUpTo(t.priority) - lane.waiting + own.waiting
	for _, s := range lane.apps {
		if s != own {
			count += min(s.waiting, int(float64(own.waiting+1)*own.stride/s.stride))
		}
	}
	return count
}

// enqueue puts t in line. l.mu is held.
func (l *scopeLimiter) enqueue(t *Reservation) {
	lane := &l.lanes[t.priority]
	s := lane.queueFor(t.app, l.weights)
	if s.waiting == 0 {
		s.pass = max(s.pass, lane.globalPass)
	}
	t.removed = false
	s.reservations = append(s.reservations, t)
	s.waiting++
	lane.waiting++
	l.waiting++
}

func (l *laneQueue) queueFor(app string, weights map[string]int) *appQueue {
	s, ok := l.apps[app]
	if !ok {
		if l.apps == nil {
			l.apps = make(map[string]*appQueue)
		}
		s = &appQueue{stride: appStride(weights, app), pass: l.globalPass}
		l.apps[app] = s
	}
	return s
}

func appStride(weights map[string]int, app string) float64 { return 1 / float64(max(weights[app], 1)) }

// dequeue takes the next one out of line, nil if nobody waits. l.mu is held.
func (l *scopeLimiter) dequeue() *Reservation {
	for i := range l.lanes {
		lane := &l.lanes[i]
		if lane.waiting == 0 {
			continue
		}
		s := lane.nextApp()
		lane.globalPass = s.pass
		s.pass += s.stride
		return l.remove(lane, s, s.popFront())
	}
	return nil
}

// nextApp returns the app that is farthest behind of those with somebody waiting.
func (l *laneQueue) nextApp() (next *appQueue) {
	for _, s := range l.apps {
		if s.waiting > 0 && (next == nil || s.pass < next.pass) {
			next = s
		}
	}
	return next
}

// popFront takes the first out of the app's queue that has not left it.
func (s *appQueue) popFront() *Reservation {
	for {
		t := s.reservations[0]
		s.reservations[0] = nil
		if s.reservations = s.reservations[1:]; !t.removed {
			return t
		}
	}
}

func (l *scopeLimiter) remove(lane *laneQueue, s *appQueue, t *Reservation) *Reservation {
	t.removed = true
	s.waiting--
	lane.waiting--
	l.waiting--
	if s.waiting == 0 {
		s.reservations = nil
	}
	return t
}

// cancel takes t out of line.
func (l *scopeLimiter) cancel(t *Reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !t.removed {
		l.remove(&l.lanes[t.priority], l.lanes[t.priority].apps[t.app], t)
	}
}

// armTimer sets the timer for the next handout. l.mu is held.
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

// dispatch gives the places that have come up to those who are next.
func (l *scopeLimiter) dispatch() {
	for _, t := range l.takeReady() {
		t.advance()
	}
}

func (l *scopeLimiter) takeReady() (turns []*Reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for l.waiting > 0 && l.aimd.allow(now) {
		turns = append(turns, l.dequeue())
	}
	l.armed = false
	l.armTimer(now)
	return turns
}

// applyRefusal closes the line by how, one of the governor's two ways, and tells those at once who cannot wait that long.
func (l *scopeLimiter) applyRefusal(how func(g *aimdLimiter, now time.Time, wait time.Duration), wait time.Duration) {
	turns, left := l.closeAndEvict(how, wait)
	for _, t := range turns {
		t.resolve(left)
	}
}

func (l *scopeLimiter) closeAndEvict(how func(*aimdLimiter, time.Time, time.Duration), wait time.Duration) (evicted []*Reservation, left time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	how(&l.aimd, now, wait)
	left = l.aimd.closedFor(now)
	for i := range l.lanes {
		for _, s := range l.lanes[i].apps {
			for _, t := range s.reservations {
				if !t.removed && t.deadline.Before(now.Add(left)) {
					evicted = append(evicted, l.remove(&l.lanes[i], s, t))
				}
			}
		}
	}
	return evicted, left
}

// closedFor returns how long the line stays closed.
func (l *scopeLimiter) closedFor() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.aimd.closedFor(time.Now())
}

// status returns the line's state now.
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
