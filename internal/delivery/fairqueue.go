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

// limiter is a limit with a fairQueue.
type limiter interface {
	// admit starts up to count notifications like n, which belong to u, and returns how many. If it
	// is 0, cause is the outcome of the rejection. The lock of the fairQueue is held.
	admit(n *push.Notification, u *usage, count int) (granted int, cause push.Outcome)
	// endWait records that count notifications have a lease or will not get one. last is true if
	// these are the last ones of their permit.
	endWait(count int, last bool)
	// release ends count notifications of u. wait is the time that each one waited for its lease,
	// and took the time with it.
	release(u *usage, count int, wait, took time.Duration)
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

// permit is the right to places of a limit, for notifications of one flow. Each place is released
// once. The zero value is the permit of a limit that is not set.
type permit struct {
	limiter  limiter // nil: no limit
	usage    *usage
	waited   bool // in the queue of the limit
	start    time.Time
	wait     time.Duration // from start until the lease
	unleased int           // places without a lease; 0 if the limit does not distinguish them
}

// endWait records that the remaining places of an AdaptiveLimiter have their leases. Until then, one
// goroutine may use the permit; afterwards, several may release its places.
func (p *permit) endWait() {
	if p.unleased > 0 {
		p.wait = time.Since(p.start)
		p.limiter.endWait(p.unleased, true)
		p.unleased = 0
	}
}

// leased returns the permit of count places that have their leases, and keeps the others.
func (p *permit) leased(count int) permit {
	part := *p
	if p.unleased > 0 {
		p.unleased -= count
		p.limiter.endWait(count, p.unleased == 0)
	}
	part.wait, part.unleased = time.Since(p.start), 0
	return part
}

// release releases a place. took is the time of the attempt, or 0 without one.
func (p *permit) release(o push.Outcome, took time.Duration) { p.releaseN(o, took, 1) }

// releaseN releases count places. took is the time of each attempt.
func (p *permit) releaseN(_ push.Outcome, took time.Duration, count int) {
	if p.limiter == nil || count == 0 {
		return
	}
	wait := p.wait
	if p.unleased > 0 {
		p.unleased -= count
		p.limiter.endWait(count, p.unleased == 0)
		wait = time.Since(p.start)
	}
	p.limiter.release(p.usage, count, wait, took)
}

// rejection is the error of a notification that a limit rejects.
type rejection struct{ push.Outcome }

func (r *rejection) Error() string { return r.Reason }

// acquire waits for a place. It returns a *rejection if the limit rejects n, after at most maxWait
// if n can queue and fewer than maxQueue wait.
func (q *fairQueue) acquire(ctx context.Context, n *push.Notification, maxWait time.Duration, maxQueue int, l limiter) (permit, error) {
	u, w, cause := q.admitOrQueue(n, maxQueue, l)
	switch {
	case u == nil:
		return permit{}, &rejection{cause}
	case w != nil && !w.wait(ctx, maxWait) && q.cancel(w, ctx.Err()):
		return permit{}, &rejection{orAbandoned(ctx, cause)}
	}
	return permit{limiter: l, usage: u, waited: w != nil, start: time.Now()}, nil
}

// admitOrQueue admits n, queues it, or sheds it. If it sheds n, u is nil.
func (q *fairQueue) admitOrQueue(n *push.Notification, maxQueue int, l limiter) (u *usage, w *waiter, cause push.Outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u = q.usageOf(n)
	granted, cause := l.admit(n, u, 1)
	switch {
	case granted == 1:
	case n.CanQueue && q.queue.Len() < maxQueue:
		w = &waiter{n: n, usage: u, ready: make(chan struct{})}
		w.item = q.queue.Push(lanePriority(n), u.key, 1, w)
	default:
		q.shed++
		return nil, nil, cause
	}
	return u, w, cause
}

// tryAcquireN admits up to count notifications like n, and returns how many. It neither queues nor
// sheds the others.
func (q *fairQueue) tryAcquireN(n *push.Notification, count int, l limiter) (p permit, granted int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	u := q.usageOf(n)
	granted, _ = l.admit(n, u, count)
	return permit{limiter: l, usage: u, start: time.Now()}, granted
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

// finish removes count notifications of u from those in flight and admits waiters. q.mu is held.
func (q *fairQueue) finish(u *usage, count int, l limiter) {
	u.inFlight -= count
	q.inFlight -= count
	for q.queue.Len() > 0 {
		item := q.queue.Pop(func(w *waiter) bool {
			granted, _ := l.admit(w.n, w.usage, 1)
			return granted == 1
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
