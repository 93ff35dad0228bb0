// SPDX-License-Identifier: Apache-2.0

package push

import "encoding/binary"

// BroadcastLine is the line of a broadcast that a notification was made for. It is in the ID of the
// notification, a UUID of version 8, so that every gateway that makes a notification for a line makes
// one with the same ID. Like a UUID of version 7, the ID starts with the time in milliseconds, that at
// which the broadcast was created.
type BroadcastLine struct {
	// Broadcast is the ID of the broadcast, which has no line.
	Broadcast [16]byte
	// Line is the number of the line, from 1.
	Line uint32
	// Recall is set if the notification recalls an earlier one for the line.
	Recall bool
	// Variant is the number of the variant of the message, at most MaxVariant.
	Variant uint8
}

// MaxVariant is the largest number of a variant.
const MaxVariant = 63

// The last 62 bits of an ID are, from the highest one: 22 random bits of the broadcast, its purpose, the
// variant, and the line. They are mixed, because the index of the history uses them as a hash.
const (
	lineBits    = 32
	variantBits = 6
	purposeBits = 2
	mixedBits   = 62
	mixedMask   = 1<<mixedBits - 1

	toSend, toRecall = 1, 2 // the purposes of notifications
)

// BroadcastID returns an ID for a broadcast that is created at a time in milliseconds since 1970. It uses 34
// bits of random.
func BroadcastID(millis int64, random uint64) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:8], uint64(millis)<<16|8<<12|random&0xfff)
	putMixed(&id, random>>12<<(lineBits+variantBits+purposeBits)&mixedMask)
	return id
}

// ID returns the ID of the notification for the line.
func (l BroadcastLine) ID() [16]byte {
	id, purpose := l.Broadcast, uint64(toSend)
	if l.Recall {
		purpose = toRecall
	}
	putMixed(&id, mixed(&id)|purpose<<(lineBits+variantBits)|uint64(l.Variant&MaxVariant)<<lineBits|uint64(l.Line))
	return id
}

// ParseBroadcastLine returns the line that a notification with this ID was made for. It returns false if it
// was made for none.
func ParseBroadcastLine(id [16]byte) (l BroadcastLine, ok bool) {
	if id[6]>>4 != 8 || id[8]>>6 != 2 {
		return l, false
	}
	value := mixed(&id)
	purpose := value >> (lineBits + variantBits) & (1<<purposeBits - 1)
	if purpose != toSend && purpose != toRecall {
		return l, false
	}
	l = BroadcastLine{Broadcast: id, Line: uint32(value), Recall: purpose == toRecall, Variant: uint8(value >> lineBits & MaxVariant)}
	putMixed(&l.Broadcast, value>>(lineBits+variantBits+purposeBits)<<(lineBits+variantBits+purposeBits))
	return l, true
}

// mixFactor is odd, so multiplication by it is a bijection of the numbers of 62 bits. unmixFactor is its
// inverse.
const mixFactor = 0x2545f4914f6cdd1d & mixedMask

var unmixFactor = func() uint64 {
	inverse := uint64(mixFactor)
	for range 6 { // each step doubles the number of bits that are right
		inverse *= 2 - mixFactor*inverse
	}
	return inverse & mixedMask
}()

func putMixed(id *[16]byte, value uint64) {
	value = value * mixFactor & mixedMask
	value ^= value >> (mixedBits / 2)
	value = value * mixFactor & mixedMask
	binary.BigEndian.PutUint64(id[8:], 2<<mixedBits|value)
}

func mixed(id *[16]byte) uint64 {
	value := binary.BigEndian.Uint64(id[8:]) & mixedMask
	value = value * unmixFactor & mixedMask
	value ^= value >> (mixedBits / 2)
	return value * unmixFactor & mixedMask
}
