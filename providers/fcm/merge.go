// SPDX-License-Identifier: Apache-2.0

package fcm

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/jsonobj"
	"github.com/sluice-push/sluice/push"
)

// merge returns the message: the raw one, merged over the one made from the common fields. It checks
// the raw one for what FCM would refuse.
func merge(n *push.Notification) (jsontext.Value, error) {
	raw, err := parseRaw(n)
	if err != nil {
		return nil, err
	}
	if err := checkRawSize(raw, n); err != nil { // before the merge, which can add to it
		return nil, err
	}
	merged, err := mergeCommon(n, derived{}, raw)
	if err != nil {
		return nil, err
	}
	if err := checkRawSize(merged, n); err != nil {
		return nil, err
	}
	merged, err = mergeCommon(n, deriveFromMessage(n, merged), raw)
	return merged.marshal(), err
}

// parseRaw parses and checks the raw message, and normalizes its names.
func parseRaw(n *push.Notification) (members, error) {
	raw, ok := parseObject(jsontext.Value(n.FCM.Message))
	if !ok {
		return nil, invalid("fcm.message", invalidPayload, "a JSON object in UTF-8 without duplicate names")
	}
	if err := checkRawTarget(raw, &n.Target); err != nil {
		return nil, err
	}
	if err := messageFields.check(n, "fcm.message", raw); err != nil {
		return nil, err
	}
	normalize(raw)
	if raw.has("android") && raw.has("android_v2") {
		return nil, invalid("fcm.message.android_v2", invalidPayload, "absent if android is set: FCM accepts only one of them")
	}
	return raw, nil
}

// mergeCommon merges raw over the message made from the common fields and d.
func mergeCommon(n *push.Notification, d derived, raw members) (members, error) {
	common := jsonobj.Writer{Bytes: make([]byte, 0, sizeHint(n))}
	appendCommon(&common, n, d)
	if common.InvalidField != "" {
		return nil, invalid(common.InvalidField, invalidField, "valid UTF-8")
	}
	below, _ := parseObject(common.Bytes)
	return overlay(below, raw), nil
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

// checkRawSize checks the payload size of a message: that of the texts of the notification and of
// data.
func checkRawSize(message members, n *push.Notification) error {
	size := 0
	for _, entry := range message.object("data") {
		value, _ := unquote(entry.value)
		size += len(entry.name) + len(value)
	}
	notification := message.object("notification")
	for _, name := range [...]string{"title", "body", "image"} {
		size += len(notification.text(name))
	}
	if size > payloadLimit(n) {
		return tooLarge("fcm.message", size, n)
	}
	return nil
}

// normalize changes names in the raw message to those of the common message, so that the merge finds
// equal names: to snake case, and those of headers, which are case-insensitive, to one spelling.
func normalize(raw members) {
	raw.rename(messageFields.canonical)
	for name, one := range map[string]fields{"android": androidFields, "android_v2": androidV2Fields, "apns": apnsFields, "webpush": webPushFields} {
		raw.update(name, func(block members) {
			block.rename(one.canonical)
			block.update("headers", func(headers members) { headers.rename(canonicalHeader) })
		})
	}
}

// canonical returns a field's name in snake case, which f has, and other names unchanged.
func (f fields) canonical(name string) string {
	if snake := toSnakeCase(name); f.known(snake) {
		return snake
	}
	return name
}

// canonicalHeader returns the spelling of a header's name in the common message. Other names are
// returned unchanged.
func canonicalHeader(name string) string {
	switch lower := strings.ToLower(name); {
	case lower == "ttl":
		return "TTL"
	case lower == "urgency":
		return "Urgency"
	case strings.HasPrefix(lower, "apns-"):
		return lower
	}
	return name
}

// rename replaces the name of each member.
func (m members) rename(to func(string) string) {
	for i := range m {
		m[i].name = to(m[i].name)
	}
}

// update applies change to the object with that name, if there is one.
func (m members) update(name string, change func(members)) {
	at := m.find(name)
	if at < 0 {
		return
	}
	if object, ok := parseObject(m[at].value); ok {
		change(object)
		m[at].value = object.marshal()
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
