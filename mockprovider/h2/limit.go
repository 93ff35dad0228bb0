// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"cmp"
	"slices"

	"golang.org/x/net/http2"
)

// Streams configures the limit of concurrent streams. A connection with a client certificate starts
// at Max.
type Streams struct {
	// Start is the limit of a new connection.
	Start int
	// Max is the limit once a request has been accepted.
	Max int
	// Unadvertised makes a new connection announce Max in its SETTINGS and still refuse streams
	// beyond Start, as some captures of APNs suggest.
	Unadvertised bool
	// Strict refuses each stream that exceeds the limit. The default is to hold a stream until there is
	// room if the client cannot know the limit yet, because it has not acknowledged the SETTINGS.
	// Unadvertised implies Strict.
	Strict bool
	// ShrinkOn4xx sets the limit back to 1 after a 4xx response other than 410, until the next
	// accepted request.
	ShrinkOn4xx bool
}

// streamLimit is the limit of concurrent streams, with the limits that the client has received.
type streamLimit struct {
	normal    int   // limit without faults, once a request has been accepted
	forced    int   // limit of a fault; 0 for none
	enforced  int   // limit for the next stream
	announced int   // limit in the last SETTINGS frame; 0 before the first one
	acked     int   // limit that the client acknowledged last; 0 for none
	pending   []int // limits that are announced and not acknowledged, oldest first
}

// writeServerPreface sends the first SETTINGS frame. The values that are not configured are those of
// APNs as captured in 2021.
func (c *Conn) writeServerPreface() {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, streams := &c.limit, c.cfg.Streams
	l.normal, l.enforced, l.announced = streams.Max, streams.Start, streams.Start
	if streams.Unadvertised {
		l.announced = streams.Max
	}
	if len(c.nc.ConnectionState().PeerCertificates) > 0 {
		l.enforced, l.announced = streams.Max, streams.Max
	}
	if l.forced > 0 {
		l.enforced, l.announced = l.forced, l.forced
	}
	l.pending = []int{l.announced}
	_ = c.frames.WriteSettings(
		http2.Setting{ID: http2.SettingHeaderTableSize, Val: 4096},
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(l.announced)},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxFrameSize, Val: 16384},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: c.cfg.MaxHeaderList})
	_ = c.frames.WriteWindowUpdate(0, connWindow-65535)
}

// setLimit changes the stream limit. Every SETTINGS frame that the connection sends announces a
// limit, so that each acknowledgement belongs to one. mu is held.
func (c *Conn) setLimit(n int) {
	c.limit.enforced = n
	if c.limit.announced == n {
		return
	}
	c.limit.announced = n
	c.limit.pending = append(c.limit.pending, n)
	_ = c.frames.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(n)})
}

func (l *streamLimit) acknowledge() {
	if len(l.pending) > 0 {
		l.acked, l.pending = l.pending[0], l.pending[1:]
	}
}

// violated reports whether one more stream than open exceeds every limit that the client may assume:
// the limit that it acknowledged last, and the limits that were announced since.
func (l *streamLimit) violated(open int) bool {
	if l.acked == 0 {
		return false
	}
	return open >= l.acked && !slices.ContainsFunc(l.pending, func(n int) bool { return open < n })
}

// adaptLimit changes the stream limit after a response, unless a fault has set it. mu is held.
func (c *Conn) adaptLimit(r *Response) {
	if c.limit.forced > 0 {
		return
	}
	if r.Accepted {
		c.setLimit(c.limit.normal)
	} else if c.cfg.Streams.ShrinkOn4xx && r.Status >= 400 && r.Status < 500 && r.Status != 410 {
		c.setLimit(1)
	}
}

// SetMaxStreams sets the stream limit and keeps it whatever the responses are. 0 ends that.
func (c *Conn) SetMaxStreams(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == c.limit.forced {
		return
	}
	c.limit.forced = n
	if c.limit.announced == 0 {
		return // writeServerPreface announces it
	}
	c.setLimit(cmp.Or(n, c.limit.normal))
	c.admitHeld()
	c.wakeWriter()
}
