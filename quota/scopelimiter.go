// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/fairqueue"
	"github.com/sluice-push/sluice/push"
)

// minDispatchInterval is the minimum time between two dispatches. At 10,000 per second, a timer per
// waiter would cost more than the wait.
const minDispatchInterval = time.Millisecond

// scopeLimiter limits a scope that many notifications share, and queues those that wait. Higher
// lanes are served first, and within a lane the apps share by weight. An attempt is allowed
// immediately if no notification waits in its lane or a higher one. Apps can therefore use the
// unused share of other apps, which get it back with the next token.
type scopeLimiter struct {
	mu       sync.Mutex
	weights  map[string]int
	aimd     aimdLimiter
	rejected meter
	queue    fairqueue.Queue[string, waiter] // flows are apps
	timer    *time.Timer                     // runs while the queue is not empty
}

// waiter is a notification that waits for a token.
type waiter struct {
	deadline   time.Time
	ready      chan struct{} // closed when the waiter has its token or is rejected
	retryAfter time.Duration // of a rejection; 0: the waiter has its token
}

type waiterItem = fairqueue.Item[string, waiter]

// take takes up to count tokens for notifications like n, and returns how many.
func (l *scopeLimiter) take(n *push.Notification, count int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	for priority := range n.Lane.Priority() + 1 {
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
	l.armTimer(now)
}

// acquire takes a token for n. It waits until the deadline, but not if the estimated wait is longer.
func (l *scopeLimiter) acquire(ctx context.Context, n *push.Notification, deadline time.Time) error {
	item, err := l.takeOrQueue(n, deadline)
	if item == nil {
		return err
	}
	fairqueue.Wait(ctx, item.Value.ready, time.Until(deadline)) // false: higher lanes, or apps that were idle, have overtaken n
	l.mu.Lock()
	waiting, retryAfter := l.queue.Remove(item), item.Value.retryAfter
	l.mu.Unlock()
	switch err := ctx.Err(); {
	case retryAfter > 0:
		return rejected(retryAfter)
	case waiting && err == nil:
		return rejected(minClosed)
	case err != nil && !waiting: // the context ended when n got its token
		l.restore(1)
		return err
	default:
		return err
	}
}

// takeOrQueue takes a token, queues n, or returns a *push.RejectedError.
func (l *scopeLimiter) takeOrQueue(n *push.Notification, deadline time.Time) (*waiterItem, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now, priority, weight := time.Now(), n.Lane.Priority(), l.weights[n.App]
	ahead := l.queue.Ahead(priority, n.App, weight)
	if ahead == 0 && l.aimd.take(now, 1) == 1 {
		return nil, nil
	}
	if wait := l.aimd.delay(now, ahead+1); now.Add(wait).After(deadline) {
		l.rejected.count(now, 1)
		return nil, rejected(wait)
	}
	item := l.queue.Push(priority, n.App, weight, waiter{deadline: deadline, ready: make(chan struct{})})
	if l.queue.Len() == 1 {
		l.armTimer(now)
	}
	return item, nil
}

// armTimer sets the timer for the next dispatch, or sets it again after a change of the tokens. l.mu
// is held.
func (l *scopeLimiter) armTimer(now time.Time) {
	if l.queue.Len() == 0 {
		return
	}
	wait := max(l.aimd.delay(now, 1), minDispatchInterval)
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.dispatch)
		return
	}
	l.timer.Reset(wait)
}

// dispatch gives the available tokens to the next waiters.
func (l *scopeLimiter) dispatch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for l.queue.Len() > 0 && l.aimd.take(now, 1) == 1 {
		close(l.queue.Pop(nil).Value.ready)
	}
	l.armTimer(now)
}

// applyRefusal closes the scope with record, one of the two record methods of aimdLimiter, and
// rejects the waiters whose deadline is before the scope reopens. It returns true if the scope was
// open.
func (l *scopeLimiter) applyRefusal(record func(l *aimdLimiter, now time.Time, wait time.Duration), wait time.Duration) (wasOpen bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	wasOpen = l.aimd.closedFor(now) == 0
	record(&l.aimd, now, wait)
	closed := l.aimd.closedFor(now)
	for item := range l.queue.All() {
		if item.Value.deadline.Before(now.Add(closed)) {
			l.queue.Remove(item)
			item.Value.retryAfter = closed
			close(item.Value.ready)
		}
	}
	return wasOpen
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
