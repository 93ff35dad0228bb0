// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"maps"
	"slices"

	"golang.org/x/net/http2"
)

// Freeze stops reading and writing, or with on = false continues with both.
func (c *Conn) Freeze(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if on && c.frozen == nil {
		c.frozen = make(chan struct{})
	}
	if !on && c.frozen != nil {
		close(c.frozen)
		c.frozen = nil
	}
}

// GoAway sends GOAWAY, and closes the connection after the requests that are still processed have
// been answered. It does nothing before the connection has started.
func (c *Conn) GoAway(g GoAway) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goAway(g)
}

// goAway is GoAway with mu held.
func (c *Conn) goAway(g GoAway) {
	if c.limit.announced == 0 {
		return
	}
	last := int(c.lastStream) + 2*g.LastOffset
	c.sendGoAway(uint32(max(last, 0)), g.Code, g.Debug)
}

// sendGoAway sends GOAWAY: streams above last are not processed, the others are still answered. It
// never includes a stream that has been answered among the unprocessed ones. mu is held.
func (c *Conn) sendGoAway(last uint32, code http2.ErrCode, debug string) {
	c.goAwayLast = min(c.goAwayLast, max(last, c.lastAnswered))
	_ = c.frames.WriteGoAway(c.goAwayLast, code, []byte(debug))
	c.draining = true
	for id, st := range c.streams {
		if id > c.goAwayLast {
			c.recordUnprocessed(st, "goaway")
			c.remove(st)
		}
	}
	c.wakeWriter()
}

// Reset ends the connection with a TCP reset. That share of the requests in flight, the oldest ones,
// counts as processed.
func (c *Conn) Reset(processedShare float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reset(processedShare)
}

// reset is Reset with mu held.
func (c *Conn) reset(processedShare float64) {
	ids := slices.Sorted(maps.Keys(c.streams))
	processed := int(processedShare * float64(len(ids)))
	for i, id := range ids {
		if st := c.streams[id]; i < processed {
			st.decision.Fault = "reset"
			c.recordUnanswered(st, "reset")
		} else {
			c.recordUnprocessed(st, "reset")
		}
	}
	c.clearStreams()
	_ = c.raw.SetLinger(0)
	c.Close()
}
