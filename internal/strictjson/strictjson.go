// SPDX-License-Identifier: Apache-2.0

// Package strictjson decodes JSON from clients by strict rules (RFC 7493), and says in an error which
// field is invalid and what is allowed there. An error contains no value, because any value may be a
// device token in the wrong place.
package strictjson

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
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Options returns the options of the decoder, with more functions for some types. The decoder rejects
// unknown members and, as is the default of the library, duplicate names, invalid UTF-8, trailing data
// and names in another letter case. In a map of strings it omits members that are null.
func Options(more ...*json.Unmarshalers) json.Options {
	more = append(more, json.UnmarshalFromFunc(unmarshalStrings))
	return json.JoinOptions(json.RejectUnknownMembers(true), json.WithUnmarshalers(json.JoinUnmarshalers(more...)))
}

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

// The reasons of errors.
const (
	InvalidJSON    = "InvalidJSON"
	UnknownField   = "UnknownField"
	DuplicateField = "DuplicateField"
	InvalidField   = "InvalidField"
)

// Error says what is wrong with a JSON text.
type Error struct {
	Reason string // one of the constants
	Field  string // path such as apns.headers.apns-priority or tokens[17]; "" for the whole text
	Detail string // what is allowed there, without the field: "must be a string"
}

// Error returns the field and the detail.
func (e *Error) Error() string {
	if e.Field == "" {
		return e.Detail
	}
	return e.Field + ": " + e.Detail
}

// Explain converts an error of the decoder, which was reported for text.
func Explain(err error, text []byte) *Error {
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		field := fieldPath(e.JSONPointer)
		if errors.Is(e.Err, json.ErrUnknownName) {
			return &Error{UnknownField, field, "unknown field; known fields: " + fieldNames(e.GoType)}
		}
		return &Error{InvalidField, field, allowedValues(e.GoType)}
	}
	e, ok := errors.AsType[*jsontext.SyntacticError](err)
	switch {
	case !ok || len(bytes.TrimSpace(text)) == 0:
		return &Error{InvalidJSON, "", "must be one JSON object"}
	case errors.Is(e, jsontext.ErrDuplicateName):
		return &Error{DuplicateField, fieldPath(e.JSONPointer), "must be given once"}
	default:
		return &Error{InvalidJSON, fieldPath(e.JSONPointer), syntaxRule(e, text)}
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
		if len(path) > 0 && listNames[path[len(path)-1]] {
			path[len(path)-1] += "[" + name + "]"
			continue
		}
		path = append(path, name)
	}
	return strings.Join(path, ".")
}

// listNames are the members of the API whose values are lists.
var listNames = map[string]bool{"tags": true, "tokens": true, "installations": true, "subscriptions": true, "variants": true}

// isPlain reports whether s has 1 to maxLen characters, none of which needs quoting anywhere.
func isPlain(s string, maxLen int) bool {
	return s != "" && len(s) <= maxLen && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' && c != '_' && c != '.'
	})
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
	case reflect.Uint64:
		return "must be a whole number that is not negative"
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

// Depth returns how deep the objects and arrays of a valid JSON text are nested.
func Depth(text []byte) int {
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
