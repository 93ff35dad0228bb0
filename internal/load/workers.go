// SPDX-License-Identifier: Apache-2.0

package load

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

// workerPool makes calls with up to MaxConnections workers. Each worker has its own connection, or
// shares HTTP/2 connections.
type workerPool struct {
	Generator
	schedule  schedule
	api       api
	transport *http.Transport // for HTTP/2; nil for HTTP/1.1
	ctx       context.Context // canceled when the drain timeout expires
	wg        sync.WaitGroup

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
	calls   chan call
	conn    caller
	request []byte
	current call
	results int       // of the current call
	sentAt  time.Time // when the current call was sent
	parser  parser
}

// submit makes call i as soon as a worker is free. It does not block.
func (p *workerPool) submit(i int, due time.Duration) {
	c := call{first: i * p.Batch, due: due}
	p.Recorder.Offered(c.first, p.Batch, due)
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		p.idle[n-1].calls <- c // does not block: an idle worker has an empty channel
		p.idle = p.idle[:n-1]
		return
	}
	if p.started == p.MaxConnections {
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
		w.conn = &conn{address: p.URL, timeout: p.Timeout, tls: p.TLS}
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
		p.Recorder.Offered(i*p.Batch, p.Batch, due)
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
		w.Recorder.Lost(w.Batch, c.due, "not sent: no connection was free in time")
		return
	}
	w.current, w.results = c, 0
	w.request = w.api.appendRequest(w.request[:0], w.Append, c.first, w.Batch)
	if err := w.conn.ensureOpen(w.workerPool.ctx); err != nil {
		w.Recorder.Lost(w.Batch, c.due, "no connection")
		_ = sleep.For(w.workerPool.ctx, 10*time.Millisecond) // keeps a closed loop from spinning
		return
	}
	w.sentAt = time.Now()
	w.Recorder.Sent(c.due, w.sentAt.Sub(w.Start)-c.due)
	err := w.conn.do(w.request, w.Batch > 1, w.readResponse)
	if missing := w.Batch - w.results; missing > 0 {
		w.Recorder.Lost(missing, c.due, lostReason(err))
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
	return w.api.readResponse(&w.parser, status, body, w.Batch, func(r *Result) error {
		if w.results == w.Batch {
			return nil // more results than notifications; the comparison with the ledger shows it
		}
		now := time.Now()
		if r.Index == noIndex || w.Batch == 1 {
			r.Index = w.results
		}
		w.results++
		r.Index, r.Due, r.Latency, r.SinceSent = w.current.first+r.Index, w.current.due, now.Sub(w.Start)-w.current.due, now.Sub(w.sentAt)
		r.Single, r.HTTPStatus, r.RetryAfter = w.Batch == 1, status, body.Header.Get("Retry-After")
		return w.Recorder.Answered(r, now)
	})
}
