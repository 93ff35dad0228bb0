// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/sleep"
)

// call is one request. Its notifications are numbered from first.
type call struct {
	first int
	due   time.Duration // counted from the start of the schedule
}

// workerPool makes calls with up to maxWorkers workers. Each worker has its own
// connection, or shares HTTP/2 connections.
type workerPool struct {
	*loadTest
	api        api
	mix        *compiledMix
	maxWorkers int             // workers
	transport  *http.Transport // for HTTP/2; nil for HTTP/1.1
	ctx        context.Context // canceled when the drain timeout expires
	wg         sync.WaitGroup

	mu      sync.Mutex
	idle    []*worker // used last in, first out, so that few connections carry most calls
	pending []call    // calls that wait for a worker
	started int
	closed  bool
}

// caller makes one call at a time.
type caller interface {
	// ensureOpen opens a connection if there is none. The connection closes when ctx is done.
	ensureOpen(ctx context.Context) error
	// do sends a request and calls handle with the response. With concurrent set it reads the
	// response while it writes the request, because the server may stop reading until its response
	// is read.
	do(request []byte, concurrent bool, handle func(status int, body *body) error) error
	close()
}

// worker makes calls one after the other.
type worker struct {
	*workerPool
	calls    chan call
	conn     caller
	request  []byte
	verdicts int // number of verdicts for the current call
	current  call
	sentAt   time.Time // when the current call was sent
	parser   parser
}

// submit makes call i as soon as a worker is free. It does not block.
func (p *workerPool) submit(i int, due time.Duration) {
	c := call{first: i * p.Batch, due: due}
	p.recorder.recordOffered(due-p.WarmUp, p.Batch)
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		p.idle[n-1].calls <- c // does not block: an idle worker has an empty channel
		p.idle = p.idle[:n-1]
		return
	}
	if p.started == p.maxWorkers {
		p.pending = append(p.pending, c)
		return
	}
	p.started++
	w := p.newWorker()
	w.calls <- c
	p.wg.Go(w.run)
}

func (p *workerPool) newWorker() *worker {
	w := &worker{workerPool: p, calls: make(chan call, 1)}
	if p.transport == nil {
		w.conn = &conn{address: p.URL, timeout: p.Timeout}
	} else {
		w.conn = &http2Caller{address: p.URL, timeout: p.Timeout, transport: p.transport}
	}
	return w
}

// run makes calls until its channel is closed.
func (w *worker) run() {
	defer w.conn.close()
	for c := range w.calls {
		for more := true; more; {
			w.do(c)
			c, more = w.nextCall()
		}
	}
}

// nextCall returns the oldest pending call. Without one it marks the worker idle and returns false.
func (w *worker) nextCall() (call, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) > 0 {
		c := w.pending[0]
		w.pending = w.pending[1:]
		return c, true
	}
	if w.closed {
		close(w.calls)
	} else {
		w.idle = append(w.idle, w)
	}
	return call{}, false
}

// runClosedLoop makes calls one after the other until next has no more.
func (p *workerPool) runClosedLoop(next func() (i int, due time.Duration, more bool)) {
	w := p.newWorker()
	defer w.conn.close()
	for i, due, more := next(); more; i, due, more = next() {
		p.recorder.recordOffered(due-p.WarmUp, p.Batch)
		w.do(call{first: i * p.Batch, due: due})
	}
}

// drain waits until all calls have ended. After timeout it calls cancel, which must cancel p.ctx.
func (p *workerPool) drain(timeout time.Duration, cancel func()) {
	p.mu.Lock()
	p.closed = true
	for _, w := range p.idle {
		close(w.calls)
	}
	p.idle = nil
	p.mu.Unlock()
	timer := time.AfterFunc(timeout, cancel)
	defer timer.Stop()
	p.wg.Wait()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
}

// do makes one call and records the result of each of its notifications.
func (w *worker) do(c call) {
	if w.workerPool.ctx.Err() != nil {
		w.recorder.recordLost(c.due-w.WarmUp, w.Batch, "not sent: no connection was free in time")
		return
	}
	w.current, w.verdicts = c, 0
	w.request = w.api.appendRequest(w.request[:0], w.mix, c.first, w.Batch)
	if err := w.conn.ensureOpen(w.workerPool.ctx); err != nil {
		w.recorder.recordLost(c.due-w.WarmUp, w.Batch, "no connection")
		_ = sleep.For(w.workerPool.ctx, 10*time.Millisecond) // keeps a closed loop from spinning
		return
	}
	w.sentAt = time.Now()
	w.recorder.recordSendDelay(w.sentAt.Sub(w.schedule.start.Add(c.due)), c.due-w.WarmUp)
	err := w.conn.do(w.request, w.Batch > 1, w.readResponse)
	if missing := w.Batch - w.verdicts; missing > 0 {
		w.recorder.recordLost(c.due-w.WarmUp, missing, lostReason(err))
	}
	if err != nil {
		w.conn.close()
	}
}

func lostReason(err error) string {
	if err == nil {
		return "missing in the response"
	}
	return fmt.Sprintf("no response: %s", describeError(err))
}

// readResponse reads the response to the current call.
func (w *worker) readResponse(status int, body *body) error {
	return w.api.readResponse(&w.parser, status, body, w.Batch, func(v *verdict) {
		if w.verdicts == w.Batch {
			return // more verdicts than notifications; the ledger comparison shows it
		}
		w.verdicts++
		now := time.Now()
		v.latency = now.Sub(w.schedule.start) - w.current.due
		v.sinceSent = now.Sub(w.sentAt)
		w.recorder.recordVerdict(w.current.due-w.WarmUp, now, v, w.Batch == 1)
	})
}
