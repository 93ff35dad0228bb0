// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"sync/atomic"

	"golang.org/x/net/http2"
)

// violation is the peer breaking the protocol. It ends the connection with a
// GOAWAY of that code (RFC 9113 §5.4.1).
type violation struct {
	code http2.ErrCode
	text string
}

func (v violation) Error() string { return "the peer broke HTTP/2: " + v.code.String() + ": " + v.text }

// malformed is an answer that is none (RFC 9113 §8.1.1).
func malformed(text string) *Error {
	return &Error{Reason: MalformedResponse, Endpoint: true, Err: errors.New(text)}
}

// source notes when the peer was heard and why it is heard no more.
type source struct {
	c      *Conn
	failed bool                  // by the socket, so that the frame is not to blame
	broken atomic.Pointer[error] // why nothing can be written any more
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.c.nc.Read(p)
	if n > 0 {
		s.c.published.lastRead.Store(s.c.now())
	}
	if err != nil {
		s.failed = true
	}
	return n, err
}

// read is the reader: all that comes in comes in here.
func (c *Conn) read() {
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
	if v, ok := c.judge(err); ok {
		_ = c.say.WriteGoAway(0, v.code, []byte(v.text))
		c.end(&Error{Reason: LostAfterWrite, Endpoint: true, Err: v})
		return
	}
	if broken := c.source.broken.Load(); broken != nil {
		err = *broken // the first failure is the one to report
	}
	c.lose(err)
}

// judge says which violation err is, if it is one and not the socket's.
func (c *Conn) judge(err error) (v violation, ok bool) {
	var conn http2.ConnectionError
	var stream http2.StreamError
	switch {
	case errors.As(err, &v):
	case c.source.failed:
		return v, false
	case errors.As(err, &conn):
		v = violation{http2.ErrCode(conn), err.Error()}
		if detail := c.frames.ErrorDetail(); detail != nil {
			v.text = detail.Error()
		}
	case errors.As(err, &stream):
		v = violation{stream.Code, err.Error()}
	default: // ErrFrameTooLarge, or a frame that ends before its fields do (RFC 9113 §4.2)
		v = violation{http2.ErrCodeFrameSize, err.Error()}
	}
	return v, true
}

func (c *Conn) readFrame() error {
	head, err := c.frames.ReadFrameHeader()
	if err != nil {
		return err
	}
	f, err := c.frames.ReadFrameForHeader(head)
	if err != nil {
		return c.badFrame(head, err)
	}
	if err := c.take(f); err != nil {
		return err
	}
	return c.checkControl()
}

// badFrame excuses the one bad frame that concerns a single stream: a
// WINDOW_UPDATE of zero (RFC 9113 §6.9). A bad HEADERS frame leaves the
// compression table in doubt and so concerns all.
func (c *Conn) badFrame(head http2.FrameHeader, err error) error {
	var bad http2.StreamError
	if head.Type != http2.FrameWindowUpdate || !errors.As(err, &bad) {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle(head.StreamID) {
		return violation{http2.ErrCodeProtocol, "WINDOW_UPDATE on an idle stream (RFC 9113 §5.1)"}
	}
	if s := c.open[head.StreamID]; s != nil {
		c.abort(s, bad.Code, malformed("WINDOW_UPDATE of zero (RFC 9113 §6.9)"))
	}
	return nil
}

func (c *Conn) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.DataFrame:
		return c.takeData(f)
	case *http2.HeadersFrame:
		c.block.begin(f.StreamID, f.StreamEnded())
		return c.takeBlock(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.ContinuationFrame:
		return c.takeBlock(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.WindowUpdateFrame:
		return c.grant(f)
	case *http2.RSTStreamFrame:
		return c.dropped(f)
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return c.learn(f)
		}
	case *http2.PingFrame:
		c.pong(f)
	case *http2.GoAwayFrame:
		c.obey(f)
	case *http2.PushPromiseFrame:
		return violation{http2.ErrCodeProtocol, "PUSH_PROMISE though push is off (RFC 9113 §6.6)"}
	}
	return nil // RFC 9113 §5.5: unknown frames are passed over, and PRIORITY says nothing to a client
}

// pong answers the peer's PING. The answer to ours needs no deed: that
// something was read is what the keeper asks for.
func (c *Conn) pong(f *http2.PingFrame) {
	if f.IsAck() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.say.WritePing(true, f.Data)
	c.work.Signal()
}

func (c *Conn) checkControl() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.control) > maxControl {
		return violation{http2.ErrCodeEnhanceYourCalm, "more to answer than can be written (RFC 9113 §10.5)"}
	}
	return nil
}

// idle reports whether the stream was never opened. The peer's own streams
// never are: push is off (RFC 9113 §5.1.1).
func (c *Conn) idle(id uint32) bool { return id%2 == 0 || id >= c.nextID }

// find returns the open stream that a frame is for. It is nil, without an
// error, when the frame is the tail of one that we reset (RFC 9113 §5.1).
func (c *Conn) find(id uint32, frame string) (*stream, error) {
	if c.idle(id) {
		return nil, violation{http2.ErrCodeProtocol, frame + " on an idle stream (RFC 9113 §5.1)"}
	}
	s := c.open[id]
	if s == nil && id > c.excused {
		return nil, violation{http2.ErrCodeStreamClosed, frame + " on a stream that has ended (RFC 9113 §5.1)"}
	}
	return s, nil
}
