// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"time"
)

// run is the requests of one Start.
type run struct {
	handler Handler
	started time.Time
	ended   streamQueue // streams that have ended, without those whose results have been delivered
}

// Start queues rs, in this order and without requests of other callers between them, and returns
// without waiting. Each request has exactly one result, which is passed to h.Complete: also one that
// the connection does not accept, because it is draining, has ended or has too many requests
// waiting. Results that become known together are passed together. The error of a request is the one
// that Do would return. Start needs a concurrent Run and may be called concurrently.
func (c *Conn) Start(rs []*Request, h Handler) {
	r := &run{handler: h, started: time.Now()}
	if c.startRun(r, rs) {
		c.deliver()
	}
}

// startRun queues rs. It reports whether a request was rejected.
func (c *Conn) startRun(r *run, rs []*Request) (rejected bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := int64(r.started.Sub(c.start))
	for i, req := range rs {
		s := c.newStream(req)
		s.run, s.index = r, i
		c.enqueue(s, now)
	}
	c.wakeWriter()
	return r.ended.n > 0
}

// Cancel ends all requests with the handler h that have not ended, as Do ends its request when its
// context is canceled: each fails with Canceled, and Processed is Never if it was not written.
func (c *Conn) Cancel(h Handler) {
	c.cancelAll(h)
	c.deliver()
}

func (c *Conn) cancelAll(h Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.waiting.first; s != nil; {
		next := s.next
		if s.hasHandler(h) {
			c.abortCanceled(s, context.Canceled)
		}
		s = next
	}
	for _, s := range c.open {
		if s.hasHandler(h) {
			c.abortCanceled(s, context.Canceled)
		}
	}
}

func (s *stream) hasHandler(h Handler) bool { return s.run != nil && s.run.handler == h }

// addCompleted adds s, which has ended, to the results that deliver delivers.
func (c *Conn) addCompleted(s *stream) {
	if s.run.ended.n == 0 {
		c.completed = append(c.completed, s.run)
	}
	s.run.ended.push(s)
}

// deliver passes the results of all streams that have ended to their handlers. Every goroutine that
// may have ended a stream calls it after it has released the lock; the reader only after the last
// complete frame of a read. If one goroutine delivers already, that one delivers the new results too.
func (c *Conn) deliver() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.delivering {
		return
	}
	c.delivering = true
	for len(c.completed) > 0 {
		runs := c.completed
		c.completed = c.completedSpare[:0]
		for i, r := range runs {
			runs[i] = nil
			c.collectResults(r)
			c.callHandler(r.handler)
		}
		c.completedSpare = runs
	}
	c.delivering = false
}

// callHandler passes c.results to h without the lock, which it takes again.
func (c *Conn) callHandler(h Handler) {
	c.mu.Unlock()
	defer c.mu.Lock()
	defer c.endOnPanic()
	h.Complete(c.results)
	clear(c.results)
}

// collectResults moves the results of r to c.results.
func (c *Conn) collectResults(r *run) {
	c.results = c.results[:0]
	now := time.Now()
	for r.ended.n > 0 {
		s := r.ended.pop()
		res := Result{Index: s.index, Started: r.started, Ended: now}
		res.Response, res.Err = c.result(s)
		c.results = append(c.results, res)
	}
}
