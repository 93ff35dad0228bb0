// SPDX-License-Identifier: Apache-2.0

// Package audience holds the parts of a broadcast that are functions of their input: the message with
// its variables, languages and variants (Definition, Content), the lines of the audience (Reader,
// Recipient), the devices that they repeat (Duplicates) and how many there are (Sketch), the time at
// which a device may be sent to (Schedule, Plan), and the rate (Rate). It stores nothing, sends nothing
// and starts no goroutine.
//
// # Message
//
// A message has the fields of a notification. Its strings can contain variables, {{name}} or
// {{name|default}}, whose values are those of the line. Its members platforms and languages contain
// fields that differ for a platform or a language. They are merge patches (RFC 7396) of the message, and
// the more specific one wins:
//
//	{
//	  "title": "Hello {{name|there}}", "collapse_key": "sale",
//	  "platforms": {"fcm": {"ttl": "4h"}},
//	  "languages": {"de": {"title": "Hallo {{name|du}}"}}
//	}
//
// Compile turns a definition into one template for each platform, language and variant. A value replaces
// its variable in a decoded string, so it cannot change the structure of JSON.
//
// # Lines
//
// One line of the upload is one recipient, in NDJSON and in CSV: a quoted field cannot contain a line
// break. So an upload can be read from the start of any line, and one malformed line does not change the
// meaning of the next one.
//
// No error of this package contains a token or the value of a variable.
package audience

import (
	"errors"
	"fmt"
	"slices"

	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// Limits of a line.
const (
	MaxLine      = 16 << 10 // bytes, including the line break
	MaxVariables = 64
	MaxValue     = 1 << 10 // bytes of a variable's value
	maxName      = 64      // bytes of a variable's name
	maxKey       = 256     // bytes
)

// Reasons of lines that cannot be sent, in addition to those of strictjson and of the providers.
const (
	InvalidCSV      = "InvalidCSV"
	InvalidTarget   = "InvalidTarget"
	LineTooLong     = "LineTooLong"
	MissingVariable = "MissingVariable"
	DuplicateTarget = "DuplicateTarget" // not found by a Reader, see Duplicates
)

// Recipient is one device of the audience. Its strings share no memory with the input.
type Recipient struct {
	Platform push.Platform
	// Target is a token, an installation or a subscription.
	Target    push.Target
	Variables []Variable
	// Language is a BCP 47 tag, or "".
	Language string
	// TimeZone is a name for LoadZone, or "".
	TimeZone string
	// Key is the sender's name of the recipient, such as a user ID, or "".
	Key string
}

// Variable is the value of a variable of one recipient.
type Variable struct{ Name, Value string }

// variable returns the value of a variable, or "" if it is not set.
func (r *Recipient) variable(name string) string {
	for i := range r.Variables {
		if r.Variables[i].Name == name {
			return r.Variables[i].Value
		}
	}
	return ""
}

// LineError says why a line cannot be sent. The other lines can be.
type LineError struct {
	Line   uint32 `json:"line"` // counted from 1, including empty lines and the header
	Reason string `json:"reason"`
	Field  string `json:"field,omitempty"`
	Detail string `json:"detail"` // what is allowed, with the field
}

// Error returns the line and the detail.
func (e *LineError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Detail) }

// NewLineError returns the error of a line whose recipient cannot be sent to. err is of Content.Render
// or of a provider.
func NewLineError(line uint32, err error) *LineError {
	if e, ok := errors.AsType[*push.FieldError](err); ok {
		return &LineError{line, e.Reason, e.Field, e.Error()}
	}
	if e, ok := errors.AsType[*strictjson.Error](err); ok {
		return &LineError{line, e.Reason, e.Field, e.Error()}
	}
	return &LineError{line, strictjson.InvalidField, "", "must be a valid recipient"}
}

// check checks the fields of a line that its format does not check.
func (r *Recipient) check(cfg *ReaderConfig, tags *tagCache) error {
	if r.Platform == "" {
		r.Platform = cfg.Platform
	}
	if r.Platform == "" {
		return invalid("platform", r.Platform.UnmarshalText(nil).Error())
	}
	if r.Target.Kind() == push.NoTarget {
		return &strictjson.Error{Reason: InvalidTarget, Field: "token", Detail: "exactly one of token, installation and subscription must be set"}
	}
	if len(r.Key) > maxKey || slices.ContainsFunc([]byte(r.Key), func(c byte) bool { return c < ' ' || c == 0x7f }) {
		return invalid("key", fmt.Sprintf("must have at most %d bytes and no control characters", maxKey))
	}
	if r.Language != "" && !tags.valid(r.Language) {
		return invalid("language", languageRule)
	}
	if r.TimeZone != "" {
		if _, err := LoadZone(r.TimeZone); err != nil {
			return err
		}
	}
	return r.checkVariables()
}

func (r *Recipient) checkVariables() error {
	if len(r.Variables) > MaxVariables {
		return invalid("variables", fmt.Sprintf("must have at most %d members", MaxVariables))
	}
	for i := range r.Variables {
		if v := &r.Variables[i]; len(v.Value) > MaxValue {
			return invalid("variables."+v.Name, fmt.Sprintf("must have at most %d bytes", MaxValue))
		}
	}
	return nil
}

const nameRule = "must have names of 1 to 64 ASCII letters, digits, '_', '-' and '.', starting with a letter or '_'"

// isName reports whether name can be that of a variable.
func isName[T string | []byte](name T) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_':
		case i > 0 && ('0' <= c && c <= '9' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return len(name) > 0 && len(name) <= maxName
}
