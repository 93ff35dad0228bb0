// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// call is one request that is due: with the notifications from number first on.
type call struct {
	first int
	due   time.Duration // since the schedule began
}

// workerPool makes calls, each worker on a connection of its own.
type workerPool struct {
	*loadTest
	api        api
	mix        *compiledMix
	maxWorkers int             // workers
	ctx        context.Context // ends when nothing is waited for any more
	wg         group

	mu      sync.Mutex
	idle    []*worker // last in, first out: a few connections carry most, and the others rest
	pending []call    // nobody is idle, and there are as many workers as may be
	started int
	closed  bool
}

// worker makes one call after the other.
type worker struct {
	*workerPool
	calls    chan call
	conn     *conn
	request  []byte
	verdicts int // verdicts on the call's notifications
	current  call
	sentAt   time.Time // when the call was sent
	parser   parser
}

// submit has a call made as soon as there is a connection for it. It does not wait.
func (c *workerPool) submit(i int, due time.Duration) {
	job := call{first: i * c.Batch, due: due}
	c.recorder.recordOffered(due-c.WarmUp, c.Batch)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		c.idle[n-1].calls <- job // has room for one
		c.idle = c.idle[:n-1]
		return
	}
	if c.started == c.maxWorkers {
		c.pending = append(c.pending, job)
		return
	}
	c.started++
	w := c.newWorker()
	w.calls <- job
	c.wg.Go(w.run)
}

func (c *workerPool) newWorker() *worker {
	w := &worker{workerPool: c, calls: make(chan call, 1)}
	w.conn = &conn{address: c.URL, timeout: c.Timeout}
	return w
}

// run makes calls until there are no more.
func (w *worker) run() {
	defer w.conn.close()
	for job := range w.calls {
		for more := true; more; {
			w.do(job)
			job, more = w.nextCall()
		}
	}
}

// nextCall takes the call that has waited longest, or stands idle.
func (w *worker) nextCall() (call, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) > 0 {
		job := w.pending[0]
		w.pending = w.pending[1:]
		return job, true
	}
	if w.closed {
		close(w.calls)
	} else {
		w.idle = append(w.idle, w)
	}
	return call{}, false
}

// runClosedLoop makes one call after the other as long as next has one.
func (c *workerPool) runClosedLoop(next func() (i int, due time.Duration, more bool)) {
	w := c.newWorker()
	defer w.conn.close()
	for i, due, more := next(); more; i, due, more = next() {
		c.recorder.recordOffered(due-c.WarmUp, c.Batch)
		w.do(call{first: i * c.Batch, due: due})
	}
}

// drain lets all that is under way end, for grace at most; then give ends what it waits for.
func (c *workerPool) drain(grace time.Duration, give func()) {
	c.mu.Lock()
	c.closed = true
	for _, w := range c.idle {
		close(w.calls)
	}
	c.idle = nil
	c.mu.Unlock()
	last := time.AfterFunc(grace, give)
	defer last.Stop()
	c.wg.Wait()
}

// do makes one call and books what came of each of its notifications.
func (w *worker) do(job call) {
	if w.workerPool.ctx.Err() != nil {
		w.recorder.recordLost(job.due-w.WarmUp, w.Batch, "never sent: no connection was free in time")
		return
	}
	w.current, w.verdicts = job, 0
	w.request = w.api.appendRequest(w.request[:0], w.mix, job.first, w.Batch)
	if err := w.conn.ensureOpen(w.workerPool.ctx); err != nil {
		w.recorder.recordLost(job.due-w.WarmUp, w.Batch, "no connection")
		_ = sleep(w.workerPool.ctx, 10*time.Millisecond) // a closed loop would spin
		return
	}
	w.sentAt = time.Now()
	w.recorder.recordSendDelay(w.sentAt.Sub(w.schedule.start.Add(job.due)), job.due-w.WarmUp)
	err := w.conn.do(w.request, w.Batch > 1, w.readResponse)
	if missing := w.Batch - w.verdicts; missing > 0 {
		w.recorder.recordLost(job.due-w.WarmUp, missing, lostReason(err))
	}
	if err != nil {
		w.conn.close()
	}
}

func lostReason(err error) string {
	if err == nil {
		return "the answer leaves it out"
	}
	return fmt.Sprintf("no answer: %s", describeError(err))
}

// readResponse reads the answer to the call of the moment.
func (w *worker) readResponse(status int, body *body) error {
	return w.api.readResponse(&w.parser, status, body, w.Batch, func(v *verdict) {
		if w.verdicts == w.Batch {
			return // more than was asked: the ledger will tell
		}
		w.verdicts++
		now := time.Now()
		v.latency = now.Sub(w.schedule.start) - w.current.due
		v.sinceSent = now.Sub(w.sentAt)
		w.recorder.recordVerdict(w.current.due-w.WarmUp, now, v, w.Batch == 1)
	})
}
