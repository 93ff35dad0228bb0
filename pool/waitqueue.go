// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/sluice-push/sluice/internal/fairqueue"
)

// waitQueue holds the callers that wait in PickN, in FIFO order. A waiter is woken only with a lease
// or an error.
type waitQueue struct {
	length atomic.Int32 // incremented before a waiter's last attempt, so that no freed slot is missed

	mu        sync.Mutex // guards the fields below
	waiters   fairqueue.Queue[struct{}, *waiter]
	retries   int   // waiters that have tried an endpoint
	closedErr error // why the queue is closed, or nil
}

type waiter struct {
	tried  Tried
	places int             // how many it can use
	result chan pickResult // buffer of 1
}

type waitItem = fairqueue.Item[struct{}, *waiter]

type pickResult struct {
	lease *Lease
	err   error
}

func (w *waiter) isRetry() bool { return len(w.tried) > 0 }

func (q *waitQueue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiters.Len()
}

func (q *waitQueue) empty() bool { return q.length.Load() == 0 }

// wait waits until a lease is available or ctx ends.
func (p *Pool) wait(ctx context.Context, tried Tried, n int) (*Lease, error) {
	w := &waiter{tried: tried, places: n, result: make(chan pickResult, 1)}
	item := p.enqueue(w)
	p.requestRun()
	select {
	case r := <-w.result:
		return r.lease, r.err
	case <-ctx.Done():
	}
	p.queue.leave(item)
	select {
	case r := <-w.result: // served just before ctx ended
		return r.lease, r.err
	default:
		return nil, p.waitError(ctx.Err())
	}
}

// enqueue adds w to the queue and tries once more to serve it, after the waiters ahead of it. All
// first attempts can use the same slots, so one is not tried after another was refused.
func (p *Pool) enqueue(w *waiter) *waitItem {
	q := &p.queue
	q.length.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	item := q.waiters.Push(0, struct{}{}, 1, w)
	if w.isRetry() {
		q.retries++
	}
	if q.closedErr != nil {
		q.end(item, pickResult{err: q.closedErr})
		return item
	}
	for ahead := range q.waiters.All() {
		if served, _ := p.tryServe(ahead); served {
			continue
		}
		if ahead != item && (w.isRetry() || ahead.Value.isRetry()) {
			p.tryServe(item)
		}
		break
	}
	return item
}

// tryServe gives a waiter a lease or an error, if there is one, and returns the size of the lease.
// It is called under waitQueue.mu.
func (p *Pool) tryServe(item *waitItem) (served bool, places int) {
	lease, err := p.tryPick(item.Value.tried, item.Value.places)
	if lease == nil && err == nil {
		return false, 0
	}
	p.queue.end(item, pickResult{lease, err})
	if lease != nil {
		places = lease.Size()
	}
	return true, places
}

// serveWaiters gives waiters leases, for at most as many places as became free. It skips waiters that
// cannot use a free place: a retry behind them may be able to, because it excludes other endpoints.
func (p *Pool) serveWaiters(places int) {
	q := &p.queue
	if q.empty() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	refused := false // a first attempt
	for item := range q.waiters.All() {
		if places <= 0 || refused && q.retries == 0 {
			return
		}
		isRetry := item.Value.isRetry()
		if refused && !isRetry {
			continue
		}
		served, n := p.tryServe(item)
		places -= n
		refused = refused || !served && !isRetry
	}
}

// end removes a waiter from the queue and wakes it. It is called under mu.
func (q *waitQueue) end(item *waitItem, r pickResult) {
	q.remove(item)
	item.Value.result <- r
}

// remove is called under mu.
func (q *waitQueue) remove(item *waitItem) {
	q.waiters.Remove(item)
	q.length.Add(-1)
	if item.Value.isRetry() {
		q.retries--
	}
}

// leave removes a waiter whose context has ended, unless it was served before.
func (q *waitQueue) leave(item *waitItem) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if item.Waiting() {
		q.remove(item)
	}
}

func (q *waitQueue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closedErr = err
	for item := range q.waiters.All() {
		q.end(item, pickResult{err: err})
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
