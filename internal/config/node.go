// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// child is one key of a mapping and its value.
type child struct {
	name     string
	position position
	node     *yaml.Node
}

type children []child

// find returns the value of a key, or nil if the mapping does not contain it.
func (cs children) find(name string) *yaml.Node {
	for _, c := range cs {
		if c.name == name {
			return c.node
		}
	}
	return nil
}

// mapping returns the keys and values of a mapping and records their positions. It rejects
// duplicate keys, and a node that is not a mapping.
func (d *decoder) mapping(path string, node *yaml.Node) children {
	if node = content(node); isEmpty(node) {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		d.fail(path, "%s does not belong here: must be a block of keys", describeNode(node))
		return nil
	}
	found, lines := make(children, 0, len(node.Content)/2), make(map[string]int, len(node.Content)/2)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key := content(node.Content[i])
		at := position{line: node.Content[i].Line, column: node.Content[i].Column}
		if key == nil || key.Kind != yaml.ScalarNode || key.Value == "" {
			d.failAt(at, path, "a key must be a plain word")
			continue
		}
		if line, twice := lines[key.Value]; twice {
			d.failAt(at, joinPath(path, key.Value), fmt.Sprintf("written twice, first in line %d", line))
			continue
		}
		lines[key.Value] = at.line
		if d.describe {
			d.setPosition(joinPath(path, key.Value), at)
		}
		found = append(found, child{key.Value, at, node.Content[i+1]})
	}
	return found
}

// sequence returns the items of a list. It rejects a node that is not a list.
func (d *decoder) sequence(path string, node *yaml.Node) []*yaml.Node {
	if node = content(node); isEmpty(node) {
		return nil
	}
	if node.Kind != yaml.SequenceNode {
		d.fail(path, "%s does not belong here: must be a list", describeNode(node))
		return nil
	}
	for i, item := range node.Content {
		d.setPosition(fmt.Sprintf("%s[%d]", path, i), position{line: item.Line, column: item.Column})
	}
	return node.Content
}

// isEmpty reports whether a node has no value, which means the default.
func isEmpty(node *yaml.Node) bool {
	node = content(node)
	return node == nil || (node.Kind == yaml.ScalarNode && node.Tag == "!!null")
}

// describeNode returns the kind of a node, for error messages.
func describeNode(node *yaml.Node) string {
	switch {
	case isEmpty(node):
		return "an empty value"
	case node.Kind == yaml.MappingNode:
		return "a block of keys"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	default:
		return "a single value"
	}
}

// quoteValue returns the rejected value and a separator, as the beginning of an error. It returns
// "" if the value may be a secret or is long.
func (d *decoder) quoteValue(f *field, text string) string {
	hasPassword := f.Type == reflect.TypeFor[ProxyURL]() && strings.Contains(text, "@") ||
		f.Type == reflect.TypeFor[TracesURL]() && strings.ContainsAny(text, "@?")
	if f.secret || hasPassword || len(text) > 100 {
		return ""
	}
	return fmt.Sprintf("%q: ", text)
}

// isMissing reports whether a field has no value from the file, the environment or a default.
func isMissing(v reflect.Value) bool {
	if v.Kind() == reflect.Map || v.Kind() == reflect.Slice {
		return v.Len() == 0
	}
	return v.IsZero()
}

// describe describes what a field contains, for the error about a missing key.
func (f field) describe() string {
	switch {
	case f.Type.Kind() == reflect.Map:
		return "at least one " + f.name[:len(f.name)-1] + ", by its name"
	case f.Type.Kind() == reflect.Slice:
		return "at least one " + f.name[:len(f.name)-1]
	default:
		return f.allowed.describe(f.Type)
	}
}
