// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
)

// line is those who wait in Pick, first come, first served. A lease is handed
// to one of them; nobody is woken to find nothing.
type line struct {
	length atomic.Int32 // grows before the one who comes looks a last time, so that no free place is missed

	mu     sync.Mutex // guards the fields below
	queue  list.List  // of *waiter
	closed error      // why nobody may wait any more
}

type waiter struct {
	tried Tried
	got   chan grant // room for one
	place *list.Element
}

type grant struct {
	lease *Lease
	err   error
}

func (q *line) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.queue.Len()
}

func (q *line) empty() bool { return q.length.Load() == 0 }

// wait lines up until a lease is handed over or ctx ends.
func (p *Pool) wait(ctx context.Context, tried Tried) (*Lease, error) {
	w := &waiter{tried: tried, got: make(chan grant, 1)}
	p.lineUp(w)
	select {
	case g := <-w.got:
		return g.lease, g.err
	case <-ctx.Done():
	}
	p.line.remove(w)
	select {
	case g := <-w.got: // handed over at the last moment
		return g.lease, g.err
	default:
		return nil, p.errorf(p.shortage(), ctx.Err())
	}
}

// lineUp looks once more, after those who came before, and then waits.
func (p *Pool) lineUp(w *waiter) {
	q := &p.line
	q.length.Add(1)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed != nil {
		q.length.Add(-1)
		w.got <- grant{err: q.closed}
		return
	}
	w.place = q.queue.PushBack(w)
	for el := q.queue.Front(); el != nil; el = q.queue.Front() {
		if !p.hand(el.Value.(*waiter)) {
			break
		}
	}
	if w.place != nil {
		p.hand(w)
	}
}

// hand gives w its lease, if there is one. It is called under the line's mu.
func (p *Pool) hand(w *waiter) bool {
	lease, err := p.try(w.tried)
	if lease == nil && err == nil {
		return false
	}
	p.line.drop(w)
	w.got <- grant{lease, err}
	return true
}

// serve hands out leases to those in line, at most so many as places came
// free; those whom the free place does not suit are passed over.
func (p *Pool) serve(places int) {
	if p.line.empty() {
		return
	}
	q := &p.line
	q.mu.Lock()
	defer q.mu.Unlock()
	for el := q.queue.Front(); el != nil && places > 0; {
		w := el.Value.(*waiter)
		el = el.Next()
		if p.hand(w) {
			places--
		}
	}
}

// drop is called under mu.
func (q *line) drop(w *waiter) {
	q.queue.Remove(w.place)
	w.place = nil
	q.length.Add(-1)
}

func (q *line) remove(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place != nil {
		q.drop(w)
	}
}

func (q *line) close(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	for el := q.queue.Front(); el != nil; el = q.queue.Front() {
		w := el.Value.(*waiter)
		q.drop(w)
		w.got <- grant{err: err}
	}
	q.length.Add(1) // nobody gets past the line any more
}

// shortage is what those in line wait for.
func (p *Pool) shortage() string {
	for _, e := range *p.members.Load() {
		if e.live() {
			return QueueFull
		}
	}
	return NoEndpoint
}
