// SPDX-License-Identifier: Apache-2.0

// Package object writes a JSON object member by member, in the order in which it is told, so that one notification
// always makes the same bytes. It reads no JSON, and checks of a text only that it is UTF-8.
package jsonobj

import (
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Writer appends to Bytes. The zero value is ready; give Bytes room to write without growing.
type Writer struct {
	// Bytes is what was written, and may be appended to where a value is due.
	Bytes []byte
	// Bad is the field of the first text that is not UTF-8, or "". What was written then is not to be sent.
	InvalidField string
}

// Open begins an object as the member of that name; "" is one that stands alone or where a value is due.
func (w *Writer) Open(name string) {
	if name != "" {
		w.Name(name, "")
	}
	w.Bytes = append(w.Bytes, '{')
}

// Close ends the object that was opened last.
func (w *Writer) Close() { w.Bytes = append(w.Bytes, '}') }

// Name begins a member, whose value is due next. field is where the name comes from, if from a sender.
func (w *Writer) Name(name, field string) {
	if w.Bytes[len(w.Bytes)-1] != '{' {
		w.Bytes = append(w.Bytes, ',')
	}
	w.quote(name, field)
	w.Bytes = append(w.Bytes, ':')
}

// Text writes a member unless it is empty. field is where the value comes from.
func (w *Writer) Text(name, value, field string) {
	if value == "" {
		return
	}
	w.Name(name, field)
	w.quote(value, field)
}

// Number writes a member.
func (w *Writer) Number(name string, value int) {
	w.Name(name, "")
	w.Bytes = strconv.AppendInt(w.Bytes, int64(value), 10)
}

// Texts writes a member for every entry, in order of their names. An empty value is a value. field is where all of them
// come from.
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
