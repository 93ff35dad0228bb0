// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/strictjson"
)

const templateRule = `must close each {{ with }}, as in {{name}} or {{name|default}}; a literal {{ is written as {{|{{}}; names have 1 to 64 ASCII letters, digits, '_', '-' and '.', and start with a letter or '_'`

// template is a string with variables.
type template struct {
	parts []part
	field string // where the string is, for errors
	json  bool   // it is JSON, and the variables are in strings of it
}

// part is a literal, or a variable if name is set.
type part struct {
	literal  string
	name     string
	fallback string // in the form in which it is written: escaped in JSON
	required bool   // there is no fallback
}

// hasVariables reports whether a string of a message is a template.
func hasVariables[T string | []byte](text T) bool { return strings.Contains(string(text), "{{") }

// parseTemplate parses a string.
func parseTemplate(field, text string) (template, error) {
	t := template{field: field}
	return t, t.parse(text)
}

// parse appends the parts of a string.
func (t *template) parse(text string) error {
	for {
		before, rest, found := strings.Cut(text, "{{")
		t.literal(t.escape(before))
		if !found {
			return nil
		}
		inner, after, closed := strings.Cut(rest, "}}")
		name, fallback, hasFallback := strings.Cut(inner, "|")
		name = strings.TrimSpace(name)
		switch {
		case !closed || !isName(name) && (name != "" || !hasFallback):
			return invalid(t.field, templateRule)
		case name == "":
			t.literal(t.escape(fallback))
		default:
			t.parts = append(t.parts, part{name: name, fallback: t.escape(fallback), required: !hasFallback})
		}
		text = after
	}
}

// literal appends text to the last literal.
func (t *template) literal(text string) {
	if text == "" {
		return
	}
	if last := len(t.parts) - 1; last >= 0 && t.parts[last].name == "" {
		t.parts[last].literal += text
		return
	}
	t.parts = append(t.parts, part{literal: text})
}

// escape returns a literal in the form in which it is written.
func (t *template) escape(text string) string {
	if !t.json {
		return text
	}
	return string(appendEscaped(nil, text))
}

// appendEscaped appends a string as JSON without its quotation marks.
func appendEscaped(b []byte, text string) []byte {
	start := len(b)
	b, _ = jsontext.AppendQuote(b, text) // invalid UTF-8 is replaced
	return b[:start+copy(b[start:], b[start+1:len(b)-1])]
}

// parseJSON parses a JSON value. Its strings are templates, but not the names of its members.
func parseJSON(field string, value []byte) (template, error) {
	t := template{field: field, json: true}
	in := jsontext.NewDecoder(bytes.NewReader(value))
	written := 0
	for {
		object, length := in.StackIndex(in.StackDepth())
		isMember := object == jsontext.KindBeginObject && length%2 == 0
		if in.PeekKind() != jsontext.KindString {
			if _, err := in.ReadToken(); err != nil { // the end of the value
				t.literal(string(value[written:]))
				return t, nil
			}
			continue
		}
		raw, err := in.ReadValue()
		if err != nil {
			return t, err
		}
		text, err := jsontext.AppendUnquote(nil, raw)
		if err != nil || isMember || !hasVariables(text) {
			continue
		}
		end := int(in.InputOffset())
		t.literal(string(value[written:end-len(raw)]) + `"`)
		if err := t.parse(string(text)); err != nil {
			return t, err
		}
		t.literal(`"`)
		written = end
	}
}

// append appends the string with the values of a recipient's variables.
func (t *template) append(b []byte, r *Recipient) ([]byte, error) {
	for i := range t.parts {
		p := &t.parts[i]
		if p.name == "" {
			b = append(b, p.literal...)
			continue
		}
		switch value := r.variable(p.name); {
		case value == "" && p.required:
			return b, &strictjson.Error{Reason: MissingVariable, Field: "variables." + p.name,
				Detail: fmt.Sprintf("must be set: %s uses it without a default", t.field)}
		case value == "":
			b = append(b, p.fallback...)
		case t.json:
			b = appendEscaped(b, value)
		default:
			b = append(b, value...)
		}
	}
	return b, nil
}
