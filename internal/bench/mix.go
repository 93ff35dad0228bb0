// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/internal/load"
)

// Mix is a weighted set of notification templates. In the strings of a template, {{n}} is replaced
// with the number of the notification and {{hex}} with the same number as 64 hexadecimal digits,
// the format of an APNs device token.
type Mix struct {
	// Name is the name in the report.
	Name      string
	templates []template
}

type template struct {
	Weight       int             `json:"weight"` // default 1
	Notification json.RawMessage `json:"notification"`
}

// DefaultMix returns a mix with one small APNs notification, each to a different device.
func DefaultMix() *Mix {
	return &Mix{Name: "a small APNs notification", templates: []template{{Weight: 1, Notification: []byte(
		`{"platform":"apns","token":"{{hex}}","title":"Your parcel is on its way","body":"It should be with you at noon. Number {{n}}."}`)}}}
}

// ReadMix reads a mix from a file. The file is a YAML list, or has one JSON object per line if its
// name ends in .ndjson or .jsonl. Each template has the members weight (an integer, default 1) and
// notification.
func ReadMix(path string) (*Mix, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var raw []json.RawMessage
	switch filepath.Ext(path) {
	case ".ndjson", ".jsonl":
		for line := range bytes.Lines(bytes.TrimPrefix(text, []byte("\ufeff"))) { // a byte order mark
			if line = bytes.TrimSpace(line); len(line) > 0 {
				raw = append(raw, line)
			}
		}
	default:
		if raw, err = fromYAML(text); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	m := &Mix{Name: filepath.Base(path)}
	for i, text := range raw {
		t, err := readTemplate(text)
		if err != nil {
			return nil, fmt.Errorf("%s: template %d: %w", path, i+1, err)
		}
		m.templates = append(m.templates, t)
	}
	if len(m.templates) == 0 {
		return nil, fmt.Errorf("%s: no templates", path)
	}
	return m, nil
}

func fromYAML(text []byte) (raw []json.RawMessage, err error) {
	var list []map[string]any
	if err := yaml.Load(text, &list); err != nil {
		if types, ok := errors.AsType[*yaml.LoadErrors](err); ok { // its text is about Go types
			return nil, fmt.Errorf("must be a list of templates: line %d: a template must be an object", max(types.Errors[0].Mark.Line, 1))
		}
		return nil, fmt.Errorf("must be a list of templates: %w", err)
	}
	for i, t := range list {
		text, err := json.Marshal(t)
		if err != nil { // its text is about Go types
			return nil, fmt.Errorf("template %d: all names must be texts, and all values those of JSON", i+1)
		}
		raw = append(raw, text)
	}
	return raw, nil
}

func readTemplate(text []byte) (template, error) {
	t := template{Weight: 1}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&t); err != nil {
		if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = errors.New("weight must be a whole number, and notification an object")
		}
		return t, fmt.Errorf("must have the members weight and notification: %w", err)
	}
	if t.Weight < 1 || t.Weight > 1_000_000 {
		return t, fmt.Errorf("weight %d: must be 1 to 1,000,000", t.Weight)
	}
	if !bytes.HasPrefix(t.Notification, []byte("{")) {
		return t, errors.New("notification: must be an object in the format of the API")
	}
	var compact bytes.Buffer
	err := json.Compact(&compact, t.Notification)
	t.Notification = compact.Bytes()
	return t, err
}

// compiledMix is a mix translated to one API and split at its placeholders.
type compiledMix struct {
	totalWeight uint64
	templates   []compiledTemplate
}

type compiledTemplate struct {
	cumulativeWeight uint64 // sum of the weights up to and including this template
	parts            [][]byte
	placeholders     []placeholder // between the parts
}

type placeholder uint8

const (
	numberPlaceholder placeholder = iota
	hexPlaceholder
)

func (m *Mix) compile(api, topic string) (*compiledMix, error) {
	p := new(compiledMix)
	for _, t := range m.templates {
		text, err := load.Translate(api, topic, t.Notification)
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		p.totalWeight += uint64(t.Weight)
		p.templates = append(p.templates, splitTemplate(text, p.totalWeight))
	}
	return p, nil
}

// splitTemplate splits text at its placeholders.
func splitTemplate(text []byte, cumulativeWeight uint64) compiledTemplate {
	p := compiledTemplate{cumulativeWeight: cumulativeWeight}
	for {
		i, j := bytes.Index(text, []byte("{{n}}")), bytes.Index(text, []byte("{{hex}}"))
		switch {
		case i < 0 && j < 0:
			p.parts = append(p.parts, text)
			return p
		case j < 0 || i >= 0 && i < j:
			p.parts, p.placeholders, text = append(p.parts, text[:i]), append(p.placeholders, numberPlaceholder), text[i+len("{{n}}"):]
		default:
			p.parts, p.placeholders, text = append(p.parts, text[:j]), append(p.placeholders, hexPlaceholder), text[j+len("{{hex}}"):]
		}
	}
}

// append appends notification i. The same i always gives the same notification.
func (p *compiledMix) append(b []byte, i int) []byte {
	template := &p.templates[0]
	if len(p.templates) > 1 {
		for pick, k := mix64(uint64(i))%p.totalWeight, 0; ; k++ {
			if template = &p.templates[k]; pick < template.cumulativeWeight {
				break
			}
		}
	}
	for k, part := range template.parts {
		b = append(b, part...)
		if k == len(template.placeholders) {
			break
		}
		if template.placeholders[k] == numberPlaceholder {
			b = strconv.AppendInt(b, int64(i), 10)
		} else {
			b = appendHex(b, uint64(i))
		}
	}
	return b
}

// appendHex appends n as 64 digits. They start with 5a because the mock treats tokens with some
// other prefixes specially.
func appendHex(b []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	b = append(b, "5a0000000000000000000000000000000000000000000000"...)
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// mix64 is the mixing function of SplitMix64. It maps consecutive numbers to pseudo-random ones.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
