// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// messageTemplate is a message to one platform in one language and variant.
type messageTemplate struct {
	static  push.Notification // what does not depend on the recipient, shared by all notifications
	copies  []func(*push.Notification)
	strings []stringTemplate
}

// stringTemplate is a string of a message with variables.
type stringTemplate struct {
	template
	set func(n *push.Notification, text string)
}

// simpleStrings are the strings of a notification that are not in a map or a block.
var simpleStrings = []struct {
	field string
	of    func(*push.Notification) *string
}{
	{"title", func(n *push.Notification) *string { return &n.Title }},
	{"subtitle", func(n *push.Notification) *string { return &n.Subtitle }},
	{"body", func(n *push.Notification) *string { return &n.Body }},
	{"image", func(n *push.Notification) *string { return &n.Image }},
	{"sound", func(n *push.Notification) *string { return &n.Sound }},
	{"collapse_key", func(n *push.Notification) *string { return &n.CollapseKey }},
}

// newMessageTemplate finds the variables in a notification without a target.
func newMessageTemplate(n *push.Notification) (*messageTemplate, error) {
	m := &messageTemplate{static: *n}
	for _, s := range simpleStrings {
		if err := m.addText(s.field, *s.of(n), func(n *push.Notification, text string) { *s.of(n) = text }); err != nil {
			return nil, err
		}
	}
	data := func(n *push.Notification) map[string]string { return n.Data }
	if err := m.addMap("data", data, func(n *push.Notification) { n.Data = maps.Clone(n.Data) }); err != nil {
		return nil, err
	}
	for _, add := range []func() error{m.addAPNs, m.addFCM, m.addWebPush} {
		if err := add(); err != nil {
			return nil, err
		}
	}
	used := 0
	for i := range m.strings {
		used += len(m.strings[i].parts)
	}
	if used > maxParts {
		return nil, invalid("", "must use fewer variables: at most 256 times in all")
	}
	return m, nil
}

// maxParts bounds the size of a rendered message.
const maxParts = 512

// addText adds a string if it has variables.
func (m *messageTemplate) addText(field, text string, set func(*push.Notification, string)) error {
	if !hasVariables(text) {
		return nil
	}
	t, err := parseTemplate(field, text)
	m.strings = append(m.strings, stringTemplate{t, set})
	return err
}

// addJSON adds a JSON value if strings in it have variables.
func (m *messageTemplate) addJSON(field string, value []byte, set func(*push.Notification, string)) error {
	t, err := parseJSON(field, value)
	if len(t.parts) > 1 || len(t.parts) == 1 && t.parts[0].literal != string(value) {
		m.strings = append(m.strings, stringTemplate{t, set})
	}
	return err
}

// addMap adds the strings of a map that have variables. own replaces the map by a copy.
func (m *messageTemplate) addMap(field string, of func(*push.Notification) map[string]string, own func(*push.Notification)) error {
	entries, before := of(&m.static), len(m.strings)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if err := m.addText(field+"."+name, entries[name], func(n *push.Notification, text string) { of(n)[name] = text }); err != nil {
			return err
		}
	}
	m.copyIf(len(m.strings) > before, own)
	return nil
}

// copyIf makes Render call own first, if the notification gets strings of its own.
func (m *messageTemplate) copyIf(changed bool, own func(*push.Notification)) {
	if changed {
		m.copies = append(m.copies, own)
	}
}

func (m *messageTemplate) addAPNs() error {
	if m.static.APNs == nil {
		return nil
	}
	before := len(m.strings)
	err := m.addJSON("apns.payload", m.static.APNs.Payload, func(n *push.Notification, text string) { n.APNs.Payload = json.RawMessage(text) })
	if err != nil {
		return err
	}
	headers := func(n *push.Notification) map[string]string { return n.APNs.Headers }
	if err := m.addMap("apns.headers", headers, func(*push.Notification) {}); err != nil {
		return err
	}
	m.copyIf(len(m.strings) > before, func(n *push.Notification) {
		block := *n.APNs
		block.Headers = maps.Clone(block.Headers)
		n.APNs = &block
	})
	return nil
}

func (m *messageTemplate) addFCM() error {
	if m.static.FCM == nil {
		return nil
	}
	before := len(m.strings)
	err := m.addJSON("fcm.message", m.static.FCM.Message, func(n *push.Notification, text string) { n.FCM.Message = json.RawMessage(text) })
	m.copyIf(len(m.strings) > before, func(n *push.Notification) {
		block := *n.FCM
		n.FCM = &block
	})
	return err
}

func (m *messageTemplate) addWebPush() error {
	if m.static.WebPush == nil {
		return nil
	}
	before := len(m.strings)
	setPayload := func(n *push.Notification, text string) { n.WebPush.Payload = text }
	var err error
	if payload := m.static.WebPush.Payload; jsontext.Value(payload).IsValid() {
		err = m.addJSON("webpush.payload", []byte(payload), setPayload)
	} else {
		err = m.addText("webpush.payload", payload, setPayload)
	}
	if err != nil {
		return err
	}
	headers := func(n *push.Notification) map[string]string { return n.WebPush.Headers }
	if err := m.addMap("webpush.headers", headers, func(*push.Notification) {}); err != nil {
		return err
	}
	m.copyIf(len(m.strings) > before, func(n *push.Notification) {
		block := *n.WebPush
		block.Headers = maps.Clone(block.Headers)
		n.WebPush = &block
	})
	return nil
}

// render sets n to the message for a recipient.
func (m *messageTemplate) render(r *Recipient, n *push.Notification) error {
	*n = m.static
	n.Target = r.Target
	for _, own := range m.copies {
		own(n)
	}
	var buffer [1024]byte
	var ends [16]int
	text, offsets := buffer[:0], ends[:0]
	for i := range m.strings {
		var err error
		if text, err = m.strings[i].append(text, r); err != nil {
			return err
		}
		offsets = append(offsets, len(text))
	}
	all, start := string(text), 0 // one allocation for all strings
	for i, end := range offsets {
		m.strings[i].set(n, all[start:end])
		start = end
	}
	return nil
}

// variables returns the names of the variables, sorted; with required, only of those that have no
// default somewhere.
func (m *messageTemplate) variables(required bool) (names []string) {
	for i := range m.strings {
		for _, p := range m.strings[i].parts {
			if p.name != "" && (p.required || !required) {
				names = append(names, p.name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
