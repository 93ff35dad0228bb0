// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// strict are the options for definitions and lines.
var strict = strictjson.Options(json.UnmarshalFromFunc(unmarshalSubscription))

// unmarshalSubscription reads a subscription. It ignores unknown members: it is the result of
// PushSubscription.toJSON(), to which browsers may add members.
func unmarshalSubscription(in *jsontext.Decoder, s *push.Subscription) error {
	type fields push.Subscription // without this function
	return json.UnmarshalDecode(in, (*fields)(s), json.RejectUnknownMembers(false))
}

// jsonLine is the JSON form of a line.
type jsonLine struct {
	Platform     push.Platform      `json:"platform"`
	Token        string             `json:"token"`
	Installation string             `json:"installation"`
	Subscription *push.Subscription `json:"subscription"`
	Variables    variables          `json:"variables"`
	Language     string             `json:"language"`
	TimeZone     string             `json:"time_zone"`
	Key          string             `json:"key"`
}

// jsonParser parses lines of NDJSON.
type jsonParser struct{ names nameCache }

func (p *jsonParser) parse(text []byte, to *Recipient) error {
	line := jsonLine{Variables: variables{names: &p.names}}
	if err := json.Unmarshal(text, &line, strict); err != nil {
		e := strictjson.Explain(err, text)
		e.Field = withoutLongNames(e.Field)
		return e
	}
	if line.Variables.invalid != nil {
		return line.Variables.invalid
	}
	*to = Recipient{
		Platform:  line.Platform,
		Target:    push.Target{Token: line.Token, Installation: line.Installation, Subscription: line.Subscription},
		Variables: line.Variables.list, Language: line.Language, TimeZone: line.TimeZone, Key: line.Key,
	}
	return nil
}

const (
	maxFieldName = 20 // bytes of a name in an error
	omitted      = "(…)"
)

// withoutLongNames omits names from a path of unknown fields, because they may be tokens. The shortest
// ones, Firebase installation IDs, have 22 characters.
func withoutLongNames(field string) string {
	names := strings.Split(field, ".")
	for i, name := range names {
		if len(name) > maxFieldName {
			names[i] = omitted
		}
	}
	return strings.Join(names, ".")
}

// variables are the variables of a line.
type variables struct {
	list    []Variable
	names   *nameCache
	invalid error // a value that is valid JSON
}

// UnmarshalJSONFrom reads an object. Values that are null are omitted.
func (v *variables) UnmarshalJSONFrom(in *jsontext.Decoder) error {
	switch in.PeekKind() {
	case jsontext.KindNull:
		return in.SkipValue()
	case jsontext.KindBeginObject:
	default:
		v.invalid = invalid("variables", "must be an object")
		return in.SkipValue()
	}
	if _, err := in.ReadToken(); err != nil {
		return err
	}
	for in.PeekKind() != jsontext.KindEndObject {
		raw, err := in.ReadValue()
		if err != nil {
			return err
		}
		name, err := v.names.unquote(raw)
		if err != nil {
			return err
		}
		if raw, err = in.ReadValue(); err != nil {
			return err
		}
		if err := v.add(name, raw); err != nil {
			return err
		}
	}
	_, err := in.ReadToken()
	return err
}

// add adds a variable. name is "" if it is not allowed.
func (v *variables) add(name string, value jsontext.Value) error {
	switch kind := value.Kind(); {
	case name == "":
		v.invalid = invalid("variables", nameRule)
	case kind == jsontext.KindNull:
	case kind == jsontext.KindBeginObject || kind == jsontext.KindBeginArray:
		v.invalid = invalid("variables."+name, "must be a string, a number, true, false or null")
	case kind == jsontext.KindString:
		text, err := jsontext.AppendUnquote(nil, value)
		if err != nil {
			return err
		}
		v.append(name, string(text))
	default: // as it is written
		v.append(name, string(value))
	}
	return nil
}

func (v *variables) append(name, value string) {
	if v.list == nil {
		v.list = make([]Variable, 0, 4)
	}
	v.list = append(v.list, Variable{name, value})
}

// nameCache holds names of variables, so that lines share them.
type nameCache struct{ names []string }

// unquote returns the name in a JSON string, or "" if it is not allowed.
func (c *nameCache) unquote(raw jsontext.Value) (string, error) {
	name := raw[1 : len(raw)-1]
	if !isName([]byte(name)) {
		return "", nil // no allowed name needs an escape sequence
	}
	for _, known := range c.names {
		if string(name) == known {
			return known, nil
		}
	}
	text := string(name)
	if len(c.names) < MaxVariables {
		c.names = append(c.names, text)
	}
	return text, nil
}
