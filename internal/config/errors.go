// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Error is one error in a configuration.
type Error struct {
	// Position is FILE:LINE:COLUMN, or the name of an environment variable.
	Position string
	// Path is the full path of the key, such as apps.shop.apns.key_id. It is empty for an error of
	// the whole file.
	Path string
	// Text says what is wrong and what is allowed. It never contains a secret.
	Text string

	line int // sort key; errors in variables come last
}

// Error returns "gateway.yaml:7:9: pool.size: …".
func (e Error) Error() string {
	if e.Path == "" {
		return e.Position + ": " + e.Text
	}
	return e.Position + ": " + e.Path + ": " + e.Text
}

// Errors is all errors in a configuration, in the order of its lines.
type Errors []Error

// Error returns one line per error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

func (es Errors) sorted() Errors {
	slices.SortStableFunc(es, func(a, b Error) int { return cmp.Compare(a.line, b.line) })
	return es
}

// position is the origin of a value: a line of the file, or an environment variable.
type position struct {
	line, column int
	variable     string
}

// setPosition records where the value at path came from.
func (d *decoder) setPosition(path string, at position) {
	if d.describe {
		d.positions[path] = at
	}
}

// fail reports that the value at path is wrong. If the file does not contain the key, the error has
// the position of the nearest enclosing block.
func (d *decoder) fail(path, format string, args ...any) {
	at, found := d.positions[path]
	for around := path; !found && around != ""; {
		around = parentPath(around)
		at, found = d.positions[around]
	}
	d.failAt(at, path, fmt.Sprintf(format, args...))
}

// failedAt reports whether the value at path is known to be wrong.
func (d *decoder) failedAt(path string) bool {
	return slices.ContainsFunc(d.errors, func(e Error) bool { return e.Path == path })
}

func (d *decoder) failAt(at position, path, text string) {
	e := Error{Position: fmt.Sprintf("%s:%d:%d", d.file, max(at.line, 1), max(at.column, 1)), Path: path, Text: text, line: at.line}
	if at.variable != "" {
		e.Position, e.line = at.variable, 1<<30
	}
	d.errors = append(d.errors, e)
}

// parentPath returns the path of the block that contains path.
func parentPath(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// syntaxError describes where a file is not valid YAML.
func syntaxError(file string, err error) Error {
	if load, ok := errors.AsType[*yaml.LoadError](err); ok {
		text := load.Message
		if load.ContextMsg != "" {
			text = load.ContextMsg + ": " + text
		}
		return Error{Position: fmt.Sprintf("%s:%d:%d", file, max(load.Mark.Line, 1), max(load.Mark.Column, 1)), Text: "not YAML: " + text}
	}
	return Error{Position: file, Text: err.Error()}
}

// didYouMean returns " (did you mean X?)" for the known word nearest to word, or "" if none is
// near.
func didYouMean(word string, known []string) string {
	best, nearest := 1+max(len(word)/3, 1), ""
	for _, k := range known {
		if n := editDistance(word, k); n < best {
			best, nearest = n, k
		}
	}
	if nearest == "" {
		return ""
	}
	return suggest(nearest)
}

func suggest(word string) string { return fmt.Sprintf(" (did you mean %s?)", word) }

// unknownKeyHint suggests the key to use instead of an unknown one: its new name if it was renamed,
// else the nearest key of the block, else all of them.
func unknownKeyHint(key string, fields []field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		if f.was == key {
			return suggest(f.name)
		}
		names[i] = f.name
	}
	return didYouMeanOrList(key, names)
}

// didYouMeanOrList is like didYouMean, but lists all known words if none is near.
func didYouMeanOrList(word string, known []string) string {
	if hint := didYouMean(word, known); hint != "" {
		return hint
	}
	return " (known here: " + strings.Join(known, ", ") + ")"
}

// editDistance returns the Levenshtein distance in bytes, ignoring case. Words of more than 200
// bytes are always far apart.
func editDistance(a, b string) int {
	if len(a) > 200 || len(b) > 200 {
		return 200
	}
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
