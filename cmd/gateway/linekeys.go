// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// lineKeys generates idempotency keys for the lines of a file. The same line of the same file in
// the same run always gets the same key.
type lineKeys struct{ file, run string }

// withKey returns the line with an idempotency key and a line end. It keeps a key that the line
// has.
func (k lineKeys) withKey(number int, text []byte) []byte {
	out := make([]byte, 0, len(text)+64)
	if len(text) == 0 || text[0] != '{' || hasIdempotencyKey(text) { // the gateway rejects a line that is not an object
		return append(append(out, text...), '\n')
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%s", k.file, k.run, number, text))
	out = append(out, `{"idempotency_key":"file-`...)
	out = append(hex.AppendEncode(out, sum[:16]), '"')
	if rest := bytes.TrimSpace(text[1:]); len(rest) > 0 && rest[0] != '}' {
		out = append(out, ',')
	}
	return append(append(out, text[1:]...), '\n')
}

// hasIdempotencyKey reports whether the line has a key. It also returns true if the line is
// invalid.
func hasIdempotencyKey(text []byte) bool {
	if !bytes.Contains(text, []byte(`"idempotency_key"`)) {
		return false
	}
	var n struct {
		Key *string `json:"idempotency_key"`
	}
	return json.Unmarshal(text, &n) != nil || n.Key != nil
}
