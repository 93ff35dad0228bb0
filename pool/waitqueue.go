// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
)

// waitQueue is those who wait in Pick, first come, first served. A lease is handed
// to one of them; nobody is woken to find nothing.
type waitQueue struct {
	length atomic.Int32 // grows before the one who comes looks a last time, so that no free place is missed

	mu        sync.Mutex // guards the fields below
	waiters   list.List  // of *waiter
	closedErr error      // why nobody may wait any more
}

type waiter struct {
	tried  Tried
	result chan pickResult // room for one
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

// wait lines up until a lease is handed over or ctx ends.
func (p *Pool) wait(ctx context.Context, tried Tried) (*Lease, error) {
	w := &waiter{tried: tried, result: make(chan pickResult, 1)}
	p.enqueue(w)
	select {
	case g := <-w.result:
		return g.lease, g.err
	case <-ctx.Done():
	}
	p.waiters.remove(w)
	select {
	case g := <-w.result: // handed over at the last moment
		return g.lease, g.err
	default:
		return nil, p.errorf(p.waitReason(), ctx.Err())
	}
}

// enqueue looks once more, after those who came before, and then waits.
func (p *Pool) enqueue(w *waiter) {
	q := &p.waiters
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

// tryServe gives w its lease, if there is one. It is called under the line's mu.
func (p *Pool) tryServe(w *waiter) bool {
	lease, err := p.tryPick(w.tried)
	if lease == nil && err == nil {
		return false
	}
	p.waiters.removeLocked(w)
	w.result <- pickResult{lease, err}
	return true
}

// serveWaiters hands out leases to those in line, at most so many as places came
// free; those whom the free place does not suit are passed over.
func (p *Pool) serveWaiters(places int) {
	if p.waiters.empty() {
		return
	}
	q := &p.waiters
	q.mu.Lock()
	defer q.mu.Unlock()
	for el := q.waiters.Front(); el != nil && places > 0; {
		w := el.Value.(*waiter)
		el = el.Next()
		if p.tryServe(w) {
			places--
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
	q.length.Add(1) // nobody gets past the line any more
}

// waitReason is what those in line wait for.
func (p *Pool) waitReason() string {
	for _, e := range *p.members.Load() {
		if e.live() {
			return QueueFull
		}
	}
	return NoEndpoint
}
