// SPDX-License-Identifier: Apache-2.0

package wire

import "golang.org/x/net/http2"

const (
	defaultWindow     = 65535     // RFC 9113 §6.9.2
	maxWindow         = 1<<31 - 1 // RFC 9113 §6.9.1
	maxFrameSize      = 16384     // RFC 9113 §6.5.2, the default, for both directions
	hpackTableSize    = 4096      // RFC 9113 §6.5.2, the default, for both directions
	maxStreamID       = 1<<31 - 1 // RFC 9113 §5.1.1
	connWindow        = 1 << 20   // connection window for receiving
	maxHeaderListSize = 16 << 10  // of a response, counted as in RFC 9113 §6.5.2
)

// settings are the peer's SETTINGS.
type settings struct {
	maxStreams    int
	initialWindow int64
	maxFrameSize  int
}

var defaultSettings = settings{maxStreams: unlimited, initialWindow: defaultWindow, maxFrameSize: maxFrameSize}

// streamWindow returns the window of each stream for receiving. It exceeds the largest accepted
// body, so no stream needs a WINDOW_UPDATE. It is never below the default, so a peer that has not
// yet read the SETTINGS cannot exceed it.
func (c *Conn) streamWindow() int { return max(c.cfg.MaxResponseBytes+maxFrameSize, defaultWindow) }

// localSettings returns the SETTINGS of this side.
func (c *Conn) localSettings() []http2.Setting {
	return []http2.Setting{
		{ID: http2.SettingEnablePush, Val: 0},
		{ID: http2.SettingMaxConcurrentStreams, Val: 0},
		{ID: http2.SettingInitialWindowSize, Val: uint32(c.streamWindow())},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHeaderListSize},
	}
}

// applySettings applies the peer's SETTINGS and acknowledges them (RFC 9113 §6.5.3).
func (c *Conn) applySettings(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := f.ForeachSetting(c.applySetting); err != nil {
		return err
	}
	for c.waiting.n > c.queueLimit() { // the stream limit fell
		c.fail(c.waiting.last, &Error{Reason: QueueFull, Processed: Never})
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
		c.peerSettings.maxFrameSize = int(min(s.Val, 1<<20)) // larger frames would only delay other requests
	case http2.SettingHeaderTableSize:
		c.encoder.SetMaxDynamicTableSize(min(s.Val, hpackTableSize))
		c.fieldCache.block = nil // the next block must start with the new size
	case http2.SettingInitialWindowSize:
		return c.resizeWindows(int64(s.Val))
	case http2.SettingEnablePush:
		if s.Val != 0 {
			return protocolError{http2.ErrCodeProtocol, "server enables push (RFC 9113 §6.5.2)"}
		}
	}
	return nil
}

// resizeWindows changes the window of every open stream by the difference to the previous initial
// window. A window can become negative (RFC 9113 §6.9.2).
func (c *Conn) resizeWindows(size int64) error {
	delta := size - c.peerSettings.initialWindow
	c.peerSettings.initialWindow = size
	for _, s := range c.open {
		if s.outflow+delta > maxWindow {
			return protocolError{http2.ErrCodeFlowControl, "stream window exceeds 2^31-1 (RFC 9113 §6.9.2)"}
		}
		c.growWindow(s, delta)
	}
	return nil
}

// growWindow adds delta, which may be negative, to the window of s. It queues s if more of its body
// can now be sent.
func (c *Conn) growWindow(s *stream, delta int64) {
	s.outflow += delta
	if s.outflow > 0 && !s.endSent && s.queue == nil {
		c.bodies.push(s)
	}
}

// handleWindowUpdate handles a WINDOW_UPDATE frame (RFC 9113 §6.9).
func (c *Conn) handleWindowUpdate(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.work.Signal()
	if f.StreamID == 0 {
		c.outflow += int64(f.Increment)
		if c.outflow > maxWindow {
			return protocolError{http2.ErrCodeFlowControl, "connection window exceeds 2^31-1 (RFC 9113 §6.9.1)"}
		}
		return nil
	}
	if c.isIdleStream(f.StreamID) {
		return protocolError{http2.ErrCodeProtocol, "WINDOW_UPDATE on an idle stream (RFC 9113 §5.1)"}
	}
	s := c.open[f.StreamID]
	if s == nil {
		return nil // it may have crossed our END_STREAM or RST_STREAM
	}
	if s.outflow+int64(f.Increment) > maxWindow {
		c.abortStream(s, http2.ErrCodeFlowControl, malformedResponse("stream window exceeds 2^31-1 (RFC 9113 §6.9.1)"))
		return nil
	}
	c.growWindow(s, int64(f.Increment))
	return nil
}

// allowLateFrames is called when s ends before the peer has ended it. The peer may already have sent
// more frames (RFC 9113 §5.1, closed), but no more DATA than the rest of the stream's window, nor,
// on all such streams together, than the connection's window.
func (c *Conn) allowLateFrames(s *stream) {
	c.lastReset = max(c.lastReset, s.id)
	c.lateInflow = min(c.lateInflow+int64(c.streamWindow()-s.bodyReceived), connWindow)
}

// consumeLateInflow subtracts n bytes of DATA on a stream that has ended.
func (c *Conn) consumeLateInflow(n int) error {
	if c.lateInflow -= int64(n); c.lateInflow < 0 {
		return protocolError{http2.ErrCodeFlowControl, "DATA on a closed stream exceeds its window (RFC 9113 §6.9.1)"}
	}
	return nil
}

// consumeInflow subtracts n bytes of DATA, including padding, from the receive window of the
// connection and refills the window when it is half used. DATA on ended streams counts too (RFC
// 9113 §6.9).
func (c *Conn) consumeInflow(n int) {
	c.inflow -= int64(n)
	if c.inflow < connWindow/2 {
		_ = c.controlFramer.WriteWindowUpdate(0, uint32(connWindow-c.inflow))
		c.inflow = connWindow
		c.work.Signal()
	}
}
