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
	cfg  Config
	nc   net.Conn
	raw  net.Conn  // what nc speaks TLS over, to be cut when nc can no longer be closed politely
	born time.Time // the connection's clock counts from here, in nanoseconds

	source *source // what the reader reads from
	frames *http2.Framer
	block  block // the header block that the reader is in

	stop  chan struct{} // closed when the connection has ended
	alarm chan struct{} // the keeper must wake earlier than it meant to

	published published
	spare     sync.Pool // streams; not shared with other connections, whose channels can be of another bubble in a test

	mu      sync.Mutex
	work    sync.Cond          // the writer has work
	open    map[uint32]*stream // by ID
	waiting queue              // no ID yet
	bodies  queue              // open, with more to send and a window to send it in
	control sink               // whole frames that go before all others
	out     sink               // what the writer is writing
	say     *http2.Framer      // writes into control
	put     *http2.Framer      // writes into out
	fields  *hpack.Encoder     // writes into header
	header  sink
	peer    settings
	window  int64 // what the peer lets us send on all streams together
	credit  int64 // what we let the peer send on all streams together
	nextID  uint32
	excused uint32  // late frames are passed over on streams up to this one, for it was cut short
	alone   bool    // only one request may be in flight, for the peer has answered none yet
	leaving bool    // nothing new is taken
	goAway  *goAway // the peer's last one
	armed   int64   // when the keeper means to wake
	busy    int64   // when the peer began to owe an answer
	ended   bool
	cut     bool   // it ended without a word to the peer
	cause   *Error // what ended it; nil after a drain
}

var (
	errDraining  = errors.New("the connection is draining")
	errExhausted = errors.New("the connection has used up its stream IDs")
)

var _ Doer = (*Conn)(nil)

func newConn(nc, raw net.Conn, cfg Config) *Conn {
	c := &Conn{
		cfg: cfg, nc: nc, raw: raw, born: time.Now(),
		stop: make(chan struct{}), alarm: make(chan struct{}, 1),
		open: make(map[uint32]*stream), nextID: 1, alone: cfg.FirstAlone,
		peer:   defaultSettings,
		window: defaultWindow, credit: defaultWindow,
	}
	c.work.L = &c.mu
	c.source = &source{c: c}
	c.frames = http2.NewFramer(nil, bufio.NewReaderSize(c.source, maxFrame))
	c.frames.SetMaxReadFrameSize(maxFrame)
	c.frames.SetReuseFrames()
	c.block.decoder = hpack.NewDecoder(tableSize, c.block.emit)
	c.block.decoder.SetMaxStringLength(maxHeaderList)
	c.say = http2.NewFramer(&c.control, nil)
	c.put = http2.NewFramer(&c.out, nil)
	c.fields = hpack.NewEncoder(&c.header)
	return c
}

// now is the connection's clock.
func (c *Conn) now() int64 { return int64(time.Since(c.born)) }

// Run reads, writes and pings. It returns when the connection has ended and
// its goroutines have: after Drain or the peer's GOAWAY once nothing is in
// flight (nil, or what the GOAWAY complained of), when the connection is lost
// or ctx ends (an *Error). Whoever does not want a Conn after all calls Run
// with a context that has ended.
func (c *Conn) Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(c.read)
	both.Go(c.write)
	c.keep(ctx)
	if c.cut {
		_ = c.raw.Close()
	}
	both.Wait()
	_ = c.raw.Close()
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
	if err := c.enter(s); err != nil {
		return nil, err
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		c.leave(s, ctx.Err())
		<-s.done
	}
	return c.result(s)
}

// Drain takes nothing new; what Do has accepted may end, and then Run does.
func (c *Conn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving = true
	c.endIfDrained()
	c.publish()
}

// enter puts s into the queue, or says why not.
func (c *Conn) enter(s *stream) error {
	timeout := s.r.Timeout
	if timeout <= 0 {
		timeout = c.cfg.ResponseTimeout
	}
	s.deadline = c.now() + int64(timeout)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refuse(); err != nil {
		return err
	}
	c.waiting.push(s)
	c.wakeBy(s.deadline)
	if c.mayOpen() {
		c.work.Signal()
	}
	c.publish()
	return nil
}

// refuse says why nothing new is taken, or nil.
func (c *Conn) refuse() *Error {
	switch {
	case c.ended || c.leaving:
		return c.unwritten()
	case c.waiting.n >= max(c.limit()-len(c.open), 0)+c.cfg.MaxWaiting:
		return &Error{Reason: QueueFull, Processed: Never}
	}
	return nil
}

// unwritten is the error of a request that this connection never handed on.
func (c *Conn) unwritten() *Error {
	if c.goAway != nil {
		return c.goAway.unprocessed()
	}
	e := &Error{Reason: LostBeforeWrite, Processed: Never, Err: errDraining}
	if c.cause != nil {
		e.Err = c.cause
	}
	return e
}

// leave ends s because its caller has left, unless it has ended already.
func (c *Conn) leave(s *stream, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.ended {
		c.abort(s, http2.ErrCodeCancel, &Error{Reason: Cancelled, Processed: s.processed(), Err: why})
	}
}

// abort ends s with err, and tells the peer if it has seen s.
func (c *Conn) abort(s *stream, code http2.ErrCode, err *Error) {
	if s.id != 0 {
		c.reset(s.id, code)
	}
	c.fail(s, err)
}

// reset sends RST_STREAM. What the peer had under way for that stream is still
// to be expected (RFC 9113 §5.1, closed).
func (c *Conn) reset(id uint32, code http2.ErrCode) {
	c.excused = max(c.excused, id)
	_ = c.say.WriteRSTStream(id, code)
	c.work.Signal()
}

// finish gives s, with its answer or its error, back to the Do that waits.
func (c *Conn) finish(s *stream) {
	s.leaveQueue()
	if s.id != 0 {
		delete(c.open, s.id)
	}
	s.ended = true
	s.done <- struct{}{}
	if c.waiting.n > 0 {
		c.work.Signal()
	}
	c.endIfDrained()
	c.publish()
}

func (c *Conn) endIfDrained() {
	if !c.leaving || c.ended || len(c.open)+c.waiting.n > 0 {
		return
	}
	_ = c.say.WriteGoAway(0, http2.ErrCodeNo, nil)
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
		c.fail(c.waiting.first, c.unwritten())
	}
	for _, s := range c.open {
		c.fail(s, cause)
	}
	close(c.stop)
	c.work.Signal()
	c.publish()
}

func (c *Conn) fail(s *stream, err *Error) {
	s.err = err
	c.finish(s)
}

// hangUp ends the connection without a word to a peer that would not hear it. What the kernel still has to send is
// forgotten: when the road is mended, it would arrive late, and once more beside its repeat.
func (c *Conn) hangUp(cause *Error) {
	if tcp, ok := c.raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	c.cut = c.cut || !c.ended
	c.end(cause)
}

// lose ends the connection because nothing comes or goes any more.
func (c *Conn) lose(err error) {
	switch {
	case c.goAway != nil:
		c.hangUp(c.goAway.noAnswer(err))
	case len(c.open) == 0:
		c.hangUp(&Error{Reason: LostBeforeWrite, Processed: Never, Err: err})
	default:
		c.hangUp(&Error{Reason: LostAfterWrite, Endpoint: true, Err: err})
	}
}
