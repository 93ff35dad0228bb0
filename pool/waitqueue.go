// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"cmp"
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/fairqueue"
)

// waitQueue holds the callers that wait in PickN. Higher lanes are served first. Within a lane come
// first retries, which can use only some endpoints, then other requests without CanQueue, then those with
// it, and in each of these groups the flows take turns. A waiter is woken only with a
// lease or an error.
type waitQueue struct {
	length atomic.Int32 // incremented before a waiter's last attempt, so that no freed slot is missed

	mu        sync.Mutex // guards the fields below
	waiters   fairqueue.Queue[string, *waiter]
	retries   int   // waiters that have tried an endpoint
	queued    int   // requests with CanQueue
	closedErr error // why the queue is closed, or nil
}

type waiter struct {
	Request
	counted int // by the limiter as in flight
	since   time.Time
	ready   chan struct{} // closed after lease or err was set
	lease   *Lease
	err     error
}

type waitItem = fairqueue.Item[string, *waiter]

func (w *waiter) isRetry() bool { return len(w.Tried) > 0 }

// priority returns the lane of the queue.
func (w *waiter) priority() int {
	switch lane := 3 * w.Lane.Priority(); {
	case w.isRetry():
		return lane
	case !w.CanQueue:
		return lane + 1
	default:
		return lane + 2
	}
}

func (q *waitQueue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiters.Len()
}

func (q *waitQueue) queuedRequests() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queued
}

func (q *waitQueue) empty() bool { return q.length.Load() == 0 }

// wait waits until a lease is available, ctx ends or r may not wait longer. The limiter has counted so
// many of the requests as in flight.
func (p *Pool) wait(ctx context.Context, r Request, counted int) (*Lease, error) {
	w := &waiter{Request: r, counted: counted, since: time.Now(), ready: make(chan struct{})}
	item := p.enqueue(w)
	if item == nil {
		return nil, p.cfg.Limiter.rejectWaiting(r.N)
	}
	p.requestRun()
	maxWait := fairqueue.Forever
	if r.CanQueue {
		maxWait = r.MaxWait
	}
	if fairqueue.Wait(ctx, w.ready, maxWait) || !p.queue.leave(item) {
		return w.lease, w.err
	}
	p.cfg.Limiter.add(r.Flow, -counted)
	switch err := ctx.Err(); {
	case err != nil:
		return nil, p.waitError(err)
	case p.anyLive():
		return nil, p.cfg.Limiter.rejectWaiting(r.N)
	default:
		return nil, p.waitError(context.DeadlineExceeded)
	}
}

// enqueue adds w to the queue and tries once more to serve it, after the waiters ahead of it. It returns
// nil if too many requests with CanQueue wait.
func (p *Pool) enqueue(w *waiter) *waitItem {
	q := &p.queue
	q.length.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.CanQueue && q.queued+w.N > cmp.Or(p.cfg.Limiter.MaxQueue, 10_000) {
		q.length.Add(-1)
		return nil
	}
	item := q.waiters.Push(w.priority(), w.Flow, 1, w)
	q.count(w, 1)
	if q.closedErr != nil {
		q.waiters.Remove(item)
		q.end(w, nil, q.closedErr)
		return item
	}
	p.serveInOrder(math.MaxInt)
	if item.Waiting() && w.isRetry() && p.serve(w) > 0 {
		q.waiters.Remove(item)
	}
	return item
}

// serveWaiters gives waiters leases, for at most as many places as became free. Last come the retries
// behind others that cannot use a free place: they exclude other endpoints.
func (p *Pool) serveWaiters(places int) {
	q := &p.queue
	if q.empty() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if places = p.serveInOrder(places); q.retries == 0 {
		return
	}
	for item := range q.waiters.All() {
		if places > 0 && item.Value.isRetry() {
			if cost := p.serve(item.Value); cost > 0 {
				q.waiters.Remove(item)
				places -= cost
			}
		}
	}
}

// serveInOrder gives leases to the next waiters, and returns how many of the places are left. All first
// attempts can use the same places, so none is tried after another has found none. It is called under
// waitQueue.mu.
func (p *Pool) serveInOrder(places int) (left int) {
	full := false
	serve := func(w *waiter) int {
		if full && !w.isRetry() {
			return 0
		}
		cost := p.serve(w)
		if cost == noPlace {
			if full = full || !w.isRetry(); full && p.queue.retries == 0 {
				return fairqueue.Stop
			}
			return 0
		}
		if w.lease != nil {
			places -= cost
		}
		return cost
	}
	for places > 0 && p.queue.waiters.Pop(serve) != nil {
	}
	return places
}

// serve gives w what take returns, if the cost is positive. The caller then removes w from the queue. It
// is called under waitQueue.mu.
func (p *Pool) serve(w *waiter) (cost int) {
	lease, cost, err := p.take(&w.Request, w.counted)
	if cost > 0 {
		p.queue.end(w, lease, err)
	}
	return cost
}

// end wakes a waiter with a lease or an error. It is called under mu.
func (q *waitQueue) end(w *waiter, lease *Lease, err error) {
	if lease != nil {
		lease.waited = time.Since(w.since)
	}
	w.lease, w.err = lease, err
	q.length.Add(-1)
	q.count(w, -1)
	close(w.ready)
}

// count adds n waiters like w. It is called under mu.
func (q *waitQueue) count(w *waiter, n int) {
	if w.isRetry() {
		q.retries += n
	}
	if w.CanQueue {
		q.queued += n * w.N
	}
}

// leave removes a waiter and returns true, unless it was served before.
func (q *waitQueue) leave(item *waitItem) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.waiters.Remove(item)
	if waiting {
		q.length.Add(-1)
		q.count(item.Value, -1)
	}
	return waiting
}

func (q *waitQueue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closedErr = err
	for item := range q.waiters.All() {
		q.waiters.Remove(item)
		q.end(item.Value, nil, err)
	}
	q.length.Add(1) // every later Pick enqueues and gets closedErr
}

// waitError returns the error of a waiter that was not served before its context ended with err.
func (p *Pool) waitError(err error) *Error {
	if p.anyLive() {
		return p.errorf(QueueFull, err)
	}
	if u := p.unreachable.Load(); u != nil {
		return &Error{Pool: u.Pool, Reason: u.Reason, Err: err, Detail: u.Detail, RetryAfter: u.RetryAfter}
	}
	return p.errorf(NoEndpoint, err)
}
