// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// What every notification must keep to, whatever its platform; the providers' own bounds are far below.
const (
	maxDepth    = 32  // of objects and arrays inside a raw block
	maxMembers  = 256 // of data, and of a raw block's headers
	maxAttempts = 10  // as the operator's retry.attempts
)

// strict refuses unknown members. Duplicate names, invalid UTF-8, trailing data and other letter case are refused by
// the library's defaults (RFC 7493).
var strict = json.RejectUnknownMembers(true)

// decode reads one notification from its JSON text, which it does not keep.
func decode(text []byte) (*push.Notification, *problem) {
	n := new(push.Notification)
	if err := json.Unmarshal(text, n, strict); err != nil {
		return nil, mapDecodeError(err, text)
	}
	if p := check(n); p != nil {
		return nil, p
	}
	return n, nil
}

// item is a notification in a batch, where it carries its own Idempotency-Key.
type item struct {
	push.Notification
	Key string `json:"idempotency_key"`
}

// decodeItem is decode for a notification in a batch. It returns its key besides.
func decodeItem(text []byte) (*push.Notification, string, *problem) {
	in := new(item)
	if err := json.Unmarshal(text, in, strict); err != nil {
		return nil, "", mapDecodeError(err, text)
	}
	if !validIdempotencyKey(in.Key) {
		return nil, "", invalid("idempotency_key", idempotencyKeyRule)
	}
	return &in.Notification, in.Key, check(&in.Notification)
}

// check finds what JSON's grammar and types could not.
func check(n *push.Notification) *problem {
	if n.Platform == "" {
		return invalid("platform", n.Platform.UnmarshalText(nil).Error())
	}
	if n.Kind() == push.NoTarget {
		return invalid(badTargetField(&n.Target),
			"exactly one of token, topic, condition, channel, installation and subscription must be set")
	}
	if n.Retry != nil && (n.Retry.Attempts < 1 || n.Retry.Attempts > maxAttempts) {
		return invalid("retry.attempts", fmt.Sprintf("must be a whole number from 1 to %d", maxAttempts))
	}
	if len(n.Data) > maxMembers {
		return invalid("data", tooManyMembers)
	}
	return checkBlocks(n)
}

var tooManyMembers = fmt.Sprintf("must have at most %d members", maxMembers)

func checkBlocks(n *push.Notification) *problem {
	if n.APNs != nil {
		if len(n.APNs.Headers) > maxMembers {
			return invalid("apns.headers", tooManyMembers)
		}
		if p := checkRaw("apns.payload", (*[]byte)(&n.APNs.Payload)); p != nil {
			return p
		}
	}
	if n.FCM != nil {
		if p := checkRaw("fcm.message", (*[]byte)(&n.FCM.Message)); p != nil {
			return p
		}
	}
	if n.WebPush != nil && len(n.WebPush.Headers) > maxMembers {
		return invalid("webpush.headers", tooManyMembers)
	}
	return nil
}

// checkRaw takes an object of bounded depth, or nothing; null is nothing.
func checkRaw(field string, raw *[]byte) *problem {
	switch {
	case len(*raw) == 0:
	case string(*raw) == "null":
		*raw = nil
	case (*raw)[0] != '{':
		return invalid(field, "must be an object")
	case depth(*raw) > maxDepth:
		return invalid(field, fmt.Sprintf("must be nested at most %d deep", maxDepth))
	}
	return nil
}

// depth is how deep the objects and arrays of a valid JSON text are nested.
func depth(text []byte) int {
	deepest, now, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			now++
			deepest = max(deepest, now)
		case c == '}' || c == ']':
			now--
		}
	}
	return deepest
}

// badTargetField is the field to look at when not exactly one target is set.
func badTargetField(t *push.Target) string {
	set := make([]string, 0, 2)
	for _, is := range [...]struct {
		field string
		set   bool
	}{
		{"token", t.Token != ""}, {"topic", t.Topic != ""}, {"condition", t.Condition != ""},
		{"channel", t.Channel != ""}, {"installation", t.Installation != ""}, {"subscription", t.Subscription != nil},
	} {
		if is.set {
			set = append(set, is.field)
		}
	}
	if len(set) < 2 {
		return "token"
	}
	return set[1]
}

func invalid(field, allowed string) *problem {
	if field == "" {
		return &problem{kind: invalidField, detail: "the notification " + allowed}
	}
	return &problem{kind: invalidField, field: field, detail: field + ": " + allowed}
}

// mapDecodeError turns the decoder's error into a problem that names the field and what is allowed there. The library's own
// words are not used: they can hold what the caller sent.
func mapDecodeError(err error, text []byte) *problem {
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		field := fieldPath(e.JSONPointer)
		if errors.Is(e.Err, json.ErrUnknownName) {
			return &problem{kind: unknownField, field: field,
				detail: field + ": is not known; known here: " + fieldNames(e.GoType)}
		}
		return invalid(field, allowedValues(e.GoType))
	}
	e, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok || len(bytes.TrimSpace(text)) == 0:
		return &problem{kind: invalidJSON, detail: "must be one JSON object"}
	case errors.Is(e, jsontext.ErrDuplicateName):
		field := fieldPath(e.JSONPointer)
		return &problem{kind: duplicateField, field: field, detail: field + ": must be given once"}
	case !utf8.Valid(text):
		return &problem{kind: invalidJSON, field: fieldPath(e.JSONPointer), detail: "must be valid UTF-8"}
	default:
		return &problem{kind: invalidJSON, field: fieldPath(e.JSONPointer),
			detail: fmt.Sprintf("must be one JSON object and nothing after it; reading stopped at byte %d", e.ByteOffset)}
	}
}

// fieldPath writes a JSON pointer as apns.headers.apns-priority. A name that does not look like one may be a value in
// the wrong place, and is left out.
func fieldPath(p jsontext.Pointer) string {
	var path []string
	for name := range p.Tokens() {
		if !isPlain(name, 40) {
			name = "(…)"
		}
		path = append(path, name)
	}
	return strings.Join(path, ".")
}

// fieldNames lists the JSON names of a struct's fields.
func fieldNames(t reflect.Type) string {
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// allowedValues says what a field of type t takes. Our own words are asked about an empty text, which none of them is,
// and so tell what they take without seeing the caller's value.
func allowedValues(t reflect.Type) string {
	if t == reflect.TypeFor[time.Time]() {
		return `must be an RFC 3339 time such as "2026-12-31T23:59:59Z"`
	}
	if word, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok {
		return word.UnmarshalText(nil).Error()
	}
	switch t.Kind() {
	case reflect.String:
		return "must be a string"
	case reflect.Int:
		return "must be a whole number"
	case reflect.Bool:
		return "must be true or false"
	case reflect.Map:
		return "must be an object whose values are strings"
	default:
		return "must be an object"
	}
}
