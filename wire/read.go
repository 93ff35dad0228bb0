// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// protocolError is the peer breaking the protocol. It ends the connection with a
// GOAWAY of that code (RFC 9113 §5.4.1).
type protocolError struct {
	code http2.ErrCode
	text string
}

func (v protocolError) Error() string {
	return "the peer broke HTTP/2: " + v.code.String() + ": " + v.text
}

// malformedResponse is an answer that is none (RFC 9113 §8.1.1).
func malformedResponse(text string) *Error {
	return &Error{Reason: MalformedResponse, EndpointAtFault: true, Err: errors.New(text)}
}

// connReader notes when the peer was heard and why it is heard no more.
type connReader struct {
	conn       *Conn
	readFailed bool                  // by the socket, so that the frame is not to blame
	writeErr   atomic.Pointer[error] // why nothing can be written any more
}

func (s *connReader) Read(p []byte) (int, error) {
	n, err := s.conn.conn.Read(p)
	if n > 0 {
		s.conn.stats.lastRead.Store(s.conn.now())
	}
	if err != nil {
		s.readFailed = true
	}
	return n, err
}

// readLoop is the reader: all that comes in comes in here.
func (c *Conn) readLoop() {
	for {
		if err := c.readFrame(); err != nil {
			c.stopReading(err)
			return
		}
	}
}

func (c *Conn) stopReading(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	if v, ok := c.asProtocolError(err); ok {
		_ = c.controlFramer.WriteGoAway(0, v.code, []byte(v.text))
		c.end(&Error{Reason: LostAfterWrite, EndpointAtFault: true, Err: v})
		return
	}
	if broken := c.reader.writeErr.Load(); broken != nil {
		err = *broken // the first failure is the one to report
	}
	c.connLost(err)
}

// asProtocolError says which violation err is, if it is one and not the socket's.
func (c *Conn) asProtocolError(err error) (v protocolError, ok bool) {
	var conn http2.ConnectionError
	var stream http2.StreamError
	switch {
	case errors.As(err, &v):
	case c.reader.readFailed:
		return v, false
	case errors.As(err, &conn):
		v = protocolError{http2.ErrCode(conn), err.Error()}
		if detail := c.framer.ErrorDetail(); detail != nil {
			v.text = detail.Error()
		}
	case errors.As(err, &stream):
		v = protocolError{stream.Code, err.Error()}
	default: // ErrFrameTooLarge, or a frame that ends before its fields do (RFC 9113 §4.2)
		v = protocolError{http2.ErrCodeFrameSize, err.Error()}
	}
	return v, true
}

func (c *Conn) readFrame() error {
	head, err := c.framer.ReadFrameHeader()
	if err != nil {
		return err
	}
	f, err := c.framer.ReadFrameForHeader(head)
	if err != nil {
		return c.handleBadFrame(head, err)
	}
	if err := c.handleFrame(f); err != nil {
		return err
	}
	return c.checkControlBacklog()
}

// handleBadFrame excuses the one bad frame that concerns a single stream: a
// WINDOW_UPDATE of zero (RFC 9113 §6.9). A bad HEADERS frame leaves the
// compression table in doubt and so concerns all.
func (c *Conn) handleBadFrame(head http2.FrameHeader, err error) error {
	var bad http2.StreamError
	if head.Type != http2.FrameWindowUpdate || !errors.As(err, &bad) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isIdleStream(head.StreamID) {
		return protocolError{http2.ErrCodeProtocol, "WINDOW_UPDATE on an idle stream (RFC 9113 §5.1)"}
	}
	if s := c.open[head.StreamID]; s != nil {
		c.abortStream(s, bad.Code, malformedResponse("WINDOW_UPDATE of zero (RFC 9113 §6.9)"))
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
		return protocolError{http2.ErrCodeProtocol, "PUSH_PROMISE though push is off (RFC 9113 §6.6)"}
	}
	return nil // RFC 9113 §5.5: unknown frames are passed over, and PRIORITY says nothing to a client
}

// handlePing answers the peer's PING. The answer to ours needs no deed: that
// something was read is what the keeper asks for.
func (c *Conn) handlePing(f *http2.PingFrame) {
	if f.IsAck() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.controlFramer.WritePing(true, f.Data)
	c.work.Signal()
}

func (c *Conn) checkControlBacklog() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.controlBuf) > maxControlBytes {
		return protocolError{http2.ErrCodeEnhanceYourCalm, "more to answer than can be written (RFC 9113 §10.5)"}
	}
	return nil
}

// isIdleStream reports whether the stream was never opened. The peer's own streams
// never are: push is off (RFC 9113 §5.1.1).
func (c *Conn) isIdleStream(id uint32) bool { return id%2 == 0 || id >= c.nextID }

// findStream returns the open stream that a frame is for. It is nil, without an
// error, when the frame is the tail of one that we reset (RFC 9113 §5.1).
func (c *Conn) findStream(id uint32, frame string) (*stream, error) {
	if c.isIdleStream(id) {
		return nil, protocolError{http2.ErrCodeProtocol, frame + " on an idle stream (RFC 9113 §5.1)"}
	}
	s := c.open[id]
	if s == nil && id > c.lastReset {
		return nil, protocolError{http2.ErrCodeStreamClosed, frame + " on a stream that has ended (RFC 9113 §5.1)"}
	}
	return s, nil
}
