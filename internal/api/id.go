// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// idGenerator returns UUIDs of version 7 (RFC 9562). Each is greater than all earlier ones, also if
// the clock goes back. It is safe for concurrent use.
type idGenerator struct {
	last atomic.Int64 // Unix time in units of 1/4096 ms
}

// ids is shared by all handlers, so that a reload does not break the order.
var ids idGenerator

// next returns a UUID for the time now. It does not read the clock, and several UUIDs can have the
// same time. The 62 random bits come from the runtime's ChaCha8, which the operating system seeds:
// two gateways do not generate the same UUID.
func (g *idGenerator) next(now time.Time) string {
	ticks := now.UnixMilli()<<12 | int64(now.Nanosecond()%1e6)*4096/1e6
	for {
		last := g.last.Load()
		ticks = max(ticks, last+1)
		if g.last.CompareAndSwap(last, ticks) {
			break
		}
	}
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(ticks>>12)<<16|0x7000|uint64(ticks&0xfff)) // 0x7: the version
	binary.BigEndian.PutUint64(id[8:], rand.Uint64()>>2|1<<63)                           // 0b10: the variant
	var text [36]byte
	hex.Encode(text[:8], id[:4])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	return string(text[:])
}
