// SPDX-License-Identifier: Apache-2.0

package apns

import (
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// object appends JSON, member by member.
type object struct {
	buf []byte
	bad string // the first field that is not UTF-8
}

// open begins an object as the member of that name; "" is the outermost.
func (o *object) open(name string) {
	if name != "" {
		o.name(name, "")
	}
	o.buf = append(o.buf, '{')
}

func (o *object) close() { o.buf = append(o.buf, '}') }

// name begins a member. field is where the name comes from, if from the sender.
func (o *object) name(name, field string) {
	if o.buf[len(o.buf)-1] != '{' {
		o.buf = append(o.buf, ',')
	}
	o.quote(name, field)
	o.buf = append(o.buf, ':')
}

// text appends a member unless it is empty. field is where the value comes from.
func (o *object) text(name, value, field string) {
	if value == "" {
		return
	}
	o.name(name, field)
	o.quote(value, field)
}

func (o *object) number(name string, value int) {
	o.name(name, "")
	o.buf = strconv.AppendInt(o.buf, int64(value), 10)
}

func (o *object) quote(s, field string) {
	var err error
	if o.buf, err = jsontext.AppendQuote(o.buf, s); err != nil && o.bad == "" {
		o.bad = field
	}
}

// data appends a member for every entry, in order of their names, so that one
// notification always makes the same bytes.
func (o *object) data(entries map[string]string) {
	var few [16]string
	names := few[:0]
	for name := range entries {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		o.name(name, "data")
		o.quote(entries[name], "data")
	}
}
