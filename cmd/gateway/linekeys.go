// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// lineKeys give the lines of a file their Idempotency-Keys, the same ones whenever the same file is sent in the same run.
type lineKeys struct{ file, run string }

// withKey returns a line with a key, its own if it has one, and a line end.
func (k lineKeys) withKey(number int, text []byte) []byte {
	out := make([]byte, 0, len(text)+64)
	if len(text) == 0 || text[0] != '{' || hasIdempotencyKey(text) { // the gateway says what is wrong with what is no object
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

func hasIdempotencyKey(text []byte) bool {
	if !bytes.Contains(text, []byte(`"idempotency_key"`)) {
		return false
	}
	var own struct {
		Key *string `json:"idempotency_key"`
	}
	return json.Unmarshal(text, &own) != nil || own.Key != nil
}
