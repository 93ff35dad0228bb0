// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// message is the part of a message that the service uses.
type message struct {
	target, value string // name and value of the field token, fid, topic or condition
	validateOnly  bool
	collapsible   bool // it has a collapse_key
	size          int  // bytes of text in the parts that count toward the size limit
	payloadSize   int  // bytes of apns.payload in its shortest encoding, which is limited on its own

	android, androidV2 bool // it has these fields, of which FCM allows only one
}

// reader reads a body along the schema. It keeps the order of the fields, because errors refer to
// data by position.
type reader struct {
	dec *jsontext.Decoder
	msg message
}

// parseMessage returns the message, or the error of the response. With an error, the message holds
// what was read before.
func parseMessage(body []byte) (message, *fcmError) {
	r := reader{dec: jsontext.NewDecoder(bytes.NewReader(body))}
	if err := r.value(requestSchema, "", false); err != nil {
		return r.msg, err
	}
	if _, err := r.dec.ReadToken(); err != io.EOF {
		return r.msg, errSyntax()
	}
	return r.msg, r.msg.check()
}

// value reads one value of the schema f. counted is true if its text counts toward the size limit.
func (r *reader) value(f *field, path string, counted bool) *fcmError {
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
		return r.structure(counted)
	}
	return r.scalar(f, path, counted)
}

// object calls member for each name of an object; member reads the value.
func (r *reader) object(path string, member func(name string, i int) *fcmError) *fcmError {
	if _, err := r.dec.ReadToken(); err != nil {
		return errSyntax()
	}
	for i := 0; r.dec.PeekKind() != '}'; i++ {
		name, err := r.dec.ReadToken()
		if err != nil {
			return errSyntax()
		}
		if err := member(name.String(), i); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return errSyntax()
	}
	return nil
}

// field reads a field of a message.
func (r *reader) field(f *field, name, path string, counted bool) *fcmError {
	schema := f.fields[name]
	if schema == nil {
		return errUnknownField(name, path)
	}
	if path == "" {
		return r.value(schema, name, counted)
	}
	if set := r.dec.PeekKind() != 'n'; set && path == "message" {
		r.msg.android = r.msg.android || name == "android"
		r.msg.androidV2 = r.msg.androidV2 || schema == androidConfigV2
	}
	return r.value(schema, path+"."+name, counted)
}

// entry reads one entry of a map.
func (r *reader) entry(f *field, key, path string, i int, counted bool) *fcmError {
	if f.keys != nil && !f.keys(key) {
		return newFieldError("Invalid data payload key: "+key, path+"["+strconv.Itoa(i)+"].key")
	}
	if counted {
		r.msg.size += len(key)
	}
	if r.dec.PeekKind() == '"' { // the full path is needed only for an error
		return r.scalar(text, path, counted)
	}
	return r.scalar(text, path+"["+strconv.Itoa(i)+"].value", counted)
}

// list reads an array.
func (r *reader) list(f *field, path string, counted bool) *fcmError {
	if _, err := r.dec.ReadToken(); err != nil {
		return errSyntax()
	}
	for i := 0; r.dec.PeekKind() != ']'; i++ {
		if err := r.value(f.items, path+"["+strconv.Itoa(i)+"]", counted); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return errSyntax()
	}
	return nil
}

// structure reads an object of any content.
func (r *reader) structure(counted bool) *fcmError {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return errSyntax()
	}
	if counted {
		raw = raw.Clone()
		_ = raw.Format() // valid, because the decoder has checked it
		r.msg.payloadSize += len(raw)
	}
	return nil
}

func (r *reader) skip() *fcmError {
	if r.dec.SkipValue() != nil {
		return errSyntax()
	}
	return nil
}

// scalar reads a value that is neither an object nor a list.
func (r *reader) scalar(f *field, path string, counted bool) *fcmError {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return errSyntax()
	}
	value := string(raw)
	if raw.Kind() == '"' {
		unquoted, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return errSyntax()
		}
		value = string(unquoted)
	}
	if !f.allows(raw.Kind(), value) {
		return errBadValue(path, string(f.kind), string(raw))
	}
	if f.check != nil && !f.check(value) {
		return newFieldError("Invalid value at '"+path+"'", path)
	}
	return r.keep(f, path, value, counted)
}

// keep puts the parts that the service uses into the message.
func (r *reader) keep(f *field, path, value string, counted bool) *fcmError {
	if counted {
		r.msg.size += len(value)
	}
	if f.kind == kindBool && path[0] == 'v' {
		r.msg.validateOnly = value == "true"
	}
	if strings.HasPrefix(path, "message.android") && (strings.HasSuffix(path, ".collapse_key") || strings.HasSuffix(path, ".collapseKey")) {
		r.msg.collapsible = true
	}
	if !f.target {
		return nil
	}
	name := strings.TrimPrefix(path, "message.")
	if r.msg.target != "" {
		return errSecondTarget(name)
	}
	r.msg.target, r.msg.value = name, value
	return nil
}

// allows reports whether the field allows a JSON value of that kind.
func (f *field) allows(kind jsontext.Kind, value string) bool {
	switch f.kind {
	case kindString:
		return kind == '"'
	case kindBool:
		return kind == 't' || kind == 'f'
	case kindDuration:
		return kind == '"' && isDuration(value)
	case kindEnum:
		return kind == '0' || kind == '"' && slices.ContainsFunc(f.values, func(w string) bool { return strings.EqualFold(w, value) })
	case kindInt:
		_, err := strconv.ParseInt(value, 10, 32)
		return (kind == '0' || kind == '"') && err == nil
	case kindFloat:
		_, err := strconv.ParseFloat(value, 64)
		return (kind == '0' || kind == '"') && err == nil
	}
	return false
}

// check checks what the schema cannot express: the target and the size.
func (m message) check() *fcmError {
	limit := 4096
	switch m.target {
	case "":
		return newFieldError("Recipient of the message is not set.", "")
	case "topic":
		limit = 2048
		if !isTopic(m.value) {
			return newFieldError("Invalid topic name: "+m.value, "message.topic")
		}
	case "condition":
		limit = 2048
		if !isCondition(m.value) {
			return newFieldError("Invalid condition expression provided.", "message.condition")
		}
	}
	if m.android && m.androidV2 {
		return newFieldError("Only one of android and android_v2 may be set.", "message.android_v2")
	}
	if max(m.size, m.payloadSize) > limit {
		return errTooBig()
	}
	return nil
}
