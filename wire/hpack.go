// SPDX-License-Identifier: Apache-2.0

package wire

// appendNeverIndexed writes a field that no table keeps: a literal never indexed (RFC 7541 §6.2.3). Its texts stay as they are: the
// Huffman code would spare a fifth of the bytes, and cost a tenth of what this package does for a request.
func appendNeverIndexed(to []byte, name, value string) []byte {
	switch name { // by the static table, RFC 7541 appendix A
	case ":path":
		to = appendInteger(to, neverIndexedPrefix, 4, 4)
	case "authorization":
		to = appendInteger(to, neverIndexedPrefix, 4, 23)
	default:
		to = appendString(append(to, neverIndexedPrefix), name)
	}
	return appendString(to, value)
}

// neverIndexedPrefix begins such a field.
const neverIndexedPrefix = 0x10

// appendString writes a string literal as it is (RFC 7541 §5.2).
func appendString(to []byte, text string) []byte {
	return append(appendInteger(to, 0, 7, len(text)), text...)
}

// appendInteger writes n behind what its first byte begins with, of which it has the last so many bits (RFC 7541 §5.1).
func appendInteger(to []byte, begin byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(to, begin|byte(n))
	}
	to = append(to, begin|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		to = append(to, byte(n)|0x80)
	}
	return append(to, byte(n))
}
