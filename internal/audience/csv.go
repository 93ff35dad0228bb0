// SPDX-License-Identifier: Apache-2.0

package audience

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sluice-push/sluice/internal/strictjson"
	"github.com/sluice-push/sluice/push"
)

// csvFields are the columns of CSV and where their values go. Other columns are variables.NAME.
var csvFields = []struct {
	name string
	set  func(r *Recipient, value string) error
}{
	{"platform", func(r *Recipient, value string) error {
		if err := r.Platform.UnmarshalText([]byte(value)); err != nil {
			return invalid("platform", err.Error())
		}
		return nil
	}},
	{"token", func(r *Recipient, value string) error { r.Target.Token = value; return nil }},
	{"installation", func(r *Recipient, value string) error { r.Target.Installation = value; return nil }},
	{"subscription.endpoint", func(r *Recipient, value string) error { subscription(r).Endpoint = value; return nil }},
	{"subscription.keys.p256dh", func(r *Recipient, value string) error { subscription(r).Keys.P256dh = value; return nil }},
	{"subscription.keys.auth", func(r *Recipient, value string) error { subscription(r).Keys.Auth = value; return nil }},
	{"language", func(r *Recipient, value string) error { r.Language = value; return nil }},
	{"time_zone", func(r *Recipient, value string) error { r.TimeZone = value; return nil }},
	{"key", func(r *Recipient, value string) error { r.Key = value; return nil }},
}

// subscription returns the subscription of a recipient.
func subscription(r *Recipient) *push.Subscription {
	if r.Target.Subscription == nil {
		r.Target.Subscription = new(push.Subscription)
	}
	return r.Target.Subscription
}

const variablePrefix = "variables."

// csvParser parses lines of CSV. encoding/csv reads one line at a time, so that a missing quote cannot
// make it read the rest of the upload as one field.
type csvParser struct {
	line    bytes.Reader
	in      *csv.Reader
	columns []csvColumn
}

// csvColumn is a field, or a variable if set is nil.
type csvColumn struct {
	set      func(r *Recipient, value string) error
	variable string
}

// parseHeader returns the names of the columns.
func parseHeader(text []byte) ([]string, error) {
	p := csvParser{}
	record, err := p.split(text)
	return slices.Clone(record), err
}

// newCSVParser returns a parser for lines with the columns.
func newCSVParser(columns []string) (*csvParser, error) {
	p := &csvParser{}
	for i, name := range columns {
		if slices.Contains(columns[:i], name) {
			return nil, &strictjson.Error{Reason: strictjson.DuplicateField, Field: columnName(name), Detail: "must be one column"}
		}
		column, err := newColumn(name)
		if err != nil {
			return nil, err
		}
		p.columns = append(p.columns, column)
	}
	return p, nil
}

func newColumn(name string) (csvColumn, error) {
	for _, f := range csvFields {
		if f.name == name {
			return csvColumn{set: f.set}, nil
		}
	}
	if variable, found := strings.CutPrefix(name, variablePrefix); found {
		if !isName(variable) {
			return csvColumn{}, invalid("variables", nameRule)
		}
		return csvColumn{variable: variable}, nil
	}
	var known []string
	for _, f := range csvFields {
		known = append(known, f.name)
	}
	return csvColumn{}, &strictjson.Error{Reason: strictjson.UnknownField, Field: columnName(name),
		Detail: "unknown column; known columns, separated by commas: " + strings.Join(known, ", ") + " and variables.NAME"}
}

// columnName returns the name of a column for an error, unless it may be a token because the header is
// missing.
func columnName(name string) string {
	if !isName(name) {
		return omitted
	}
	return withoutLongNames(name)
}

// split returns the fields of a line. They are valid until the next call.
func (p *csvParser) split(text []byte) ([]string, error) {
	if p.in == nil {
		p.in = csv.NewReader(&p.line)
		p.in.ReuseRecord, p.in.FieldsPerRecord = true, -1
	}
	if !utf8.Valid(text) {
		return nil, &strictjson.Error{Reason: InvalidCSV, Detail: "must be valid UTF-8"}
	}
	p.line.Reset(text)
	record, err := p.in.Read()
	switch {
	case err == nil:
		return record, nil
	case errors.Is(err, csv.ErrQuote):
		return nil, &strictjson.Error{Reason: InvalidCSV, Detail: `must close each quoted field with " before a comma or the end of the line; a " in it is written as ""`}
	default:
		return nil, &strictjson.Error{Reason: InvalidCSV, Detail: `must have " around a field that contains one, and "" in it`}
	}
}

// parse reads a line into an empty recipient. Empty fields are not set.
func (p *csvParser) parse(text []byte, to *Recipient) error {
	record, err := p.split(text)
	if err != nil {
		return err
	}
	if len(record) != len(p.columns) {
		return &strictjson.Error{Reason: InvalidCSV, Detail: fmt.Sprintf("must have %d fields, as the header has, and has %d", len(p.columns), len(record))}
	}
	for i, value := range record {
		switch column := &p.columns[i]; {
		case value == "":
		case column.set != nil:
			if err := column.set(to, value); err != nil {
				return err
			}
		default:
			if to.Variables == nil {
				to.Variables = make([]Variable, 0, len(record)-i)
			}
			to.Variables = append(to.Variables, Variable{column.variable, value})
		}
	}
	return nil
}
