// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"runtime"
	"strconv"
	"time"

	"golang.org/x/net/http2"
)

// frameWriter lets the Framer append to out, under mu.
type frameWriter conn

func (w *frameWriter) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

// blockWriter lets the encoder append to block, under mu.
type blockWriter conn

func (w *blockWriter) Write(p []byte) (int, error) {
	w.block = append(w.block, p...)
	return len(p), nil
}

// flow is what the client lets us send.
type flow struct {
	window   int // bytes on the connection
	initial  int // bytes on a new stream
	maxFrame int
	blocked  []*stream // whose bodies wait for a window, oldest first
}

func newFlow() flow { return flow{window: 65535, initial: 65535, maxFrame: 16384} }

// respond sends a stream's answer, as far as the windows let it.
func (c *conn) respond(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[st.id] != st {
		return
	}
	a := &st.d.answer
	c.block = c.block[:0]
	_ = c.encoder.WriteField(field(":status", strconv.Itoa(a.status)))
	for _, f := range a.header {
		_ = c.encoder.WriteField(f)
	}
	_ = c.frames.WriteHeaders(http2.HeadersFrameParam{
		StreamID: st.id, BlockFragment: c.block, EndHeaders: true, EndStream: len(a.body) == 0,
	})
	if st.rest = a.body; len(st.rest) > 0 && !c.pump(st) {
		c.flow.blocked = append(c.flow.blocked, st)
		return
	}
	c.answered(st)
}

// pump sends what the windows allow of a body, in one frame whenever they can, and says whether that was all. mu is held.
func (c *conn) pump(st *stream) bool {
	for len(st.rest) > 0 {
		n := min(len(st.rest), c.flow.window, st.window, c.flow.maxFrame)
		if n <= 0 {
			return false
		}
		_ = c.frames.WriteData(st.id, n == len(st.rest), st.rest[:n])
		st.rest = st.rest[n:]
		st.window -= n
		c.flow.window -= n
	}
	return true
}

// answered ends a stream, enters it into the ledger, and lets the stream limit follow. mu is held.
func (c *conn) answered(st *stream) {
	st.settled = true
	c.done = max(c.done, st.id)
	c.note(st.id, &st.req, st.d, true)
	if st.req.tooLong {
		_ = c.frames.WriteRSTStream(st.id, http2.ErrCodeNo)
	}
	c.forget(st)
	c.adapt(&st.d.answer)
}

// windowUpdate lets blocked bodies go on.
func (c *conn) windowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		if c.flow.window += int(f.Increment); c.flow.window > 1<<31-1 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	} else if st := c.streams[f.StreamID]; st != nil {
		if st.window += int(f.Increment); st.window > 1<<31-1 {
			return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
		}
	}
	c.unblock()
	return nil
}

// resize changes the windows of all streams, RFC 9113 6.9.2. mu is held.
func (c *conn) resize(initial int) {
	for _, st := range c.streams {
		st.window += initial - c.flow.initial
	}
	c.flow.initial = initial
	c.unblock()
}

// unblock sends what waited for a window. mu is held.
func (c *conn) unblock() {
	waiting := c.flow.blocked
	c.flow.blocked = nil
	for _, st := range waiting {
		if c.streams[st.id] != st {
			continue
		}
		if !c.pump(st) {
			c.flow.blocked = append(c.flow.blocked, st)
			continue
		}
		c.answered(st)
	}
}

// flush wakes the writer, if there is anything to write.
func (c *conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) > 0 {
		c.poke()
	}
}

func (c *conn) poke() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// maxOut is how much may gather for a client that does not read.
const maxOut = 4 << 20

// write sends what has gathered, in as few TLS records as it fits in, until the connection ends or has been left.
func (c *conn) write() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.kick:
		}
		runtime.Gosched() // let more gather
		if !c.hold() {
			return
		}
		c.mu.Lock()
		out := c.out
		c.out, c.spare = c.spare[:0], nil
		done := c.leaving && len(c.streams) == 0
		c.mu.Unlock()
		if _, err := c.nc.Write(out); err != nil || len(out) > maxOut {
			c.shut()
			return
		}
		if done {
			c.sayGoodbye()
			return
		}
		c.mu.Lock()
		c.spare = out[:0]
		c.mu.Unlock()
	}
}

// sayGoodbye ends the writing side, and gives the client a second to end its own, so that it can read all that was sent.
func (c *conn) sayGoodbye() {
	_ = c.nc.CloseWrite()
	_ = c.raw.SetReadDeadline(time.Now().Add(time.Second))
}
