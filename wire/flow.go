// SPDX-License-Identifier: Apache-2.0

package wire

import "golang.org/x/net/http2"

const (
	defaultWindow = 65535     // RFC 9113 §6.9.2
	maxWindow     = 1<<31 - 1 // RFC 9113 §6.9.1
	maxFrame      = 16384     // RFC 9113 §6.5.2, the default, in both directions
	tableSize     = 4096      // RFC 9113 §6.5.2, the default, in both directions
	maxStreamID   = 1<<31 - 1 // RFC 9113 §5.1.1
	connCredit    = 1 << 20   // what the peer may send before we have read it, on all streams together
	maxHeaderList = 16 << 10  // of an answer, counted as RFC 9113 §6.5.2 says
)

// settings are the peer's.
type settings struct {
	streams int
	window  int64
	frame   int
}

var defaultSettings = settings{streams: unlimited, window: defaultWindow, frame: maxFrame}

// ours is what we announce. A stream's window is larger than the largest body
// that is taken, so that no stream ever needs an update, and never less than
// the default, so that the peer cannot overrun it before it has read this.
func (c *Conn) ours() []http2.Setting {
	return []http2.Setting{
		{ID: http2.SettingEnablePush, Val: 0},
		{ID: http2.SettingMaxConcurrentStreams, Val: 0},
		{ID: http2.SettingInitialWindowSize, Val: uint32(max(c.cfg.MaxResponse+maxFrame, defaultWindow))},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderList},
	}
}

// learn takes up the peer's SETTINGS and acknowledges them (RFC 9113 §6.5.3).
func (c *Conn) learn(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f.ForeachSetting(c.learnOne); err != nil {
		return err
	}
	_ = c.say.WriteSettingsAck()
	c.work.Signal()
	c.publish()
	return nil
}

func (c *Conn) learnOne(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case http2.SettingMaxConcurrentStreams:
		c.peer.streams = int(min(s.Val, unlimited))
	case http2.SettingMaxFrameSize:
		c.peer.frame = int(min(s.Val, 1<<20)) // a larger frame would only hold up the others
	case http2.SettingHeaderTableSize:
		c.fields.SetMaxDynamicTableSize(min(s.Val, tableSize))
	case http2.SettingInitialWindowSize:
		return c.resizeWindows(int64(s.Val))
	case http2.SettingEnablePush:
		if s.Val != 0 {
			return violation{http2.ErrCodeProtocol, "a server cannot be pushed to (RFC 9113 §6.5.2)"}
		}
	}
	return nil
}

// resizeWindows changes the window of every open stream by the difference,
// which may leave it negative (RFC 9113 §6.9.2).
func (c *Conn) resizeWindows(size int64) error {
	by := size - c.peer.window
	c.peer.window = size
	for _, s := range c.open {
		if s.window+by > maxWindow {
			return violation{http2.ErrCodeFlowControl, "a stream's window grew beyond 2^31-1 (RFC 9113 §6.9.2)"}
		}
		c.widen(s, by)
	}
	return nil
}

// widen changes s's window and queues s if that lets it go on.
func (c *Conn) widen(s *stream, by int64) {
	s.window += by
	if s.window > 0 && !s.whole && s.queue == nil {
		c.bodies.push(s)
	}
}

// grant takes up a WINDOW_UPDATE (RFC 9113 §6.9).
func (c *Conn) grant(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.work.Signal()
	if f.StreamID == 0 {
		c.window += int64(f.Increment)
		if c.window > maxWindow {
			return violation{http2.ErrCodeFlowControl, "the connection's window grew beyond 2^31-1 (RFC 9113 §6.9.1)"}
		}
		return nil
	}
	if c.idle(f.StreamID) {
		return violation{http2.ErrCodeProtocol, "WINDOW_UPDATE on an idle stream (RFC 9113 §5.1)"}
	}
	s := c.open[f.StreamID]
	if s == nil {
		return nil // it can have crossed our END_STREAM or RST_STREAM
	}
	if s.window+int64(f.Increment) > maxWindow {
		c.abort(s, http2.ErrCodeFlowControl, malformed("a stream's window grew beyond 2^31-1 (RFC 9113 §6.9.1)"))
		return nil
	}
	c.widen(s, int64(f.Increment))
	return nil
}

// consume counts n bytes of DATA, padding included, against what the peer may
// send on the connection, and lets it send more in good time: all that comes is
// read at once, so half of it is never used up. They are counted on streams
// that have ended, too (RFC 9113 §6.9).
func (c *Conn) consume(n int) {
	c.credit -= int64(n)
	if c.credit < connCredit/2 {
		_ = c.say.WriteWindowUpdate(0, uint32(connCredit-c.credit))
		c.credit = connCredit
		c.work.Signal()
	}
}
