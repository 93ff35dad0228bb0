// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/push"
)

// Limits of all notifications, whatever their platform. The limits of the providers are much lower.
const (
	maxDepth    = 32  // of objects and arrays in a raw block
	maxMembers  = 256 // of data, and of the headers of a raw block
	maxAttempts = 10  // the same as the operator's retry.attempts
)

// strict rejects unknown members, except those of a subscription. The defaults of the library reject
// duplicate names, invalid UTF-8, trailing data and names in another letter case (RFC 7493).
var strict = json.JoinOptions(json.RejectUnknownMembers(true), json.WithUnmarshalers(json.JoinUnmarshalers(
	json.UnmarshalFromFunc(unmarshalStrings), json.UnmarshalFromFunc(unmarshalSubscription))))

// unmarshalStrings reads data or headers. It omits members that are null.
func unmarshalStrings(in *jsontext.Decoder, entries *map[string]string) error {
	var given map[string]*string
	if err := json.UnmarshalDecode(in, &given); err != nil || given == nil {
		return err
	}
	*entries = make(map[string]string, len(given))
	for name, value := range given {
		if value != nil {
			(*entries)[name] = *value
		}
	}
	return nil
}

// unmarshalSubscription reads a subscription. It ignores unknown members: it is the result of
// PushSubscription.toJSON(), to which browsers may add members.
func unmarshalSubscription(in *jsontext.Decoder, s *push.Subscription) error {
	type fields push.Subscription // without this function
	return json.UnmarshalDecode(in, (*fields)(s), json.RejectUnknownMembers(false))
}

// single is the JSON form of a notification.
type single struct {
	push.Notification
	targetLists
	SendAt sendTime `json:"send_at"` // replaces that of Notification
}

// decode decodes one notification. The lists of targets are nil if it has one target. decode does not
// retain text.
func decode(text []byte) (*push.Notification, *targetLists, *problem) {
	if n := fastDecode(text, nil); n != nil {
		return n, nil, check(n, nil)
	}
	return strictDecode(text)
}

// strictDecode is decode for every form of a notification.
func strictDecode(text []byte) (*push.Notification, *targetLists, *problem) {
	in := new(single)
	if err := json.Unmarshal(text, in, strict); err != nil {
		return nil, nil, mapDecodeError(err, text)
	}
	return in.decoded()
}

// decoded returns the notification and the lists of its targets.
func (in *single) decoded() (*push.Notification, *targetLists, *problem) {
	in.Notification.SendAt = time.Time(in.SendAt)
	if in.targetLists.field() == "" {
		return &in.Notification, nil, check(&in.Notification, nil)
	}
	return &in.Notification, &in.targetLists, check(&in.Notification, &in.targetLists)
}

// item is the JSON form of a notification in a batch, with its own Idempotency-Key.
type item struct {
	single
	Key string `json:"idempotency_key"`
}

// decodeItem decodes a notification in a batch and returns it with its Idempotency-Key.
func decodeItem(text []byte) (*push.Notification, *targetLists, string, *problem) {
	var key string
	if n := fastDecode(text, &key); n != nil && validIdempotencyKey(key) {
		return n, nil, key, check(n, nil)
	}
	return strictDecodeItem(text)
}

// strictDecodeItem is decodeItem for every form of a notification.
func strictDecodeItem(text []byte) (*push.Notification, *targetLists, string, *problem) {
	in := new(item)
	if err := json.Unmarshal(text, in, strict); err != nil {
		return nil, nil, "", mapDecodeError(err, text)
	}
	if !validIdempotencyKey(in.Key) {
		return nil, nil, "", invalid("idempotency_key", idempotencyKeyRule)
	}
	n, lists, p := in.decoded()
	return n, lists, in.Key, p
}

// sendTime is the value of send_at. A relative time counts from when it is decoded.
type sendTime time.Time

// UnmarshalText parses an RFC 3339 time, or a plus sign and a duration.
func (s *sendTime) UnmarshalText(text []byte) error {
	if len(text) > 1 && text[0] == '+' {
		if wait, err := time.ParseDuration(string(text)); err == nil && isAlphanumeric(text[1]) {
			*s = sendTime(time.Now().Add(wait))
			return nil
		}
	} else if (*time.Time)(s).UnmarshalText(text) == nil {
		return nil
	}
	return errors.New(`must be an RFC 3339 time such as "2026-12-31T23:59:59Z", or a plus sign and a duration from now such as "+10m" or "+1h30m"`)
}

// check finds errors that the JSON decoder does not. lists is nil if there is no list of targets.
func check(n *push.Notification, lists *targetLists) *problem {
	if n.Platform == "" {
		return invalid("platform", n.Platform.UnmarshalText(nil).Error())
	}
	if p := checkTargets(&n.Target, lists); p != nil {
		return p
	}
	if n.Retry != nil && (n.Retry.Attempts < 1 || n.Retry.Attempts > maxAttempts) {
		return invalid("retry.attempts", fmt.Sprintf("must be a whole number from 1 to %d", maxAttempts))
	}
	if err := push.CheckTags(n.Tags); err != nil {
		return invalidNotification(&push.Receipt{Outcome: push.InvalidNotification(err)})
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

// checkRaw accepts an object of limited depth. It sets null to nil.
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

// depth returns how deep the objects and arrays of a valid JSON text are nested.
func depth(text []byte) int {
	deepest, current, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			current++
			deepest = max(deepest, current)
		case c == '}' || c == ']':
			current--
		}
	}
	return deepest
}

// checkTargets checks that there is exactly one target or list of targets. If there are more, the
// problem names the second.
func checkTargets(t *push.Target, lists *targetLists) *problem {
	if lists == nil && t.Kind() != push.NoTarget {
		return nil
	}
	if lists == nil {
		lists = new(targetLists)
	}
	var set []string
	for _, f := range [...]struct {
		field string
		set   bool
	}{
		{"token", t.Token != ""}, {"tokens", lists.Tokens != nil}, {"topic", t.Topic != ""}, {"condition", t.Condition != ""},
		{"channel", t.Channel != ""}, {"installation", t.Installation != ""}, {"installations", lists.Installations != nil},
		{"subscription", t.Subscription != nil}, {"subscriptions", lists.Subscriptions != nil},
	} {
		if f.set {
			set = append(set, f.field)
		}
	}
	switch len(set) {
	case 0:
		return invalid("token", exactlyOneTarget)
	case 1:
		return lists.check()
	default:
		return invalid(set[1], exactlyOneTarget)
	}
}

const exactlyOneTarget = "exactly one of token, topic, condition, channel, installation, subscription, tokens, installations " +
	"and subscriptions must be set"

func invalid(field, allowed string) *problem {
	if field == "" {
		return &problem{kind: invalidField, detail: "the notification " + allowed}
	}
	return &problem{kind: invalidField, field: field, detail: field + ": " + allowed}
}

// mapDecodeError converts an error of the decoder into a problem that names the field and what is
// allowed there. It does not use the library's messages, because they can contain data of the
// request.
func mapDecodeError(err error, text []byte) *problem {
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		field := fieldPath(e.JSONPointer)
		if errors.Is(e.Err, json.ErrUnknownName) {
			return &problem{kind: unknownField, field: field,
				detail: field + ": unknown field; known fields: " + fieldNames(e.GoType)}
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
	default:
		p := &problem{kind: invalidJSON, field: fieldPath(e.JSONPointer), detail: syntaxRule(e, text)}
		if p.field != "" {
			p.detail = p.field + ": " + p.detail
		}
		return p
	}
}

// syntaxRule says which rule of JSON the text breaks, and where.
func syntaxRule(e *jsontext.SyntacticError, text []byte) string {
	rest := text[min(int(e.ByteOffset), len(text)):]
	at := fmt.Sprintf("; parsing stopped at byte %d", e.ByteOffset)
	switch {
	case !utf8.Valid(text) || len(rest) > 0 && rest[0] == 0: // NUL bytes are a sign of UTF-16
		return "must be valid UTF-8" + at
	case errors.Is(e, io.ErrUnexpectedEOF):
		return "must be complete JSON" + at + ", the end"
	case startsWithSurrogate(rest):
		return `must be valid Unicode: \ud800 to \udbff must be followed by \udc00 to \udfff, as a pair` + at
	case bytes.HasPrefix(rest, []byte(`\`)):
		return `must contain only the escape sequences \" \\ \/ \b \f \n \r \t and \u with 4 hex digits` + at
	case len(rest) > 0 && rest[0] < ' ':
		return `must not contain control characters; escape them in strings, such as \n` + at
	default:
		return "must be one valid JSON object with nothing after it" + at
	}
}

// startsWithSurrogate reports whether text starts with an escaped half of a surrogate pair.
func startsWithSurrogate(text []byte) bool {
	if !bytes.HasPrefix(text, []byte(`\u`)) || len(text) < 6 {
		return false
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return err == nil && utf16.IsSurrogate(rune(unit))
}

// fieldPath formats a JSON pointer as in apns.headers.apns-priority or tokens[17]. It omits a name that
// does not look like one, because that may be a value in the wrong place.
func fieldPath(p jsontext.Pointer) string {
	var path []string
	for name := range p.Tokens() {
		if !isPlain(name, 40) {
			name = "(…)"
		}
		if len(path) == 1 && listNames[path[0]] {
			path[0] += "[" + name + "]"
			continue
		}
		path = append(path, name)
	}
	return strings.Join(path, ".")
}

var listNames = map[string]bool{"tags": true, "tokens": true, "installations": true, "subscriptions": true}

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

// allowedValues describes the values of a field of type t. For enumerations it unmarshals an empty
// text, which is never valid: the error lists the allowed values and cannot contain the value of
// the request.
func allowedValues(t reflect.Type) string {
	if enum, ok := reflect.New(t).Interface().(encoding.TextUnmarshaler); ok {
		return enum.UnmarshalText(nil).Error()
	}
	switch t.Kind() {
	case reflect.String:
		return "must be a string"
	case reflect.Int:
		return "must be a whole number"
	case reflect.Float64:
		return "must be a number"
	case reflect.Bool:
		return "must be true or false"
	case reflect.Slice:
		return "must be a list"
	case reflect.Map:
		return "must be an object whose values are strings"
	default:
		return "must be an object"
	}
}
