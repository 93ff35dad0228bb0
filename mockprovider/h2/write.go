// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"runtime"
	"strconv"
	"time"

	"golang.org/x/net/http2"
)

// frameWriter appends the frames of the Framer to out, with mu held.
type frameWriter Conn

func (w *frameWriter) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

// blockWriter appends the output of the encoder to block, with mu held.
type blockWriter Conn

func (w *blockWriter) Write(p []byte) (int, error) {
	w.block = append(w.block, p...)
	return len(p), nil
}

// outflow is the flow control of what the connection sends.
type outflow struct {
	window   int // bytes that may be sent on the connection
	initial  int // bytes that may be sent on a new stream
	maxFrame int
	blocked  []*stream // streams whose bodies wait for a window, oldest first
}

func newOutflow() outflow { return outflow{window: 65535, initial: 65535, maxFrame: 16384} }

// respond sends the response of a stream, as far as the windows allow. mu is held.
func (c *Conn) respond(st *stream) {
	if c.streams[st.id] != st {
		return
	}
	r := &st.decision.Response
	c.block = c.block[:0]
	_ = c.encoder.WriteField(Field(":status", strconv.Itoa(r.Status)))
	for _, f := range r.Header {
		_ = c.encoder.WriteField(f)
	}
	_ = c.frames.WriteHeaders(http2.HeadersFrameParam{
		StreamID: st.id, BlockFragment: c.block, EndHeaders: true, EndStream: len(r.Body) == 0,
	})
	if st.unsent = r.Body; len(st.unsent) > 0 && !c.sendBody(st) {
		c.outflow.blocked = append(c.outflow.blocked, st)
		return
	}
	c.endResponse(st)
}

// sendBody sends as much of a body as the windows allow, in one frame if possible, and reports
// whether that was all. mu is held.
func (c *Conn) sendBody(st *stream) bool {
	for len(st.unsent) > 0 {
		n := min(len(st.unsent), c.outflow.window, st.sendWindow, c.outflow.maxFrame)
		if n <= 0 {
			return false
		}
		_ = c.frames.WriteData(st.id, n == len(st.unsent), st.unsent[:n])
		st.unsent = st.unsent[n:]
		st.sendWindow -= n
		c.outflow.window -= n
	}
	return true
}

// endResponse records and removes an answered stream, and adapts the stream limit to the response.
// mu is held.
func (c *Conn) endResponse(st *stream) {
	st.recorded = true
	c.lastAnswered = max(c.lastAnswered, st.id)
	c.handler.Record(st.id, &st.req, &st.decision, true)
	if !st.ended {
		_ = c.frames.WriteRSTStream(st.id, http2.ErrCodeNo)
	}
	c.remove(st)
	c.adaptLimit(&st.decision.Response)
}

// maxWindow is the greatest window of HTTP/2.
const maxWindow = 1<<31 - 1

// handleWindowUpdate continues with blocked bodies. mu is held.
func (c *Conn) handleWindowUpdate(f *http2.WindowUpdateFrame) error {
	if f.StreamID == 0 {
		if c.outflow.window += int(f.Increment); c.outflow.window > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	} else if c.isIdle(f.StreamID) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	} else if st := c.streams[f.StreamID]; st != nil {
		if st.sendWindow += int(f.Increment); st.sendWindow > maxWindow {
			return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeFlowControl}
		}
	}
	c.unblock()
	return nil
}

// setInitialWindow changes the windows of all streams (RFC 9113, section 6.9.2). mu is held.
func (c *Conn) setInitialWindow(initial int) error {
	for _, st := range c.streams {
		if st.sendWindow += initial - c.outflow.initial; st.sendWindow > maxWindow {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	}
	c.outflow.initial = initial
	return nil
}

// unblock continues with the bodies that wait for a window. mu is held.
func (c *Conn) unblock() {
	blocked := c.outflow.blocked
	c.outflow.blocked = nil
	for _, st := range blocked {
		if c.streams[st.id] != st {
			continue
		}
		if !c.sendBody(st) {
			c.outflow.blocked = append(c.outflow.blocked, st)
			continue
		}
		c.endResponse(st)
	}
}

// flush wakes the writer if there is anything to write.
func (c *Conn) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) > 0 {
		c.wakeWriter()
	}
}

func (c *Conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// maxOut is how many bytes may be buffered for a client that does not read.
const maxOut = 4 << 20

// write writes the buffered frames, in as few TLS records as possible, until the connection ends or
// has been drained.
func (c *Conn) write() {
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.wake:
		}
		runtime.Gosched() // let more frames gather
		if !c.waitUnfrozen() {
			return
		}
		c.mu.Lock()
		out := c.out
		c.out, c.spare = c.spare[:0], nil
		drained := c.draining && len(c.streams) == 0
		c.mu.Unlock()
		if _, err := c.nc.Write(out); err != nil || len(out) > maxOut {
			c.Close()
			return
		}
		if drained {
			c.closeWrite()
			return
		}
		c.mu.Lock()
		c.spare = out[:0]
		c.mu.Unlock()
	}
}

// closeWrite closes the sending side, and gives the client a second to close its own, so that the
// client can read everything that was sent.
func (c *Conn) closeWrite() {
	_ = c.nc.CloseWrite()
	_ = c.raw.SetReadDeadline(time.Now().Add(time.Second))
}
