// SPDX-License-Identifier: Apache-2.0

package webhooks

// Signature is what sign computes, for the test vector of others.
func Signature(s Secret, id, timestamp, body string) string {
	return s.signature(id, timestamp, []byte(body))
}
