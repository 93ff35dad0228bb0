// SPDX-License-Identifier: Apache-2.0

package jetstream

import "errors"

// FailWrites makes the embedded server restart, as after a failed write.
func FailWrites(e *Engine) { e.server.recordFailure(errors.New("test")) }

// AlterRecord flips a bit of a short record and makes its checksum valid again.
func AlterRecord(record []byte) {
	const start = 1 + 4
	record[start] ^= 1
	copy(record, appendRecord(nil, record[start:]))
}
