// SPDX-License-Identifier: Apache-2.0

package pool

import (
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

func (q *waitQueue) empty() bool { return q.length.Load() == 0 }

// wait waits until a lease is available, ctx ends or r may not wait longer. The limiter has counted so
// many of the requests as in flight.
func (p *Pool) wait(ctx context.Context, r Request, counted int) (*Lease, error) {
	w := &waiter{Request: r, counted: counted, since: time.Now(), ready: make(chan struct{})}
	maxWait, expired := time.Duration(math.MaxInt64), false
	if limiter := p.cfg.Limiter; r.CanQueue {
		limiter.add(r.Flow, -counted)
		w.counted, maxWait = 0, r.MaxWait
		if !limiter.enqueue(r.N) {
			return nil, overloaded()
		}
		defer func() { limiter.dequeue(r.N, expired) }()
	}
	item := p.enqueue(w)
	p.requestRun()
	if fairqueue.Wait(ctx, w.ready, maxWait) || !p.queue.leave(item) {
		return w.lease, w.err
	}
	p.cfg.Limiter.add(r.Flow, -w.counted)
	err := ctx.Err()
	if err == nil && p.anyLive() {
		expired = true
		return nil, overloaded()
	}
	if err == nil {
		err = context.DeadlineExceeded
	}
	return nil, p.waitError(err)
}

// enqueue adds w to the queue and tries once more to serve it, after the waiters ahead of it.
func (p *Pool) enqueue(w *waiter) *waitItem {
	q := &p.queue
	q.length.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	item := q.waiters.Push(w.priority(), w.Flow, 1, w)
	if w.isRetry() {
		q.retries++
	}
	if q.closedErr != nil {
		q.waiters.Remove(item)
		q.end(w, nil, q.closedErr)
		return item
	}
	p.serveInOrder(math.MaxInt)
	if item.Waiting() && w.isRetry() && p.tryServe(w) > 0 {
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
			if n := p.tryServe(item.Value); n > 0 {
				q.waiters.Remove(item)
				places -= n
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
		used := p.tryServe(w)
		if used == noPlace {
			if full = full || !w.isRetry(); full && p.queue.retries == 0 {
				return fairqueue.Stop
			}
			return 0
		}
		if w.lease != nil {
			places -= used
		}
		return used
	}
	for places > 0 && p.queue.waiters.Pop(serve) != nil {
	}
	return places
}

// noPlace is the result of tryServe if no endpoint has enough free places.
const noPlace = -1

// tryServe gives w a lease or an error, if there is one, and wakes it. It returns the size of the lease,
// 1 for an error, 0 if the flow of w exceeds its share, or noPlace. The caller removes w from the queue.
// It is called under waitQueue.mu.
func (p *Pool) tryServe(w *waiter) int {
	limiter, counted := p.cfg.Limiter, w.counted
	if w.CanQueue {
		if counted, _ = limiter.admit(&w.Request, w.N); counted == 0 {
			return 0
		}
	}
	lease, err := p.tryPick(w.Tried, counted)
	if lease == nil && err == nil {
		limiter.add(w.Flow, w.counted-counted)
		return noPlace
	}
	p.complete(lease, &w.Request, counted)
	p.queue.end(w, lease, err)
	if lease == nil {
		return 1
	}
	return lease.Size()
}

// end wakes a waiter with a lease or an error. It is called under mu.
func (q *waitQueue) end(w *waiter, lease *Lease, err error) {
	if lease != nil {
		lease.waited = time.Since(w.since)
	}
	w.lease, w.err = lease, err
	q.left(w)
	close(w.ready)
}

// left is called under mu when w leaves the queue.
func (q *waitQueue) left(w *waiter) {
	q.length.Add(-1)
	if w.isRetry() {
		q.retries--
	}
}

// leave removes a waiter and returns true, unless it was served before.
func (q *waitQueue) leave(item *waitItem) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.waiters.Remove(item)
	if waiting {
		q.left(item.Value)
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
