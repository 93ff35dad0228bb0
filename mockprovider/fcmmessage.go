// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// fcmMessage is what the service needs to know of a message that fits the schema.
type fcmMessage struct {
	target, value string // token, fid, topic or condition, and what it says
	validateOnly  bool
	collapsible   bool // it has a collapse_key
	size          int  // bytes of text in data and notification
}

// reader walks a body along the schema, keeping the order of its fields, for violations name data by position.
type reader struct {
	dec *jsontext.Decoder
	msg fcmMessage
}

// readMessage returns the message, or the error that the service answers.
func readMessage(body []byte) (fcmMessage, *fcmError) {
	r := reader{dec: jsontext.NewDecoder(bytes.NewReader(body))}
	if fault := r.value(fcmRequest, "", false); fault != nil {
		return r.msg, fault
	}
	if _, err := r.dec.ReadToken(); err != io.EOF {
		return r.msg, fcmSyntax()
	}
	return r.msg, r.msg.check()
}

// value reads one value of the schema f.
func (r *reader) value(f *fcmField, path string, counted bool) *fcmError {
	counted = counted || f.sized
	kind := r.dec.PeekKind()
	switch {
	case kind == 'n' && path != "":
		return r.skip()
	case f.kind == kindMessage && kind == '{':
		return r.object(path, func(name string, _ int) *fcmError { return r.field(f, name, path, counted) })
	case f.kind == kindMap && kind == '{':
		return r.object(path, func(name string, i int) *fcmError { return r.entry(f, name, path, i, counted) })
	case f.kind == kindList && kind == '[':
		return r.list(f, path, counted)
	case f.kind == kindStruct && kind == '{':
		return r.skip()
	}
	return r.scalar(f, path, counted)
}

// object calls member for each of an object's names, with the value yet to be read.
func (r *reader) object(path string, member func(name string, i int) *fcmError) *fcmError {
	if _, err := r.dec.ReadToken(); err != nil {
		return fcmSyntax()
	}
	for i := 0; r.dec.PeekKind() != '}'; i++ {
		name, err := r.dec.ReadToken()
		if err != nil {
			return fcmSyntax()
		}
		if fault := member(name.String(), i); fault != nil {
			return fault
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return fcmSyntax()
	}
	return nil
}

// field reads a message's field.
func (r *reader) field(f *fcmField, name, path string, counted bool) *fcmError {
	schema := f.fields[name]
	if schema == nil {
		return fcmUnknownField(name, path)
	}
	if path == "" {
		return r.value(schema, name, counted)
	}
	return r.value(schema, path+"."+name, counted)
}

// entry reads one pair of a map.
func (r *reader) entry(f *fcmField, key, path string, i int, counted bool) *fcmError {
	if f.keys != nil && !f.keys(key) {
		return fcmInvalid("Invalid data payload key: "+key, path+"["+strconv.Itoa(i)+"].key")
	}
	if counted {
		r.msg.size += len(key)
	}
	if r.dec.PeekKind() == '"' { // the path is spelled out only for an error
		return r.scalar(text, path, counted)
	}
	return r.scalar(text, path+"["+strconv.Itoa(i)+"].value", counted)
}

// list reads an array.
func (r *reader) list(f *fcmField, path string, counted bool) *fcmError {
	if _, err := r.dec.ReadToken(); err != nil {
		return fcmSyntax()
	}
	for i := 0; r.dec.PeekKind() != ']'; i++ {
		if fault := r.value(f.values, path+"["+strconv.Itoa(i)+"]", counted); fault != nil {
			return fault
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return fcmSyntax()
	}
	return nil
}

func (r *reader) skip() *fcmError {
	if r.dec.SkipValue() != nil {
		return fcmSyntax()
	}
	return nil
}

// scalar reads a plain value, and notes what the service must know.
func (r *reader) scalar(f *fcmField, path string, counted bool) *fcmError {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return fcmSyntax()
	}
	value := string(raw)
	if raw.Kind() == '"' {
		unquoted, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return fcmSyntax()
		}
		value = string(unquoted)
	}
	if !f.fits(raw.Kind(), value) {
		return fcmBadValue(path, string(f.kind), string(raw))
	}
	if f.check != nil && !f.check(value) {
		return fcmInvalid("Invalid value at '"+path+"'", path)
	}
	return r.note(f, path, value, counted)
}

// note remembers the target, validate_only and the size.
func (r *reader) note(f *fcmField, path, value string, counted bool) *fcmError {
	if counted {
		r.msg.size += len(value)
	}
	if f.kind == kindBool && path[0] == 'v' {
		r.msg.validateOnly = value == "true"
	}
	if path == "message.android.collapse_key" || path == "message.android.collapseKey" {
		r.msg.collapsible = true
	}
	if !f.target {
		return nil
	}
	name := strings.TrimPrefix(path, "message.")
	if r.msg.target != "" {
		return fcmOneof(name)
	}
	r.msg.target, r.msg.value = name, value
	return nil
}

// fits says whether a JSON value of that kind may stand for the field.
func (f *fcmField) fits(kind jsontext.Kind, value string) bool {
	switch f.kind {
	case kindString:
		return kind == '"'
	case kindBool:
		return kind == 't' || kind == 'f'
	case kindDuration:
		return kind == '"' && duration.MatchString(value)
	case kindEnum:
		return kind == '0' || kind == '"' && slices.ContainsFunc(f.words, func(w string) bool { return strings.EqualFold(w, value) })
	case kindInt:
		_, err := strconv.ParseInt(value, 10, 32)
		return (kind == '0' || kind == '"') && err == nil
	case kindFloat:
		_, err := strconv.ParseFloat(value, 64)
		return (kind == '0' || kind == '"') && err == nil
	}
	return false
}

// check asks what the schema alone cannot say.
func (m fcmMessage) check() *fcmError {
	limit := 4096
	switch m.target {
	case "":
		return fcmInvalid("Recipient of the message is not set.", "")
	case "topic":
		limit = 2048
		if !isTopicF(m.value) {
			return fcmInvalid("Invalid topic name: "+m.value, "message.topic")
		}
	case "condition":
		limit = 2048
		if !isCondition(m.value) {
			return fcmInvalid("Invalid condition expression provided.", "message.condition")
		}
	}
	if m.size > limit {
		return fcmTooBig()
	}
	return nil
}

// fcmUnknownField is the answer to a name that the schema does not have.
func fcmUnknownField(name, path string) *fcmError {
	text := fmt.Sprintf("Invalid JSON payload received. Unknown name %q at '%s': Cannot find field.", name, path)
	if path == "" {
		text = fmt.Sprintf("Invalid JSON payload received. Unknown name %q: Cannot find field.", name)
	}
	return fcmViolation(text, path)
}
