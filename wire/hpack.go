// SPDX-License-Identifier: Apache-2.0

package wire

// appendNeverIndexed appends a field as a never-indexed literal (RFC 7541 §6.2.3). It does not use
// Huffman coding, which would save a fifth of the bytes but add a tenth to the CPU cost of a
// request.
func appendNeverIndexed(dst []byte, name, value string) []byte {
	switch name { // indexes of the static table, RFC 7541 appendix A
	case ":path":
		dst = appendInteger(dst, neverIndexedPrefix, 4, 4)
	case "authorization":
		dst = appendInteger(dst, neverIndexedPrefix, 4, 23)
	default:
		dst = appendString(append(dst, neverIndexedPrefix), name)
	}
	return appendString(dst, value)
}

// neverIndexedPrefix is the bit pattern that starts a never-indexed literal.
const neverIndexedPrefix = 0x10

// appendString appends a string literal without Huffman coding (RFC 7541 §5.2).
func appendString(dst []byte, s string) []byte {
	return append(appendInteger(dst, 0, 7, len(s)), s...)
}

// appendInteger appends n with a prefix of prefixBits bits (RFC 7541 §5.1). The other bits of the
// first byte come from first.
func appendInteger(dst []byte, first byte, prefixBits, n int) []byte {
	maxPrefix := 1<<prefixBits - 1
	if n < maxPrefix {
		return append(dst, first|byte(n))
	}
	dst = append(dst, first|byte(maxPrefix))
	for n -= maxPrefix; n >= 0x80; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}
