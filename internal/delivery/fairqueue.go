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

// fairQueue counts the notifications in flight and queues those that wait for a place. Its limiter
// decides which ones may start.
type fairQueue struct {
	mu       sync.Mutex
	inFlight int
	flows    map[flowKey]int // notifications in flight, at least 1
	queue    fairqueue.Queue[flowKey, *waiter]
	waiting  int // notifications in queue
	shed     uint64
}

// flowKey identifies the flow of a notification. Limits are shared between flows.
type flowKey struct {
	app      string
	platform push.Platform
}

// limiter is a limit with a fairQueue.
type limiter interface {
	// admit returns how many of count notifications like n may start. own is the number of those in
	// flight of the same flow. If it is 0, cause is the outcome of the rejection. The lock of the
	// fairQueue is held.
	admit(n *push.Call, count, own int) (granted int, cause push.Outcome)
	// release ends count notifications of a flow. wait is the time that each one waited for its
	// lease, and took the time with it.
	release(flow flowKey, count int, wait, took time.Duration)
}

// laneFractions are the fractions of a limit that the lanes may use, by priority.
var laneFractions = [3]float64{1, 0.9, 0.8}

// queueableFraction is the part of a lane's fraction that notifications with CanQueue may use.
// Without it, queued notifications would take every free slot and notifications that cannot wait
// would get none.
const queueableFraction = 0.9

// limitFraction returns the fraction of a limit that may be in use when n starts.
func limitFraction(n *push.Call) float64 {
	if n.CanQueue {
		return laneFractions[n.Lane.Priority()] * queueableFraction
	}
	return laneFractions[n.Lane.Priority()]
}

// permit is the right to places of a limit, for notifications of one flow. Each place is released
// once. The zero value is the permit of a limit that is not set.
type permit struct {
	limiter limiter // nil: no limit
	flow    flowKey
	waited  bool // in the queue of the limit

	adaptive *AdaptiveLimiter // nil: the limit does not distinguish places without a lease
	unleased int              // places without a lease; only one goroutine may use such a permit
	start    time.Time        // of the wait for the lease
	wait     time.Duration    // until the lease
}

// leased returns the permit of count places that have their leases, and keeps the others.
func (p *permit) leased(count int) permit {
	part := *p
	if p.unleased > 0 {
		p.unleased -= count
		p.adaptive.endWait(count, p.unleased == 0)
		part.wait, part.unleased = time.Since(p.start), 0
	}
	return part
}

// release releases count places. took is the time of each attempt, or 0 without one.
func (p *permit) release(count int, took time.Duration) {
	if p.limiter != nil && count > 0 {
		part := p.leased(count)
		p.limiter.release(p.flow, count, part.wait, took)
	}
}

// waiter is a run that waits: one or more notifications like n.
type waiter struct {
	n       *push.Call
	count   int
	ready   chan struct{} // closed when the run has places
	granted int           // places; set before ready is closed
}

type waiterItem = fairqueue.Item[flowKey, *waiter]

// acquire waits for places for count notifications like n, and returns for how many of them, at least
// one. It returns a *push.RejectedError if the limit rejects them, after at most maxWait if they can queue and
// with them at most maxQueue wait.
func (q *fairQueue) acquire(ctx context.Context, n *push.Call, count int, maxWait time.Duration, maxQueue int, l limiter) (p permit, granted int, err error) {
	item, granted, cause := q.startOrQueue(n, count, maxQueue, l)
	switch {
	case item == nil && granted == 0:
		return permit{}, 0, &push.RejectedError{Outcome: cause}
	case item != nil && !q.wait(ctx, item, maxWait):
		return permit{}, 0, &push.RejectedError{Outcome: orAbandoned(ctx, cause)}
	case item != nil:
		granted = item.Value.granted
	}
	return permit{limiter: l, flow: flowOf(n), waited: item != nil}, granted, nil
}

// startOrQueue starts some of count notifications like n. If none can start, it queues or sheds them.
func (q *fairQueue) startOrQueue(n *push.Call, count, maxQueue int, l limiter) (item *waiterItem, granted int, cause push.Outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	granted, cause = q.start(n, count, l)
	switch {
	case granted > 0:
	case n.CanQueue && q.waiting+count <= maxQueue:
		item = q.queue.Push(n.Lane.Priority(), flowOf(n), 1, &waiter{n: n, count: count, ready: make(chan struct{})})
		q.waiting += count
	case count == 1: // a run that is rejected is not shed: its notifications are tried one by one
		q.shed++
	}
	return item, granted, cause
}

// wait waits until an item has a place, and returns false if ctx or maxWait ends first.
func (q *fairQueue) wait(ctx context.Context, item *waiterItem, maxWait time.Duration) bool {
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-item.Value.ready:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.queue.Remove(item) {
		return true // it got places in the meantime
	}
	q.waiting -= item.Value.count
	if item.Value.count == 1 && !errors.Is(ctx.Err(), context.Canceled) {
		q.shed++
	}
	return false
}

// start starts up to count notifications like n. q.mu is held.
func (q *fairQueue) start(n *push.Call, count int, l limiter) (granted int, cause push.Outcome) {
	if q.flows == nil {
		q.flows = make(map[flowKey]int)
	}
	flow := flowOf(n)
	if granted, cause = l.admit(n, count, q.flows[flow]); granted > 0 {
		q.flows[flow] += granted
		q.inFlight += granted
	}
	return granted, cause
}

// finish ends count notifications of a flow and starts waiters. q.mu is held.
func (q *fairQueue) finish(flow flowKey, count int, l limiter) {
	if q.flows[flow] -= count; q.flows[flow] == 0 {
		delete(q.flows, flow) // admit reads all flows
	}
	q.inFlight -= count
	start := func(w *waiter) int {
		w.granted, _ = q.start(w.n, w.count, l)
		return w.granted
	}
	for item := q.queue.Pop(start); item != nil; item = q.queue.Pop(start) {
		q.waiting -= item.Value.count
		close(item.Value.ready)
	}
}

func flowOf(n *push.Call) flowKey { return flowKey{n.App, n.Platform} }
