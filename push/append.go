// SPDX-License-Identifier: Apache-2.0

package push

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"
)

// The append functions below write one member of a JSON object, followed by a comma. They write
// nothing if the value is empty, unless stated otherwise.

func appendKey(b []byte, name string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	return append(b, `":`...)
}

// appendClose closes an object and replaces its trailing comma.
func appendClose(b []byte) []byte {
	if last := len(b) - 1; b[last] == ',' {
		b[last] = '}'
		return b
	}
	return append(b, '}')
}

func appendNonEmpty(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	return appendString(b, name, text)
}

// appendString also writes an empty string.
func appendString(b []byte, name, text string) []byte {
	return append(appendQuoted(appendKey(b, name), text), ',')
}

func appendQuoted(b []byte, text string) []byte {
	if !needsNoEscaping(text) {
		quoted, _ := json.Marshal(text) // a string always has a JSON form
		return append(b, quoted...)
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// needsNoEscaping reports whether text is its own JSON string when put in quotes.
func needsNoEscaping(text string) bool {
	rest := text
	for len(rest) >= 8 && isPlain8(rest) {
		rest = rest[8:]
	}
	ascii := true
	for i := range len(rest) {
		c := rest[i]
		if c < ' ' || c == '"' || c == '\\' {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || utf8.ValidString(text)
}

// isPlain8 reports whether the first eight bytes of text are ASCII and need no escaping. It compares
// all of them at once: the high bit of a byte of the result is set if the byte is not plain.
func isPlain8(text string) bool {
	const each, high = 0x0101010101010101, 0x8080808080808080
	b := text[:8]
	x := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
	quote, backslash := x^'"'*each, x^'\\'*each
	return (x|(x-' '*each)|(quote-each)|(backslash-each))&high == 0
}

// appendStringMap writes entries as an object, sorted by name.
func appendStringMap(b []byte, name string, entries map[string]string) []byte {
	if len(entries) == 0 {
		return b
	}
	b = append(appendKey(b, name), '{')
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		b = append(appendQuoted(b, key), ':')
		b = append(appendQuoted(b, entries[key]), ',')
	}
	return append(appendClose(b), ',')
}

func appendStrings(b []byte, name string, texts []string) []byte {
	if len(texts) == 0 {
		return b
	}
	b = append(appendKey(b, name), '[')
	for _, text := range texts {
		b = append(appendQuoted(b, text), ',')
	}
	b[len(b)-1] = ']'
	return append(b, ',')
}

func appendFloat(b []byte, name string, v float64) []byte {
	return append(strconv.AppendFloat(appendKey(b, name), v, 'f', -1, 64), ',')
}

func appendInt(b []byte, name string, n int) []byte {
	return append(strconv.AppendInt(appendKey(b, name), int64(n), 10), ',')
}

func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	b = append(appendKey(b, name), '"')
	return append(t.AppendFormat(b, time.RFC3339Nano), `",`...)
}

// appendValidTime writes a zero time too, and returns an error for a time that RFC 3339 cannot
// represent.
func appendValidTime(b []byte, name string, t time.Time) ([]byte, error) {
	appended, err := t.AppendText(append(appendKey(b, name), '"'))
	if err != nil {
		return b, fmt.Errorf("push: %s: %w", name, err)
	}
	return append(appended, `",`...), nil
}

func appendBase64(b []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(appendKey(b, name), '"')
	return append(base64.StdEncoding.AppendEncode(b, value), `",`...)
}

// appendRawJSON writes value, which must be JSON, without whitespace. It returns an error if value
// is not valid JSON.
func appendRawJSON(b []byte, name string, value json.RawMessage) ([]byte, error) {
	if len(value) == 0 {
		return b, nil
	}
	compact := bytes.NewBuffer(appendKey(b, name))
	if err := json.Compact(compact, value); err != nil {
		return b, fmt.Errorf("push: %s: %w", name, err)
	}
	return append(compact.Bytes(), ','), nil
}
