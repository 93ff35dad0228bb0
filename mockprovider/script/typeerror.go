// SPDX-License-Identifier: Apache-2.0

package script

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

var unknownKey = regexp.MustCompile(`^field (.*) not found in type .*$`)

// FormatError rewrites an error of the YAML library about text, which was to be loaded into a value
// of the type of into: one line for each mistake, with the file, the line and the key, and without
// Go types.
func FormatError(file string, text []byte, into any, err error) error {
	var many *yaml.LoadErrors
	var one *yaml.LoadError
	switch {
	case errors.As(err, &many):
	case errors.As(err, &one):
		many = &yaml.LoadErrors{Errors: []*yaml.LoadError{one}}
	default:
		return fmt.Errorf("%s: %w", file, err)
	}
	var errs []error
	for _, e := range many.Errors {
		message := unknownKey.ReplaceAllString(e.Message, "$1: no such key")
		if strings.HasPrefix(message, "cannot construct ") {
			message = describeTypeError(text, reflect.TypeOf(into), e.Mark)
		}
		errs = append(errs, fmt.Errorf("%s: line %d: %s", file, max(e.Mark.Line, 1), message))
	}
	return errors.Join(errs...)
}

// describeTypeError returns the path of the value at a position of the text, and what is allowed
// there.
func describeTypeError(text []byte, into reflect.Type, at yaml.Mark) string {
	var root yaml.Node
	if err := yaml.Load(text, &root); err == nil && len(root.Content) == 1 {
		if path, t, ok := findValue(root.Content[0], "", into, at); ok {
			return strings.TrimPrefix(path+": must be "+describeType(t), ": ")
		}
	}
	return "a value has the wrong type"
}

// findValue returns the path and the type of the value at that position.
func findValue(n *yaml.Node, path string, t reflect.Type, at yaml.Mark) (string, reflect.Type, bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.Line == at.Line && n.Column == at.Column {
		return path, t, true
	}
	for i, child := range n.Content {
		childPath, childType := fmt.Sprintf("%s[%d]", path, i), reflect.Type(nil)
		switch {
		case n.Kind == yaml.SequenceNode && t.Kind() == reflect.Slice:
			childType = t.Elem()
		case n.Kind == yaml.MappingNode && i%2 == 1:
			childPath = strings.TrimPrefix(path+"."+n.Content[i-1].Value, ".")
			childType = memberType(t, n.Content[i-1].Value)
		}
		if childType == nil {
			continue
		}
		if path, t, ok := findValue(child, childPath, childType, at); ok {
			return path, t, true
		}
	}
	return "", nil, false
}

// memberType returns the type of the member with that name, or nil.
func memberType(t reflect.Type, name string) reflect.Type {
	if t.Kind() == reflect.Map {
		return t.Elem()
	}
	if t.Kind() == reflect.Struct {
		for i := range t.NumField() {
			if keyOf(t.Field(i)) == name {
				return t.Field(i).Type
			}
		}
	}
	return nil
}

// keyOf returns the name of a field in YAML.
func keyOf(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// describeType says which values a type allows.
func describeType(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration (write it as 200ms, 5s or 1m)"
	case t.Kind() == reflect.Struct:
		var keys []string
		for i := range t.NumField() {
			keys = append(keys, keyOf(t.Field(i)))
		}
		return "an object with some of the keys " + strings.Join(keys, ", ")
	}
	switch t.Kind() {
	case reflect.Slice:
		return "a list"
	case reflect.Map:
		return "an object"
	case reflect.Bool:
		return "true or false"
	case reflect.Float64:
		return "a number"
	case reflect.String:
		return "a text"
	default:
		return "a whole number"
	}
}
