// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"bytes"
	"io"
	"slices"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/jsonobj"
	"github.com/sluice-push/sluice/push"
)

// merge merges the sender's message over the common one, and checks it for what FCM would refuse.
func merge(common jsontext.Value, n *push.Notification) (jsontext.Value, error) {
	raw, ok := parseObject(jsontext.Value(n.FCM.Message))
	if !ok {
		return nil, invalid("fcm.message", invalidPayload, "a JSON object in UTF-8 without duplicate names")
	}
	if err := checkRawTarget(raw, &n.Target); err != nil {
		return nil, err
	}
	if err := checkSchema(raw); err != nil {
		return nil, err
	}
	if err := checkRawSize(raw, n); err != nil { // before the merge, which can add to it
		return nil, err
	}
	normalizeCollapseKey(raw)
	below, _ := parseObject(common)
	merged := overlay(below, raw)
	return merged.marshal(), checkRawSize(merged, n)
}

// checkRawTarget returns an error if the raw message has another target than its notification,
// which determines quotas, receipts and unregistered tokens.
func checkRawTarget(raw members, t *push.Target) error {
	for _, name := range [...]string{"token", "topic", "condition", "fid"} {
		value := raw.get(name)
		if value == nil {
			continue
		}
		if target, isText := unquote(value); !isText || name != targetName(t.Kind()) || target != t.Key() {
			return invalid("fcm.message."+name, invalidTarget, "absent, or the notification's own target")
		}
	}
	return nil
}

// checkRawSize checks the payload size of a raw message. It also checks data, and the data of
// android and webpush, which replaces it on their devices.
func checkRawSize(message members, n *push.Notification) error {
	size, err := dataSize(message.get("data"), "fcm.message.data")
	if err != nil {
		return err
	}
	for _, platform := range [...]struct{ name, field string }{
		{"android", "fcm.message.android.data"}, {"webpush", "fcm.message.webpush.data"},
	} {
		block, _ := parseObject(message.get(platform.name))
		if _, err := dataSize(block.get("data"), platform.field); err != nil {
			return err
		}
	}
	notification, _ := parseObject(message.get("notification"))
	for _, name := range [...]string{"title", "body", "image"} {
		line, _ := unquote(notification.get(name))
		size += len(line)
	}
	if size > payloadLimit(n) {
		return tooLarge("fcm.message", size, n)
	}
	return nil
}

// dataSize returns the size of a data object in bytes: its names and values.
func dataSize(data jsontext.Value, field string) (size int, err error) {
	if data == nil || data.Kind() == 'n' {
		return 0, nil
	}
	entries, ok := parseObject(data)
	for _, entry := range entries {
		value, isText := unquote(entry.value)
		ok = ok && isText
		if isReserved(entry.name) {
			return 0, invalid(field, invalidPayload, reservedNames)
		}
		size += len(entry.name) + len(value)
	}
	if !ok {
		return 0, invalid(field, invalidPayload, "an object whose values are all strings")
	}
	return size, nil
}

// normalizeCollapseKey renames android.collapseKey to collapse_key, as in the common message. FCM
// accepts camel case and snake case of every name, but not both at once.
func normalizeCollapseKey(raw members) {
	at := raw.find("android")
	if at < 0 {
		return
	}
	android, _ := parseObject(raw[at].value)
	if camel := android.find("collapseKey"); camel >= 0 && android.find("collapse_key") < 0 {
		android[camel].name = "collapse_key"
		raw[at].value = android.marshal()
	}
}

// overlay merges above over below. Members that are objects in both are merged recursively.
func overlay(below, above members) members {
	merged := slices.Clone(below)
	for _, m := range above {
		at := below.find(m.name)
		if at < 0 {
			merged = append(merged, m)
			continue
		}
		lower, both := parseObject(below[at].value)
		if upper, ok := parseObject(m.value); ok && both {
			m.value = overlay(lower, upper).marshal()
		}
		merged[at].value = m.value
	}
	return merged
}

// members are the members of an object, in their order and with their original values.
type members []member

type member struct {
	name  string
	value jsontext.Value
}

// parseObject returns the members of a JSON object, and false if v is anything else, has duplicate
// names or is not valid UTF-8.
func parseObject(v jsontext.Value) (members, bool) {
	if v.Kind() != '{' {
		return nil, false
	}
	r := decoderPool.Get().(*objectDecoder)
	defer r.release()
	in := r.reset(v)
	_, err := in.ReadToken()
	found := make(members, 0, 4)
	for err == nil && in.PeekKind() == '"' {
		var m member
		if m, err = nextMember(in, v); err == nil {
			found = append(found, m)
		}
	}
	if err == nil {
		_, err = in.ReadToken()
	}
	if _, end := in.ReadToken(); err != nil || end != io.EOF {
		return nil, false
	}
	return found, true
}

// objectDecoder is a decoder and its source. It is pooled because a decoder allocates large tables.
type objectDecoder struct {
	from bytes.Buffer
	in   *jsontext.Decoder
}

var decoderPool = sync.Pool{New: func() any { return &objectDecoder{in: jsontext.NewDecoder(&bytes.Buffer{})} }}

func (r *objectDecoder) reset(v jsontext.Value) *jsontext.Decoder {
	r.from = *bytes.NewBuffer(v)
	r.in.Reset(&r.from)
	return r.in
}

// release drops the reference to the source and returns the decoder to the pool.
func (r *objectDecoder) release() {
	r.reset(nil)
	decoderPool.Put(r)
}

// nextMember reads one member. Its value is a slice of v, because a value from the decoder is valid
// only until the next read.
func nextMember(in *jsontext.Decoder, v jsontext.Value) (member, error) {
	name, err := in.ReadToken()
	if err != nil {
		return member{}, err
	}
	m := member{name: name.String()}
	value, err := in.ReadValue()
	if err != nil {
		return member{}, err
	}
	end := in.InputOffset()
	m.value = v[end-int64(len(value)) : end : end]
	return m, nil
}

func (m members) find(name string) int {
	return slices.IndexFunc(m, func(candidate member) bool { return candidate.name == name })
}

// get returns the value with that name, or nil.
func (m members) get(name string) jsontext.Value {
	if at := m.find(name); at >= 0 {
		return m[at].value
	}
	return nil
}

// marshal returns the members as an object.
func (m members) marshal() jsontext.Value {
	size := len("{}")
	for _, entry := range m {
		size += len(entry.name) + len(entry.value) + len(`"":,`)
	}
	o := jsonobj.Writer{Bytes: make([]byte, 0, size)}
	o.Open("")
	for _, entry := range m {
		o.Name(entry.name, "")
		o.Bytes = append(o.Bytes, entry.value...)
	}
	o.Close()
	return o.Bytes
}

// unquote returns the value of a JSON string.
func unquote(v jsontext.Value) (string, bool) {
	if v.Kind() != '"' {
		return "", false
	}
	s, err := jsontext.AppendUnquote(nil, v)
	return string(s), err == nil
}
