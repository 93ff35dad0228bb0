// SPDX-License-Identifier: Apache-2.0

package api

import (
	"io"
	"slices"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// fastMembers are the members of a notification that fastDecode reads: those that are strings, most
// frequent first, and then the others.
var fastMembers = [...]string{
	"token", "title", "body", "collapse_key", "sound", "subtitle", "image", "topic", "condition", "channel",
	"installation", "idempotency_key",
	"platform", "data", "tags", "ttl", "priority", "badge", "lane", "on_unknown", "subscription", "apns", "fcm", "webpush",
}

// fastDecode decodes a notification in one pass. Its strings are parts of one copy of text. It
// returns nil if text is invalid or has a rare form, such as a member that is null: then the strict
// decoder decides, and finds the error. If it returns a notification, the strict decoder returns an
// equal one. *key is set to the idempotency_key, which is not allowed if key is nil.
func fastDecode(text []byte, key *string) *push.Notification {
	s, n := scanner{raw: text, text: string(text)}, new(push.Notification)
	texts := [...]*string{&n.Token, &n.Title, &n.Body, &n.CollapseKey, &n.Sound, &n.Subtitle, &n.Image, &n.Topic,
		&n.Condition, &n.Channel, &n.Installation, key}
	seen := 0 // one bit for each of fastMembers
	for name, ok := s.member('{'); ok; name, ok = s.member(',') {
		i := slices.Index(fastMembers[:], name)
		if i < 0 || seen&(1<<i) != 0 {
			return nil
		}
		seen |= 1 << i
		if i < len(texts) && texts[i] != nil {
			*texts[i] = s.quoted()
		} else if !s.value(n, name) {
			return nil
		}
	}
	if s.peek(); s.failed || s.pos < len(s.text) {
		return nil
	}
	return n
}

// value reads the value of a member that is not a string, and reports whether it is valid.
func (s *scanner) value(n *push.Notification, name string) bool {
	var err error
	switch name {
	case "platform":
		err = n.Platform.UnmarshalText([]byte(s.quoted()))
	case "data":
		n.Data = s.strings()
	case "tags":
		n.Tags = s.list()
	case "ttl":
		n.TTL = new(push.Duration)
		err = n.TTL.UnmarshalText([]byte(s.quoted()))
	case "priority":
		err = n.Priority.UnmarshalText([]byte(s.quoted()))
	case "badge":
		n.Badge = new(int)
		*n.Badge = s.number()
	case "lane":
		err = n.Lane.UnmarshalText([]byte(s.quoted()))
	case "on_unknown":
		err = n.OnUnknown.UnmarshalText([]byte(s.quoted()))
	case "subscription":
		err = s.object(&n.Subscription)
	case "apns":
		err = s.object(&n.APNs)
	case "fcm":
		err = s.object(&n.FCM)
	case "webpush":
		err = s.object(&n.WebPush)
	default:
		return false
	}
	return err == nil
}

// scanner reads JSON. After the first text that it cannot read, failed is set and the values that it
// returns have no meaning.
type scanner struct {
	raw    []byte // the same as text
	text   string
	pos    int
	failed bool
}

// peek skips white space and returns the next byte, or 0 at the end.
func (s *scanner) peek() byte {
	for ; s.pos < len(s.text); s.pos++ {
		if c := s.text[s.pos]; c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c
		}
	}
	return 0
}

// read reads one byte after white space.
func (s *scanner) read(want byte) {
	s.failed = s.failed || s.peek() != want
	s.pos++
}

// member reads the name of the next member of an object, with the byte before it: '{' for the first
// one and ',' for the others. ok is false after the last one.
func (s *scanner) member(before byte) (name string, ok bool) {
	if before == '{' {
		s.read('{')
	}
	if s.failed || s.peek() == '}' {
		s.pos++
		return "", false
	}
	if before == ',' {
		s.read(',')
	}
	name = s.quoted()
	s.read(':')
	return name, !s.failed
}

// quoted reads a string.
func (s *scanner) quoted() string {
	s.read('"')
	start, ascii, escaped := s.pos, true, false
	for ; s.pos < len(s.text) && !s.failed; s.pos++ {
		switch c := s.text[s.pos]; {
		case c == '"' && escaped:
			s.pos++
			text, err := jsontext.AppendUnquote(nil, s.raw[start-1:s.pos])
			s.failed = err != nil
			return string(text)
		case c == '"':
			s.pos++
			text := s.text[start : s.pos-1]
			s.failed = !ascii && !utf8.ValidString(text)
			return text
		case c == '\\':
			escaped = true
			s.pos++
		case c < ' ':
			s.failed = true
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	s.failed = true
	return ""
}

// number reads a whole number that is not negative and has at most nine digits.
func (s *scanner) number() int {
	first, n := s.peek(), 0
	start := s.pos
	for ; s.pos < len(s.text) && '0' <= s.text[s.pos] && s.text[s.pos] <= '9' && s.pos-start < 9; s.pos++ {
		n = 10*n + int(s.text[s.pos]-'0')
	}
	s.failed = s.failed || s.pos == start || first == '0' && s.pos-start > 1
	return n
}

// strings reads an object whose values are strings.
func (s *scanner) strings() map[string]string {
	entries, count := map[string]string{}, 0
	for name, ok := s.member('{'); ok; name, ok = s.member(',') {
		entries[name] = s.quoted()
		count++
	}
	s.failed = s.failed || len(entries) != count // duplicates
	return entries
}

// list reads a list of strings.
func (s *scanner) list() []string {
	texts := []string{}
	s.read('[')
	for s.peek() != ']' && !s.failed {
		if len(texts) > 0 {
			s.read(',')
		}
		texts = append(texts, s.quoted())
	}
	s.read(']')
	return texts
}

// object reads an object into v with the strict decoder.
func (s *scanner) object(v any) error {
	s.peek()
	depth, quoted := 0, false
	for i := s.pos; i < len(s.raw); i++ {
		switch c := s.raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			depth++
		case c == '}':
			depth--
		}
		if depth <= 0 {
			text := s.raw[s.pos : i+1]
			s.pos = i + 1
			return json.Unmarshal(text, v, strict)
		}
	}
	return io.ErrUnexpectedEOF
}
