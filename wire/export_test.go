// SPDX-License-Identifier: Apache-2.0

package wire

import "time"

// SetRemainingStreamIDs leaves so many stream IDs.
func (c *Conn) SetRemainingStreamIDs(left uint32) { c.nextID = maxStreamID - 2*(left-1) }

// AdvanceClock has the clock go on by d while nothing else does, as when a machine is suspended.
func (c *Conn) AdvanceClock(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = c.start.Add(-d)
}
