// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
)

// waitQueue holds the callers that wait in Pick, in FIFO order. A waiter is woken only with a lease
// or an error.
type waitQueue struct {
	length atomic.Int32 // incremented before a waiter's last attempt, so that no freed slot is missed

	mu        sync.Mutex // guards the fields below
	waiters   list.List  // of *waiter
	closedErr error      // why the queue is closed, or nil
}

type waiter struct {
	tried  Tried
	result chan pickResult // buffer of 1
	elem   *list.Element
}

type pickResult struct {
	lease *Lease
	err   error
}

func (q *waitQueue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiters.Len()
}

func (q *waitQueue) empty() bool { return q.length.Load() == 0 }

// wait waits until a lease is available or ctx ends.
func (p *Pool) wait(ctx context.Context, tried Tried) (*Lease, error) {
	w := &waiter{tried: tried, result: make(chan pickResult, 1)}
	p.enqueue(w)
	p.requestRun()
	select {
	case r := <-w.result:
		return r.lease, r.err
	case <-ctx.Done():
	}
	p.queue.remove(w)
	select {
	case r := <-w.result: // served just before ctx ended
		return r.lease, r.err
	default:
		return nil, p.waitError(ctx.Err())
	}
}

// enqueue adds w to the queue and tries once more to serve it, after the waiters ahead of it.
func (p *Pool) enqueue(w *waiter) {
	q := &p.queue
	q.length.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closedErr != nil {
		q.length.Add(-1)
		w.result <- pickResult{err: q.closedErr}
		return
	}
	w.elem = q.waiters.PushBack(w)
	for el := q.waiters.Front(); el != nil; el = q.waiters.Front() {
		if !p.tryServe(el.Value.(*waiter)) {
			break
		}
	}
	if w.elem != nil {
		p.tryServe(w)
	}
}

// tryServe gives w a lease or an error, if there is one. It is called under waitQueue.mu.
func (p *Pool) tryServe(w *waiter) bool {
	lease, err := p.tryPick(w.tried)
	if lease == nil && err == nil {
		return false
	}
	p.queue.removeLocked(w)
	w.result <- pickResult{lease, err}
	return true
}

// serveWaiters serves at most n waiters, where n is the number of slots that became free. It skips
// waiters that cannot use a free slot.
func (p *Pool) serveWaiters(n int) {
	if p.queue.empty() {
		return
	}
	q := &p.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for el := q.waiters.Front(); el != nil && n > 0; {
		w := el.Value.(*waiter)
		el = el.Next()
		if p.tryServe(w) {
			n--
		}
	}
}

// removeLocked is called under mu.
func (q *waitQueue) removeLocked(w *waiter) {
	q.waiters.Remove(w.elem)
	w.elem = nil
	q.length.Add(-1)
}

func (q *waitQueue) remove(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.elem != nil {
		q.removeLocked(w)
	}
}

func (q *waitQueue) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closedErr = err
	for el := q.waiters.Front(); el != nil; el = q.waiters.Front() {
		w := el.Value.(*waiter)
		q.removeLocked(w)
		w.result <- pickResult{err: err}
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
