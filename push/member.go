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

func appendName(b []byte, name string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	return append(b, `":`...)
}

// appendEnd ends an object, whose last comma becomes its brace.
func appendEnd(b []byte) []byte {
	if last := len(b) - 1; b[last] == ',' {
		b[last] = '}'
		return b
	}
	return append(b, '}')
}

func appendText(b []byte, name, text string) []byte {
	if text == "" {
		return b
	}
	return appendAnyText(b, name, text)
}

// appendAnyText writes an empty text too.
func appendAnyText(b []byte, name, text string) []byte {
	return append(appendQuoted(appendName(b, name), text), ',')
}

func appendQuoted(b []byte, text string) []byte {
	if !verbatim(text) {
		quoted, _ := json.Marshal(text) // text has a JSON form always
		return append(b, quoted...)
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"')
}

// verbatim reports whether JSON quotes text without changing it.
func verbatim(text string) bool {
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

// appendTexts writes an object with a member for every entry, in order of their names.
func appendTexts(b []byte, name string, entries map[string]string) []byte {
	if len(entries) == 0 {
		return b
	}
	b = append(appendName(b, name), '{')
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		b = append(appendQuoted(b, key), ':')
		b = append(appendQuoted(b, entries[key]), ',')
	}
	return append(appendEnd(b), ',')
}

func appendNumber(b []byte, name string, v float64) []byte {
	return append(strconv.AppendFloat(appendName(b, name), v, 'f', -1, 64), ',')
}

func appendCount(b []byte, name string, n int) []byte {
	return append(strconv.AppendInt(appendName(b, name), int64(n), 10), ',')
}

func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	b = append(appendName(b, name), '"')
	return append(t.AppendFormat(b, time.RFC3339Nano), `",`...)
}

// appendMoment refuses a time that could not be read back.
func appendMoment(b []byte, name string, t time.Time) ([]byte, error) {
	whole, err := t.AppendText(append(appendName(b, name), '"'))
	if err != nil {
		return b, fmt.Errorf("push: %s: %w", name, err)
	}
	return append(whole, `",`...), nil
}

func appendBytes(b []byte, name string, value []byte) []byte {
	if len(value) == 0 {
		return b
	}
	b = append(appendName(b, name), '"')
	return append(base64.StdEncoding.AppendEncode(b, value), `",`...)
}

// appendRaw writes what is JSON already, on one line, or says that it is none.
func appendRaw(b []byte, name string, value json.RawMessage) ([]byte, error) {
	if len(value) == 0 {
		return b, nil
	}
	compact := bytes.NewBuffer(appendName(b, name))
	if err := json.Compact(compact, value); err != nil {
		return b, fmt.Errorf("push: %s: %w", name, err)
	}
	return append(compact.Bytes(), ','), nil
}
