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
)

// Mix is what is sent: templates of notifications, each as often as its weight says. In a template's texts, {{n}} becomes
// the notification's number and {{hex}} the same as 64 hexadecimal digits, such as APNs' device tokens have.
type Mix struct {
	// Name is what the report calls it.
	Name      string
	templates []template
}

type template struct {
	Weight       int             `json:"weight"` // default 1
	Notification json.RawMessage `json:"notification"`
}

// DefaultMix is a small notification by APNs, each to another device.
func DefaultMix() *Mix {
	return &Mix{Name: "a small APNs notification", templates: []template{{Weight: 1, Notification: []byte(
		`{"platform":"apns","token":"{{hex}}","title":"Your parcel is on its way","body":"It should be with you at noon. Number {{n}}."}`)}}}
}

// ReadMix reads a file: a list in YAML, or a line for each in a file that ends in .ndjson or .jsonl, of objects with the
// members weight (a whole number; default 1) and notification.
func ReadMix(path string) (*Mix, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var raw []json.RawMessage
	switch filepath.Ext(path) {
	case ".ndjson", ".jsonl":
		for line := range bytes.Lines(text) {
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
		return nil, fmt.Errorf("%s: holds no template", path)
	}
	return m, nil
}

func fromYAML(text []byte) (raw []json.RawMessage, err error) {
	var list []map[string]any
	if err := yaml.Load(text, &list); err != nil {
		return nil, fmt.Errorf("must be a list of templates: %w", err)
	}
	for _, t := range list {
		text, err := json.Marshal(t)
		if err != nil {
			return nil, err
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
		return t, fmt.Errorf("must have the members weight and notification: %w", err)
	}
	if t.Weight < 1 || t.Weight > 1_000_000 {
		return t, fmt.Errorf("weight %d: must be 1 to 1,000,000", t.Weight)
	}
	if !bytes.HasPrefix(t.Notification, []byte("{")) {
		return t, errors.New("notification: must be an object, as the API takes it")
	}
	var one bytes.Buffer
	err := json.Compact(&one, t.Notification)
	t.Notification = one.Bytes()
	return t, err
}

// compiledMix are a mix in the words of one API, ready to be filled in.
type compiledMix struct {
	totalWeight uint64 // of the weights
	templates   []compiledTemplate
}

type compiledTemplate struct {
	cumulativeWeight uint64 // the sum of the weights up to it
	parts            [][]byte
	placeholders     []placeholder // between the pieces
}

type placeholder uint8

const (
	numberPlaceholder placeholder = iota
	hexPlaceholder
)

func (m *Mix) compile(d api) (*compiledMix, error) {
	p := new(compiledMix)
	for _, t := range m.templates {
		text, err := d.translate(t.Notification)
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		p.totalWeight += uint64(t.Weight)
		p.templates = append(p.templates, splitTemplate(text, p.totalWeight))
	}
	return p, nil
}

// splitTemplate parts a text at its marks.
func splitTemplate(text []byte, below uint64) compiledTemplate {
	p := compiledTemplate{cumulativeWeight: below}
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

// append appends notification i, the same one each time.
func (p *compiledMix) append(b []byte, i int) []byte {
	each := &p.templates[0]
	if len(p.templates) > 1 {
		for lot, k := mix64(uint64(i))%p.totalWeight, 0; ; k++ {
			if each = &p.templates[k]; lot < each.cumulativeWeight {
				break
			}
		}
	}
	for k, piece := range each.parts {
		b = append(b, piece...)
		if k == len(each.placeholders) {
			break
		}
		if each.placeholders[k] == numberPlaceholder {
			b = strconv.AppendInt(b, int64(i), 10)
		} else {
			b = appendHex(b, uint64(i))
		}
	}
	return b
}

// appendHex writes 64 digits. The first one is a 5, for tokens with special ones mean something to the mock.
func appendHex(b []byte, n uint64) []byte {
	const digits = "0123456789abcdef"
	b = append(b, "5a0000000000000000000000000000000000000000000000"...)
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, digits[n>>shift&15])
	}
	return b
}

// mix64 makes neighbours differ, as SplitMix64 does.
func mix64(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
