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

// What appends a member here ends it with a comma, and leaves it out where its value is the empty one.

func appendKey(b []byte, name string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	return append(b, `":`...)
}

// appendClose ends an object, whose last comma becomes its brace.
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

// appendString writes an empty text too.
func appendString(b []byte, name, text string) []byte {
	return append(appendQuoted(appendKey(b, name), text), ',')
}

func appendQuoted(b []byte, text string) []byte {
	if !needsNoEscaping(text) {
		quoted, _ := json.Marshal(text) // text has a JSON form always
		return append(b, quoted...)
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// needsNoEscaping reports whether JSON quotes text without changing it.
func needsNoEscaping(text string) bool {
	ascii := true
	for i := range len(text) {
		c := text[i]
		if c < ' ' || c == '"' || c == '\\' {
			return false
		}
		ascii = ascii && c < utf8.RuneSelf
	}
	return ascii || utf8.ValidString(text)
}

// appendStringMap writes an object with a member for every entry, in order of their names.
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

// appendValidTime refuses a time that could not be read back.
func appendValidTime(b []byte, name string, t time.Time) ([]byte, error) {
	whole, err := t.AppendText(append(appendKey(b, name), '"'))
	if err != nil {
		return b, fmt.Errorf("push: %s: %w", name, err)
	}
	return append(whole, `",`...), nil
}

func appendBase64(b []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(appendKey(b, name), '"')
	return append(base64.StdEncoding.AppendEncode(b, value), `",`...)
}

// appendRawJSON writes what is JSON already, on one line, or says that it is none.
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
