// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Conn is the client side of one HTTP/2 connection (RFC 9113). It uses the framer and HPACK of
// golang.org/x/net and manages streams, flow control and timeouts itself.
//
// Three goroutines serve a Conn: one writes, one reads, and one handles timeouts and pings.
// Requests wait in one FIFO queue. The writer takes as many as the limits allow and writes them
// together, so that requests that arrive together share a TLS record. A request gets its stream ID
// only when it is written. An ID of zero therefore proves that the peer never saw the request.
type Conn struct {
	cfg     Config
	conn    net.Conn
	rawConn net.Conn  // the transport below conn, closed directly on abort
	start   time.Time // times on this connection are nanoseconds since start

	reader   *connReader   // input of buffered
	buffered *bufio.Reader // input of framer
	framer   *http2.Framer
	block    headerBlock // the header block being read

	done  chan struct{} // closed when the connection has ended
	rearm chan struct{} // wakes runTimers earlier than planned

	stats connStats
	// streamPool is not global, because a synctest bubble must not use channels of another one.
	streamPool sync.Pool // of *stream

	mu             sync.Mutex
	work           sync.Cond          // signals the writer
	open           map[uint32]*stream // by stream ID
	waiting        streamQueue        // requests without a stream ID
	bodies         streamQueue        // open streams that can send more of their body
	completed      []*run             // runs with results that have not been delivered
	completedSpare []*run             // to be reused
	delivering     bool               // a goroutine is in deliver
	results        []Result           // used by the goroutine that delivers
	controlBuf     buffer             // complete frames that are sent before all others
	writeBuf       buffer             // what the writer is writing
	controlFramer  *http2.Framer      // writes into controlBuf
	dataFramer     *http2.Framer      // writes into writeBuf
	encoder        *hpack.Encoder     // writes into indexedBuf
	indexedBuf     buffer             // the fields of a request that belong into the HPACK table
	headerBuf      []byte             // the header block of a request
	fieldCache     fieldCache
	peerSettings   settings
	outflow        int64 // connection window for sending
	inflow         int64 // connection window for receiving
	lateInflow     int64 // bytes of DATA that the peer may still send on streams that have ended
	flood          flood
	nextID         uint32
	lastReset      uint32  // late frames are ignored on streams up to this one
	serializeFirst bool    // allow one request in flight until the first response
	draining       bool    // no new requests are accepted
	goAway         *goAway // merged from all GOAWAY frames of the peer, or nil
	nextWake       int64   // when runTimers wakes next
	busySince      int64   // start of the current period with open streams
	ended          bool
	aborted        bool   // ended without a GOAWAY to the peer
	cause          *Error // why the connection ended; nil after a drain
	panicErr       *Error // the first panic, or nil
}

var (
	errDraining  = errors.New("the connection is draining")
	errExhausted = errors.New("the connection has used up its stream IDs")
)

var (
	_ Doer    = (*Conn)(nil)
	_ Starter = (*Conn)(nil)
)

func newConn(conn, rawConn net.Conn, cfg Config) *Conn {
	c := &Conn{
		cfg: cfg, conn: conn, rawConn: rawConn, start: time.Now(),
		done: make(chan struct{}), rearm: make(chan struct{}, 1),
		open: make(map[uint32]*stream), nextID: 1, serializeFirst: cfg.SerializeFirst,
		peerSettings: defaultSettings,
		outflow:      defaultWindow, inflow: defaultWindow,
	}
	c.work.L = &c.mu
	c.reader = &connReader{conn: c}
	c.buffered = bufio.NewReaderSize(c.reader, maxFrameSize)
	c.framer = http2.NewFramer(nil, c.buffered)
	c.framer.SetMaxReadFrameSize(maxFrameSize)
	c.framer.SetReuseFrames()
	c.block.decoder = hpack.NewDecoder(hpackTableSize, c.block.emit)
	c.block.decoder.SetMaxStringLength(maxHeaderListSize)
	c.controlFramer = http2.NewFramer(&c.controlBuf, nil)
	c.dataFramer = http2.NewFramer(&c.writeBuf, nil)
	c.encoder = hpack.NewEncoder(&c.indexedBuf)
	return c
}

// LocalAddr returns the local address, which identifies the connection among those to its peer.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// now returns the time on the connection's clock.
func (c *Conn) now() int64 { return int64(time.Since(c.start)) }

// Run serves the connection. It returns after all goroutines of the connection have ended: when the
// connection has drained, when it is lost, or when ctx ends. After Drain or a GOAWAY without an
// error it returns nil, otherwise an *Error. A panic in a goroutine of the connection or in a Handler
// ends the connection; the *Error then wraps a *PanicError. To discard a Conn, call Run with a context
// that has already ended.
func (c *Conn) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(c.readLoop)
	wg.Go(c.writeLoop)
	c.runTimers(ctx)
	if c.aborted {
		_ = c.rawConn.Close()
	}
	wg.Wait()
	_ = c.rawConn.Close()
	return c.runError()
}

func (c *Conn) runError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmp.Or(c.panicErr, c.cause); err != nil {
		return err
	}
	return nil
}

// Do sends r and waits for its complete response. Requests get streams in the order of the calls.
// Do needs a concurrent Run and may be called concurrently. An error is always an *Error. If ctx
// ends or r times out, Processed is Never while r waits for a stream, and Unknown after r was
// written.
func (c *Conn) Do(ctx context.Context, r *Request) (*Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, &Error{Reason: Canceled, Processed: Never, Err: err}
	}
	s := c.newStream(r)
	if s.done == nil {
		s.done = make(chan struct{}, 1)
	}
	c.mu.Lock()
	c.enqueue(s, c.now())
	c.wakeWriter()
	c.mu.Unlock()
	select {
	case <-s.done:
	case <-ctx.Done():
		c.cancelStream(s, ctx.Err())
		<-s.done
	}
	return c.result(s)
}

// Drain stops accepting requests. Requests that were accepted before still finish; then Run returns.
func (c *Conn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.closeIfDrained()
	c.publish()
}

// enqueue adds s to the queue at time now, or ends it if the connection does not accept it.
func (c *Conn) enqueue(s *stream, now int64) {
	timeout := s.req.Timeout
	if timeout <= 0 {
		timeout = c.cfg.ResponseTimeout
	}
	s.deadline = now + int64(timeout)
	if err := c.acceptError(); err != nil {
		c.fail(s, err)
		return
	}
	c.waiting.push(s)
	c.wakeBy(s.deadline)
}

// wakeWriter is called after enqueue.
func (c *Conn) wakeWriter() {
	if c.canOpenStream() {
		c.work.Signal()
	}
	c.publish()
}

// acceptError returns why no new request is accepted, or nil.
func (c *Conn) acceptError() *Error {
	switch {
	case c.ended || c.draining:
		return c.notWrittenError()
	case c.waiting.n >= c.queueLimit():
		return &Error{Reason: QueueFull, Processed: Never}
	}
	return nil
}

// queueLimit returns how many requests may be in the queue: those that the writer can write at once,
// and those that may wait.
func (c *Conn) queueLimit() int {
	return max(c.streamLimit()-len(c.open), 0) + c.cfg.MaxWaiting
}

// notWrittenError returns the error of a request that was never written.
func (c *Conn) notWrittenError() *Error {
	if c.goAway != nil {
		return c.goAway.unprocessed()
	}
	e := &Error{Reason: LostBeforeWrite, Processed: Never, Err: errDraining}
	if c.cause != nil {
		e.Err = c.cause
	}
	return e
}

// cancelStream ends s because its caller's context has ended, unless s has ended already.
func (c *Conn) cancelStream(s *stream, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.ended {
		c.abortCanceled(s, cause)
	}
}

func (c *Conn) abortCanceled(s *stream, cause error) {
	c.abortStream(s, http2.ErrCodeCancel, &Error{Reason: Canceled, Processed: s.processed(), Err: cause})
}

// abortStream ends s with err and resets the stream if the peer may have seen it.
func (c *Conn) abortStream(s *stream, code http2.ErrCode, err *Error) {
	if s.id != 0 {
		c.sendReset(s, code)
	}
	c.fail(s, err)
}

func (c *Conn) sendReset(s *stream, code http2.ErrCode) {
	c.allowLateFrames(s)
	_ = c.controlFramer.WriteRSTStream(s.id, code)
	c.work.Signal()
}

// finish removes s from the connection and wakes its Do, or adds it to the results of its run. The
// caller must not use s afterwards, and must call deliver after it has released the lock.
func (c *Conn) finish(s *stream) {
	s.dequeue()
	if s.id != 0 {
		delete(c.open, s.id)
	}
	s.ended = true
	if s.run != nil {
		c.addCompleted(s)
	} else {
		s.done <- struct{}{}
	}
	if c.waiting.n > 0 {
		c.work.Signal()
	}
	c.closeIfDrained()
	c.publish()
}

func (c *Conn) closeIfDrained() {
	if !c.draining || c.ended || len(c.open)+c.waiting.n > 0 {
		return
	}
	_ = c.controlFramer.WriteGoAway(0, http2.ErrCodeNo, nil)
	var cause *Error
	if c.goAway != nil && c.goAway.code != http2.ErrCodeNo {
		cause = c.goAway.noAnswer(nil)
	}
	c.end(cause)
}

// end ends the connection; only the first call has an effect. Requests that were written fail with
// cause, since the peer may have processed them. Requests that were not written fail with Processed
// Never.
func (c *Conn) end(cause *Error) {
	if c.ended {
		return
	}
	c.ended, c.cause = true, cause
	for c.waiting.n > 0 {
		c.fail(c.waiting.first, c.notWrittenError())
	}
	for _, s := range c.open {
		c.fail(s, cause)
	}
	close(c.done)
	c.work.Signal()
	c.publish()
}

func (c *Conn) fail(s *stream, err *Error) {
	s.err = err
	c.finish(s)
}

// abortConn ends the connection without a GOAWAY, for a peer that does not respond. It also
// discards the kernel's send buffer: when the network recovers, those requests would otherwise be
// delivered late, in addition to their retries.
func (c *Conn) abortConn(cause *Error) {
	if tcp, ok := c.rawConn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.aborted = c.aborted || !c.ended
	c.end(cause)
}

// connLost ends the connection after a read or write error.
func (c *Conn) connLost(err error) {
	switch {
	case c.goAway != nil:
		c.abortConn(c.goAway.noAnswer(err))
	case len(c.open) == 0:
		c.abortConn(&Error{Reason: LostBeforeWrite, Processed: Never, Err: err})
	default:
		c.abortConn(&Error{Reason: LostAfterWrite, EndpointAtFault: true, Err: err})
	}
}
