// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/fairqueue"
	"github.com/sluice-push/sluice/push"
)

// fairQueue counts the notifications in flight and queues those that wait. Its admitter decides
// which notifications may start.
type fairQueue struct {
	mu       sync.Mutex
	inFlight int
	usages   map[flowKey]*usage
	queue    fairqueue.Queue[flowKey, *waiter]
	shed     uint64
}

// admitter decides whether a notification may start. It is called with the lock of the fairQueue
// held.
type admitter interface {
	// admit starts n, which belongs to u, or returns the cause of the rejection.
	admit(n *push.Notification, u *usage) (cause push.Outcome, ok bool)
}

// flowKey identifies the flow of a notification. Limits are shared between flows.
type flowKey struct {
	app      string
	platform push.Platform
}

// usage is the number of notifications that a flow has in flight. An unused entry is kept: there
// are only as many as there are configured apps and platforms.
type usage struct {
	key      flowKey
	inFlight int
}

// laneFractions are the fractions of a limit that the lanes may use, by priority.
var laneFractions = [3]float64{1, 0.9, 0.8}

// queueableFraction is the part of a lane's fraction that notifications with CanQueue may use.
// Without it, queued notifications would take every free slot and notifications that cannot wait
// would get none.
const queueableFraction = 0.9

// limitFraction returns the fraction of a limit that may be in use when n starts.
func limitFraction(n *push.Notification) float64 {
	if n.CanQueue {
		return laneFractions[lanePriority(n)] * queueableFraction
	}
	return laneFractions[lanePriority(n)]
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

// acquire admits n or returns the cause of the rejection, with a nil usage. If n is rejected but
// can queue and fewer than maxQueue wait, acquire waits up to maxWait. waited reports whether it
// did.
func (q *fairQueue) acquire(ctx context.Context, n *push.Notification, maxWait time.Duration, maxQueue int, a admitter) (u *usage, waited bool, cause push.Outcome) {
	u, w, cause := q.admitOrQueue(n, maxQueue, a)
	if w == nil {
		return u, false, cause
	}
	if w.wait(ctx, maxWait) || !q.cancel(w, ctx.Err()) {
		return w.usage, true, push.Outcome{}
	}
	return nil, true, orAbandoned(ctx, cause)
}

// admitOrQueue admits n, queues it, or sheds it.
func (q *fairQueue) admitOrQueue(n *push.Notification, maxQueue int, a admitter) (u *usage, w *waiter, cause push.Outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u = q.usageOf(n)
	cause, ok := a.admit(n, u)
	switch {
	case ok:
		return u, nil, cause
	case n.CanQueue && q.queue.Len() < maxQueue:
		w = &waiter{n: n, usage: u, ready: make(chan struct{})}
		w.item = q.queue.Push(lanePriority(n), u.key, 1, w)
		return nil, w, cause
	default:
		q.shed++
		return nil, nil, cause
	}
}

// usageOf returns the usage of n's flow. q.mu is held.
func (q *fairQueue) usageOf(n *push.Notification) *usage {
	key := flowKey{n.App, n.Platform}
	u, ok := q.usages[key]
	if !ok {
		if q.usages == nil {
			q.usages = make(map[flowKey]*usage)
		}
		u = &usage{key: key}
		q.usages[key] = u
	}
	return u
}

// cancel removes w from the queue. It returns false if w has been admitted in the meantime. reason
// is the error of the context.
func (q *fairQueue) cancel(w *waiter, reason error) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.queue.Remove(w.item) {
		return false
	}
	if !errors.Is(reason, context.Canceled) {
		q.shed++
	}
	return true
}

// start counts a notification of u as in flight. q.mu is held.
func (q *fairQueue) start(u *usage) {
	u.inFlight++
	q.inFlight++
}

// finish removes a notification of u from those in flight and admits waiters. q.mu is held.
func (q *fairQueue) finish(u *usage, a admitter) {
	u.inFlight--
	q.inFlight--
	for q.queue.Len() > 0 {
		item := q.queue.Pop(func(w *waiter) bool {
			_, ok := a.admit(w.n, w.usage)
			return ok
		})
		if item == nil {
			return
		}
		close(item.Value.ready)
	}
}

// waiter is a notification that waits.
type waiter struct {
	n     *push.Notification
	usage *usage
	item  *fairqueue.Item[flowKey, *waiter]
	ready chan struct{} // closed when the notification is admitted
}

// wait returns true when w is admitted, and false when ctx or maxWait ends first.
func (w *waiter) wait(ctx context.Context, maxWait time.Duration) bool {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-w.ready:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}
