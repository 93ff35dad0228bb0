// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// protocolError is a protocol violation by the peer. It ends the connection with a GOAWAY of this
// code (RFC 9113 §5.4.1).
type protocolError struct {
	code http2.ErrCode
	text string
}

func (e protocolError) Error() string {
	return "peer violated HTTP/2: " + e.code.String() + ": " + e.text
}

// malformedResponse returns the error for a malformed response (RFC 9113 §8.1.1).
func malformedResponse(text string) *Error {
	return &Error{Reason: MalformedResponse, EndpointAtFault: true, Err: errors.New(text)}
}

// connReader reads from the connection and records when and why reading and writing stopped.
type connReader struct {
	conn       *Conn
	readFailed bool                  // reading failed, so a bad frame is not the peer's fault
	writeErr   atomic.Pointer[error] // why writing failed, or nil
}

func (r *connReader) Read(p []byte) (int, error) {
	n, err := r.conn.conn.Read(p)
	if n > 0 {
		r.conn.stats.lastRead.Store(r.conn.now())
	}
	if err != nil {
		r.readFailed = true
	}
	return n, err
}

// readLoop reads and handles frames until the connection ends. It delivers results when the next
// frame is not complete, so that responses that arrive together are delivered together.
func (c *Conn) readLoop() {
	defer c.endOnPanic()
	for {
		err := c.readFrame()
		if err != nil {
			c.stopReading(err)
		}
		if err != nil || !c.frameBuffered() {
			c.deliver()
		}
		if err != nil {
			return
		}
	}
}

// frameBuffered reports whether the next frame can be read without blocking.
func (c *Conn) frameBuffered() bool {
	const headerSize = 9
	n := c.buffered.Buffered()
	if n < headerSize {
		return false
	}
	h, _ := c.buffered.Peek(headerSize)
	return n >= headerSize+int(h[0])<<16+int(h[1])<<8+int(h[2])
}

func (c *Conn) stopReading(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	if perr, ok := c.asProtocolError(err); ok {
		_ = c.controlFramer.WriteGoAway(0, perr.code, []byte(perr.text))
		c.end(&Error{Reason: LostAfterWrite, EndpointAtFault: true, Err: perr})
		return
	}
	if writeErr := c.reader.writeErr.Load(); writeErr != nil {
		err = *writeErr // report the first failure
	}
	c.connLost(err)
}

// asProtocolError returns err as a protocolError, if it is one and not an I/O error.
func (c *Conn) asProtocolError(err error) (perr protocolError, ok bool) {
	var conn http2.ConnectionError
	var stream http2.StreamError
	switch {
	case errors.As(err, &perr):
	case c.reader.readFailed:
		return perr, false
	case errors.As(err, &conn):
		perr = protocolError{http2.ErrCode(conn), err.Error()}
		if detail := c.framer.ErrorDetail(); detail != nil {
			perr.text = detail.Error()
		}
	case errors.As(err, &stream):
		perr = protocolError{stream.Code, err.Error()}
	default: // ErrFrameTooLarge, or a frame shorter than its fields (RFC 9113 §4.2)
		perr = protocolError{http2.ErrCodeFrameSize, err.Error()}
	}
	return perr, true
}

func (c *Conn) readFrame() error {
	header, err := c.framer.ReadFrameHeader()
	if err != nil {
		return err
	}
	if f, bad := c.framer.ReadFrameForHeader(header); bad != nil {
		err = c.handleBadFrame(header, bad)
	} else {
		err = c.handleFrame(f)
	}
	if err != nil {
		return err
	}
	return c.checkFlood(header)
}

// handleBadFrame handles a frame that the framer rejected. Only a WINDOW_UPDATE with a zero
// increment is an error of a single stream (RFC 9113 §6.9). A bad HEADERS frame may leave the HPACK
// table inconsistent, so it ends the connection.
func (c *Conn) handleBadFrame(header http2.FrameHeader, err error) error {
	var streamErr http2.StreamError
	if header.Type != http2.FrameWindowUpdate || !errors.As(err, &streamErr) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isIdleStream(header.StreamID) {
		return protocolError{http2.ErrCodeProtocol, "WINDOW_UPDATE on an idle stream (RFC 9113 §5.1)"}
	}
	if s := c.open[header.StreamID]; s != nil {
		c.abortStream(s, streamErr.Code, malformedResponse("WINDOW_UPDATE with zero increment (RFC 9113 §6.9)"))
	}
	return nil
}

func (c *Conn) handleFrame(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.handleData(f)
	case *http2.HeadersFrame:
		c.block.reset(f.StreamID, f.StreamEnded())
		return c.handleHeaderFragment(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.ContinuationFrame:
		return c.handleHeaderFragment(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.WindowUpdateFrame:
		return c.handleWindowUpdate(f)
	case *http2.RSTStreamFrame:
		return c.handleReset(f)
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return c.applySettings(f)
		}
	case *http2.PingFrame:
		c.handlePing(f)
	case *http2.GoAwayFrame:
		c.handleGoAway(f)
	case *http2.PushPromiseFrame:
		return protocolError{http2.ErrCodeProtocol, "PUSH_PROMISE although push is disabled (RFC 9113 §6.6)"}
	}
	// Unknown frames are ignored (RFC 9113 §5.5), and PRIORITY does not concern a client.
	return nil
}

// handlePing acknowledges the peer's PING. An acknowledgement from the peer needs no action, because
// checkPing looks only at the time of the last read.
func (c *Conn) handlePing(f *http2.PingFrame) {
	if f.IsAck() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.controlFramer.WritePing(true, f.Data)
	c.work.Signal()
}

// isIdleStream reports whether the stream was never opened. The peer cannot open streams, because
// push is disabled (RFC 9113 §5.1.1).
func (c *Conn) isIdleStream(id uint32) bool { return id%2 == 0 || id >= c.nextID }

// findStream returns the open stream that a frame belongs to. It returns nil without an error if
// this side has reset the stream (RFC 9113 §5.1).
func (c *Conn) findStream(id uint32, frame string) (*stream, error) {
	if c.isIdleStream(id) {
		return nil, protocolError{http2.ErrCodeProtocol, frame + " on an idle stream (RFC 9113 §5.1)"}
	}
	s := c.open[id]
	if s == nil && id > c.lastReset {
		return nil, protocolError{http2.ErrCodeStreamClosed, frame + " on a closed stream (RFC 9113 §5.1)"}
	}
	return s, nil
}
