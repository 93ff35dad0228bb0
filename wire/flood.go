// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"time"

	"golang.org/x/net/http2"
)

// Frames that advance no response cost the peer nothing and this side CPU time: a flood of PING,
// SETTINGS, empty DATA, or HEADERS on streams that have ended (CVE-2019-9512 and its relatives).
// The bytes of such frames fill a bucket, which time and responses empty again. A connection whose
// bucket overflows is closed. What peers need of such frames is far less: a few pings per minute,
// and two WINDOW_UPDATEs per request.
const (
	maxFlood         = 1 << 20  // size of the bucket in bytes
	floodPerSecond   = 16 << 10 // bytes that a second removes
	floodPerResponse = 512      // bytes that a response removes
	minFrameCost     = 64       // bytes that a frame counts at least
)

// flood is the bucket. Conn.mu guards it.
type flood struct {
	level    int64
	at       int64 // time of level
	pending  int64 // cost of the frames since the last decision; more than one in a header block
	advanced bool  // one of these frames advanced a response
}

// responded is called for the headers of each final response.
func (f *flood) responded() { f.level = max(0, f.level-floodPerResponse) }

// add adds the pending frames to the bucket at time now, unless they advanced a response. It
// reports whether the bucket overflows.
func (f *flood) add(now int64) (overflow bool) {
	if !f.advanced {
		f.level = max(0, f.level-(now-f.at)*floodPerSecond/int64(time.Second)) + f.pending
		f.at = now
	}
	f.pending, f.advanced = 0, false
	return f.level > maxFlood
}

// checkFlood decides after each frame whether the peer floods the connection (RFC 9113 §10.5). A
// header block counts as one frame.
func (c *Conn) checkFlood(f http2.FrameHeader) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flood.pending += max(int64(f.Length), minFrameCost)
	switch {
	case len(c.controlBuf) > maxControlBytes:
		return protocolError{http2.ErrCodeEnhanceYourCalm, "too many unread control frames (RFC 9113 §10.5)"}
	case c.block.incomplete:
		return nil
	case c.flood.add(c.stats.lastRead.Load()):
		return protocolError{http2.ErrCodeEnhanceYourCalm, "too many frames that advance no response (RFC 9113 §10.5)"}
	}
	return nil
}
