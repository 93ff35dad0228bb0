// SPDX-License-Identifier: Apache-2.0

package wire

import "time"

// SetRemainingStreamIDs leaves the connection n unused stream IDs.
func (c *Conn) SetRemainingStreamIDs(n uint32) { c.nextID = maxStreamID - 2*(n-1) }

// AdvanceClock moves the connection's clock forward by d, as after the machine was suspended.
func (c *Conn) AdvanceClock(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.start = c.start.Add(-d)
}
