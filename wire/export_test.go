// SPDX-License-Identifier: Apache-2.0

package wire

// UseUpStreamIDs leaves so many stream IDs.
func (c *Conn) UseUpStreamIDs(left uint32) { c.nextID = maxStreamID - 2*(left-1) }
