// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"iter"
)

// Items returns the items of a message with their indexes: JSON texts, or the records of a Log. It
// skips damaged records. Those of an encrypted message stay encrypted; Engine.Items decrypts them.
func Items(message []byte) iter.Seq2[int, []byte] {
	switch {
	case len(message) > 0 && message[0] == recordFormat:
		return records(message[1:])
	case isEncrypted(message):
		_, sealed := boxOf(message)
		return records(sealed)
	}
	return func(yield func(int, []byte) bool) {
		index := 0
		for item := range bytes.Lines(message) {
			if !yield(index, bytes.TrimSuffix(item, []byte{'\n'})) {
				return
			}
			index++
		}
	}
}

// recordFormat is the first byte of a message with records, and encryptedFormat that of one with encrypted
// records. No JSON text starts with them.
const (
	recordFormat    = 1
	encryptedFormat = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord appends the length of data, its CRC-32C, and data.
func appendRecord(b, data []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(data, castagnoli))
	return append(b, data...)
}

// records returns the undamaged records in b. A damaged length ends them.
func records(b []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for index := 0; len(b) > 0; index++ {
			length, n := binary.Uvarint(b)
			if n <= 0 || uint64(len(b)-n) < 4 || uint64(len(b)-n-4) < length {
				return
			}
			sum, data := binary.LittleEndian.Uint32(b[n:]), b[n+4:n+4+int(length)]
			b = b[n+4+int(length):]
			if crc32.Checksum(data, castagnoli) == sum && !yield(index, data) {
				return
			}
		}
	}
}
