// SPDX-License-Identifier: Apache-2.0

package wire

import "time"

// UseUpStreamIDs leaves so many stream IDs.
func (c *Conn) UseUpStreamIDs(left uint32) { c.nextID = maxStreamID - 2*(left-1) }

// StandStill has the clock go on by d while nothing else does, as when a machine is suspended.
func (c *Conn) StandStill(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.born = c.born.Add(-d)
}
