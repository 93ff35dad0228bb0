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

// Error is one thing that is wrong.
type Error struct {
	// Place is where: FILE:LINE:COLUMN, or the environment variable's name.
	Position string
	// Path is the key, from the top: apps.shop.apns.key_id. Empty for an error of the whole file.
	Path string
	// Text says what is wrong and what is allowed. It never holds a secret.
	Text string

	line int // for the order; overrides come last
}

// Error reads "gateway.yaml:7:9: pool.size: …".
func (e Error) Error() string {
	if e.Path == "" {
		return e.Position + ": " + e.Text
	}
	return e.Position + ": " + e.Path + ": " + e.Text
}

// Errors is everything that is wrong with a configuration, in the order of its lines.
type Errors []Error

// Error puts each on a line of its own.
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

// position is where a value came from: a line of the file, or a variable of the environment.
type position struct {
	line, column int
	variable     string
}

// fail notes that the value at path is wrong. Where the file does not mention it, the nearest block around it is blamed.
func (d *decoder) fail(path, format string, args ...any) {
	at, found := d.positions[path]
	for around := path; !found && around != ""; {
		around = parentPath(around)
		at, found = d.positions[around]
	}
	d.failAt(at, path, fmt.Sprintf(format, args...))
}

func (d *decoder) failAt(at position, path, text string) {
	e := Error{Position: fmt.Sprintf("%s:%d:%d", d.file, max(at.line, 1), max(at.column, 1)), Path: path, Text: text, line: at.line}
	if at.variable != "" {
		e.Position, e.line = at.variable, 1<<30
	}
	d.errors = append(d.errors, e)
}

// parentPath returns the path of the block that holds path.
func parentPath(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// syntaxError says where a file stops being YAML.
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

// didYouMean returns " (did you mean X?)" for the known word nearest to word, or "" where none is near.
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
	return fmt.Sprintf(" (did you mean %s?)", nearest)
}

// didYouMeanOrList is didYouMean for words few enough to name them all where none is near.
func didYouMeanOrList(word string, known []string) string {
	if hint := didYouMean(word, known); hint != "" {
		return hint
	}
	return " (known here: " + strings.Join(known, ", ") + ")"
}

// editDistance is Levenshtein's, over bytes and deaf to case; words of absurd length are simply far.
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
