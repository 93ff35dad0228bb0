// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Conn is one HTTP/2 connection, as RFC 9113 has it, seen by the client. The
// frames and HPACK are x/net's; the bookkeeping is here.
//
// One goroutine writes, one reads, one keeps the time. Requests wait in one
// FIFO; the writer takes up as many as the limits allow and writes them all at
// once, so that what comes together costs one TLS record. A request gets its
// stream's ID in that moment and not before, and so an ID of zero proves that
// the peer never saw it.
type Conn struct {
	cfg     Config
	conn    net.Conn
	rawConn net.Conn  // what nc speaks TLS over, to be cut when nc can no longer be closed politely
	start   time.Time // the connection's clock counts from here, in nanoseconds

	reader *connReader // what the reader reads from
	framer *http2.Framer
	block  headerBlock // the header block that the reader is in

	done  chan struct{} // closed when the connection has ended
	rearm chan struct{} // the keeper must wake earlier than it meant to

	stats      connStats
	streamPool sync.Pool // streams; not shared with other connections, whose channels can be of another bubble in a test

	mu             sync.Mutex
	work           sync.Cond          // the writer has work
	open           map[uint32]*stream // by ID
	waiting        streamQueue        // no ID yet
	bodies         streamQueue        // open, with more to send and a window to send it in
	controlBuf     buffer             // whole frames that go before all others
	writeBuf       buffer             // what the writer is writing
	controlFramer  *http2.Framer      // writes into control
	dataFramer     *http2.Framer      // writes into out
	encoder        *hpack.Encoder     // writes into header
	headerBuf      buffer
	peerSettings   settings
	outflow        int64 // what the peer lets us send on all streams together
	inflow         int64 // what we let the peer send on all streams together
	nextID         uint32
	lastReset      uint32  // late frames are passed over on streams up to this one, for it was cut short
	serializeFirst bool    // only one request may be in flight, for the peer has answered none yet
	draining       bool    // nothing new is taken
	goAway         *goAway // the peer's last one
	nextWake       int64   // when the keeper means to wake
	busySince      int64   // when the peer began to owe an answer
	ended          bool
	aborted        bool   // it ended without a word to the peer
	cause          *Error // what ended it; nil after a drain
}

var (
	errDraining  = errors.New("the connection is draining")
	errExhausted = errors.New("the connection has used up its stream IDs")
)

var _ Doer = (*Conn)(nil)

func newConn(nc, raw net.Conn, cfg Config) *Conn {
	c := &Conn{
		cfg: cfg, conn: nc, rawConn: raw, start: time.Now(),
		done: make(chan struct{}), rearm: make(chan struct{}, 1),
		open: make(map[uint32]*stream), nextID: 1, serializeFirst: cfg.SerializeFirst,
		peerSettings: defaultSettings,
		outflow:      defaultWindow, inflow: defaultWindow,
	}
	c.work.L = &c.mu
	c.reader = &connReader{conn: c}
	c.framer = http2.NewFramer(nil, bufio.NewReaderSize(c.reader, maxFrameSize))
	c.framer.SetMaxReadFrameSize(maxFrameSize)
	c.framer.SetReuseFrames()
	c.block.decoder = hpack.NewDecoder(hpackTableSize, c.block.emit)
	c.block.decoder.SetMaxStringLength(maxHeaderListSize)
	c.controlFramer = http2.NewFramer(&c.controlBuf, nil)
	c.dataFramer = http2.NewFramer(&c.writeBuf, nil)
	c.encoder = hpack.NewEncoder(&c.headerBuf)
	return c
}

// now is the connection's clock.
func (c *Conn) now() int64 { return int64(time.Since(c.start)) }

// Run reads, writes and pings. It returns when the connection has ended and
// its goroutines have: after Drain or the peer's GOAWAY once nothing is in
// flight (nil, or what the GOAWAY complained of), when the connection is lost
// or ctx ends (an *Error). Whoever does not want a Conn after all calls Run
// with a context that has ended.
func (c *Conn) Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(c.readLoop)
	both.Go(c.writeLoop)
	c.runTimers(ctx)
	if c.aborted {
		_ = c.rawConn.Close()
	}
	both.Wait()
	_ = c.rawConn.Close()
	if c.cause == nil {
		return nil
	}
	return c.cause
}

// Do sends r and waits for its whole answer. It waits for a stream in the
// order of the calls, needs a Run beside it, and may be called by many at
// once. The error is an *Error: a context's end while no byte was handed on is
// Never, later it is Unknown, as is r.Timeout's.
func (c *Conn) Do(ctx context.Context, r *Request) (*Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, &Error{Reason: Cancelled, Processed: Never, Err: err}
	}
	s := c.newStream(r)
	if err := c.enqueue(s); err != nil {
		return nil, err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		c.cancelStream(s, ctx.Err())
		<-s.done
	}
	return c.result(s)
}

// Drain takes nothing new; what Do has accepted may end, and then Run does.
func (c *Conn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.closeIfDrained()
	c.publish()
}

// enqueue puts s into the queue, or says why not.
func (c *Conn) enqueue(s *stream) error {
	timeout := s.req.Timeout
	if timeout <= 0 {
		timeout = c.cfg.ResponseTimeout
	}
	s.deadline = c.now() + int64(timeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.acceptError(); err != nil {
		return err
	}
	c.waiting.push(s)
	c.wakeBy(s.deadline)
	if c.canOpenStream() {
		c.work.Signal()
	}
	c.publish()
	return nil
}

// acceptError says why nothing new is taken, or nil.
func (c *Conn) acceptError() *Error {
	switch {
	case c.ended || c.draining:
		return c.notWrittenError()
	case c.waiting.n >= max(c.streamLimit()-len(c.open), 0)+c.cfg.MaxWaiting:
		return &Error{Reason: QueueFull, Processed: Never}
	}
	return nil
}

// notWrittenError is the error of a request that this connection never handed on.
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

// cancelStream ends s because its caller has left, unless it has ended already.
func (c *Conn) cancelStream(s *stream, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.ended {
		c.abortStream(s, http2.ErrCodeCancel, &Error{Reason: Cancelled, Processed: s.processed(), Err: why})
	}
}

// abortStream ends s with err, and tells the peer if it has seen s.
func (c *Conn) abortStream(s *stream, code http2.ErrCode, err *Error) {
	if s.id != 0 {
		c.sendReset(s.id, code)
	}
	c.fail(s, err)
}

// sendReset sends RST_STREAM. What the peer had under way for that stream is still
// to be expected (RFC 9113 §5.1, closed).
func (c *Conn) sendReset(id uint32, code http2.ErrCode) {
	c.lastReset = max(c.lastReset, id)
	_ = c.controlFramer.WriteRSTStream(id, code)
	c.work.Signal()
}

// finish gives s, with its answer or its error, back to the Do that waits.
func (c *Conn) finish(s *stream) {
	s.dequeue()
	if s.id != 0 {
		delete(c.open, s.id)
	}
	s.ended = true
	s.done <- struct{}{}
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

// end ends the connection, once. Cause is what becomes of the requests that
// were handed on: nobody knows whether the peer processed them. The others it
// never saw.
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

// abortConn ends the connection without a word to a peer that would not hear it. What the kernel still has to send is
// forgotten: when the road is mended, it would arrive late, and once more beside its repeat.
func (c *Conn) abortConn(cause *Error) {
	if tcp, ok := c.rawConn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.aborted = c.aborted || !c.ended
	c.end(cause)
}

// connLost ends the connection because nothing comes or goes any more.
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
