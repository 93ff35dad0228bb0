// SPDX-License-Identifier: Apache-2.0

// Package jsonobj writes a JSON object member by member, in the order of the calls, so that equal
// notifications have equal bytes. It does not parse JSON. It checks only that strings are valid
// UTF-8.
package jsonobj

import (
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Writer appends to Bytes. The zero value is ready to use. Give Bytes enough capacity to avoid
// growing it.
type Writer struct {
	// Bytes is the output so far. A caller can append a value to it after Name.
	Bytes []byte
	// InvalidField is the field of the first string that is not valid UTF-8, or "". If it is set,
	// the output must not be used.
	InvalidField string
}

// Open starts an object as the member with that name. The name "" starts a top-level object, or one
// that is the value after Name.
func (w *Writer) Open(name string) {
	if name != "" {
		w.Name(name, "")
	}
	w.Bytes = append(w.Bytes, '{')
}

// Close ends the innermost object.
func (w *Writer) Close() { w.Bytes = append(w.Bytes, '}') }

// Name starts a member. Its value must follow. field is the field that the name comes from, if it
// comes from a notification.
func (w *Writer) Name(name, field string) {
	if w.Bytes[len(w.Bytes)-1] != '{' {
		w.Bytes = append(w.Bytes, ',')
	}
	w.quote(name, field)
	w.Bytes = append(w.Bytes, ':')
}

// Text writes a string member, unless value is empty. field is the field that the value comes from.
func (w *Writer) Text(name, value, field string) {
	if value == "" {
		return
	}
	w.Name(name, field)
	w.quote(value, field)
}

// Number writes a number member.
func (w *Writer) Number(name string, value int) {
	w.Name(name, "")
	w.Bytes = strconv.AppendInt(w.Bytes, int64(value), 10)
}

// Texts writes a string member for each entry, sorted by name, including those with empty values.
// field is the field that the entries come from.
func (w *Writer) Texts(entries map[string]string, field string) {
	var few [16]string
	names := few[:0]
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		w.Name(name, field)
		w.quote(entries[name], field)
	}
}

func (w *Writer) quote(s, field string) {
	var err error
	if w.Bytes, err = jsontext.AppendQuote(w.Bytes, s); err != nil && w.InvalidField == "" {
		w.InvalidField = field
	}
}
