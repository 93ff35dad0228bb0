// SPDX-License-Identifier: Apache-2.0

package wire

import "golang.org/x/net/http2"

const (
	defaultWindow     = 65535     // RFC 9113 §6.9.2
	maxWindow         = 1<<31 - 1 // RFC 9113 §6.9.1
	maxFrameSize      = 16384     // RFC 9113 §6.5.2, the default, in both directions
	hpackTableSize    = 4096      // RFC 9113 §6.5.2, the default, in both directions
	maxStreamID       = 1<<31 - 1 // RFC 9113 §5.1.1
	connWindow        = 1 << 20   // what the peer may send before we have read it, on all streams together
	maxHeaderListSize = 16 << 10  // of an answer, counted as RFC 9113 §6.5.2 says
)

// settings are the peer's.
type settings struct {
	maxStreams    int
	initialWindow int64
	maxFrameSize  int
}

var defaultSettings = settings{maxStreams: unlimited, initialWindow: defaultWindow, maxFrameSize: maxFrameSize}

// localSettings is what we announce. A stream's window is larger than the largest body
// that is taken, so that no stream ever needs an update, and never less than
// the default, so that the peer cannot overrun it before it has read this.
func (c *Conn) localSettings() []http2.Setting {
	return []http2.Setting{
		{ID: http2.SettingEnablePush, Val: 0},
		{ID: http2.SettingMaxConcurrentStreams, Val: 0},
		{ID: http2.SettingInitialWindowSize, Val: uint32(max(c.cfg.MaxResponseBytes+maxFrameSize, defaultWindow))},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderListSize},
	}
}

// applySettings takes up the peer's SETTINGS and acknowledges them (RFC 9113 §6.5.3).
func (c *Conn) applySettings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f.ForeachSetting(c.applySetting); err != nil {
		return err
	}
	_ = c.controlFramer.WriteSettingsAck()
	c.work.Signal()
	c.publish()
	return nil
}

func (c *Conn) applySetting(s http2.Setting) error {
	if err := s.Valid(); err != nil {
		return err
	}
	switch s.ID {
	case http2.SettingMaxConcurrentStreams:
		c.peerSettings.maxStreams = int(min(s.Val, unlimited))
	case http2.SettingMaxFrameSize:
		c.peerSettings.maxFrameSize = int(min(s.Val, 1<<20)) // a larger frame would only hold up the others
	case http2.SettingHeaderTableSize:
		c.encoder.SetMaxDynamicTableSize(min(s.Val, hpackTableSize))
	case http2.SettingInitialWindowSize:
		return c.resizeWindows(int64(s.Val))
	case http2.SettingEnablePush:
		if s.Val != 0 {
			return protocolError{http2.ErrCodeProtocol, "a server cannot be pushed to (RFC 9113 §6.5.2)"}
		}
	}
	return nil
}

// resizeWindows changes the window of every open stream by the difference,
// which may leave it negative (RFC 9113 §6.9.2).
func (c *Conn) resizeWindows(size int64) error {
	by := size - c.peerSettings.initialWindow
	c.peerSettings.initialWindow = size
	for _, s := range c.open {
		if s.outflow+by > maxWindow {
			return protocolError{http2.ErrCodeFlowControl, "a stream's window grew beyond 2^31-1 (RFC 9113 §6.9.2)"}
		}
		c.growWindow(s, by)
	}
	return nil
}

// growWindow changes s's window and queues s if that lets it go on.
func (c *Conn) growWindow(s *stream, by int64) {
	s.outflow += by
	if s.outflow > 0 && !s.endSent && s.queue == nil {
		c.bodies.push(s)
	}
}

// handleWindowUpdate takes up a WINDOW_UPDATE (RFC 9113 §6.9).
func (c *Conn) handleWindowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.work.Signal()
	if f.StreamID == 0 {
		c.outflow += int64(f.Increment)
		if c.outflow > maxWindow {
			return protocolError{http2.ErrCodeFlowControl, "the connection's window grew beyond 2^31-1 (RFC 9113 §6.9.1)"}
		}
		return nil
	}
	if c.isIdleStream(f.StreamID) {
		return protocolError{http2.ErrCodeProtocol, "WINDOW_UPDATE on an idle stream (RFC 9113 §5.1)"}
	}
	s := c.open[f.StreamID]
	if s == nil {
		return nil // it can have crossed our END_STREAM or RST_STREAM
	}
	if s.outflow+int64(f.Increment) > maxWindow {
		c.abortStream(s, http2.ErrCodeFlowControl, malformedResponse("a stream's window grew beyond 2^31-1 (RFC 9113 §6.9.1)"))
		return nil
	}
	c.growWindow(s, int64(f.Increment))
	return nil
}

// consumeInflow counts n bytes of DATA, padding included, against what the peer may
// send on the connection, and lets it send more in good time: all that comes is
// read at once, so half of it is never used up. They are counted on streams
// that have ended, too (RFC 9113 §6.9).
func (c *Conn) consumeInflow(n int) {
	c.inflow -= int64(n)
	if c.inflow < connWindow/2 {
		_ = c.controlFramer.WriteWindowUpdate(0, uint32(connWindow-c.inflow))
		c.inflow = connWindow
		c.work.Signal()
	}
}
