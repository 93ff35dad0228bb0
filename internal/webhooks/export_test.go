// SPDX-License-Identifier: Apache-2.0

package webhooks

// Signature exports signature for the test vector.
func Signature(s Secret, id, timestamp, body string) string {
	return s.signature(id, timestamp, []byte(body))
}
