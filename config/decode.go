// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// decoder fills a Config from a file's nodes and the environment, and notes everything that is wrong on the way.
type decoder struct {
	file   string
	dir    string
	root   reflect.Value
	env    map[string]string
	known  map[string]bool  // every variable that overrides something
	at     map[string]place // where each value came from, by path
	errors Errors
}

// field is one key of a block.
type field struct {
	reflect.StructField
	name     string
	allowed  allowed
	required bool
	secret   bool
	preset   map[string]string // defaults of single keys of the block, in place of its own
}

func fieldsOf(t reflect.Type) []field {
	fields := make([]field, t.NumField())
	for i := range fields {
		f := t.Field(i)
		fields[i] = field{
			StructField: f, name: f.Tag.Get("name"), allowed: readAllowed(f.Tag.Get("allowed")),
			required: f.Tag.Get("required") == "true", secret: f.Tag.Get("secret") == "true",
			preset: pairs(f.Tag.Get("preset")),
		}
	}
	return fields
}

// pairs reads key=value,key=value.
func pairs(tag string) map[string]string {
	found := map[string]string{}
	for pair := range strings.SplitSeq(tag, ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			found[name] = value
		}
	}
	return found
}

// preset sets keys of a block to other defaults than the block's own.
func preset(block reflect.Value, values map[string]string) {
	for i, f := range fieldsOf(block.Type()) {
		if def, ok := values[f.name]; ok {
			block.Field(i).Set(mustRead(f.Type, def))
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// isBlock reports whether t is a mapping with keys of its own, not a single value that happens to be a struct.
func isBlock(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[Rate]() && t != reflect.TypeFor[Endpoint]()
}

// prepare sets a fresh block to its defaults: those of the tags, or what the block that it inherits from holds by now.
func (d *decoder) prepare(block reflect.Value) {
	for i, f := range fieldsOf(block.Type()) {
		v := block.Field(i)
		switch from, def := f.Tag.Get("inherit"), f.Tag.Get("default"); {
		case from != "":
			v.Set(lookup(d.root, from))
		case isBlock(f.Type):
			d.prepare(v)
			preset(v, f.preset)
		case def != "" && f.Type.Kind() == reflect.Slice:
			v.Set(reflect.ValueOf(strings.Split(def, ",")))
		case def != "":
			v.Set(mustRead(f.Type, def))
		}
	}
}

// lookup follows Go field names such as Quota.FCM.
func lookup(v reflect.Value, names string) reflect.Value {
	for name := range strings.SplitSeq(names, ".") {
		v = v.FieldByName(name)
	}
	return v
}

// block fills a struct from a mapping. Its fields are filled in the order of the struct, not of the file.
func (d *decoder) block(path string, node *yaml.Node, block reflect.Value) {
	fields := fieldsOf(block.Type())
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	children := d.mapping(path, node)
	for _, child := range children {
		if !slices.Contains(names, child.name) {
			d.failAt(child.place, join(path, child.name), "unknown key"+orOneOf(child.name, names))
		}
	}
	for i, f := range fields {
		at, value := join(path, f.name), children.find(f.name)
		before := len(d.errors)
		d.value(at, f, value, block.Field(i))
		if f.required && lacks(block.Field(i)) && len(d.errors) == before {
			d.fail(at, "required: %s", f.phrase())
		}
	}
}

// value fills one field of whatever type from node, which is nil where the file does not mention it.
func (d *decoder) value(path string, f field, node *yaml.Node, v reflect.Value) {
	switch t := v.Type(); {
	case isBlock(t):
		d.block(path, node, v)
	case t.Kind() == reflect.Pointer:
		d.optional(path, node, v)
	case t.Kind() == reflect.Map:
		d.named(path, node, v)
	case t.Kind() == reflect.Slice && isBlock(t.Elem()):
		d.blocks(path, node, v)
	case t.Kind() == reflect.Slice:
		d.list(path, f, node, v)
	default:
		d.single(path, f, node, v)
	}
}

// optional fills a block that is nil unless the file or the environment mentions it.
func (d *decoder) optional(path string, node *yaml.Node, v reflect.Value) {
	t := v.Type().Elem()
	if mentioned := d.overridden(path, t); empty(node) && !mentioned {
		return
	}
	v.Set(reflect.New(t))
	d.prepare(v.Elem())
	d.block(path, node, v.Elem())
}

// named fills a map of blocks.
func (d *decoder) named(path string, node *yaml.Node, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	for _, child := range d.mapping(path, node) {
		block := reflect.New(v.Type().Elem().Elem())
		d.prepare(block.Elem())
		d.block(join(path, child.name), child.node, block.Elem())
		v.SetMapIndex(reflect.ValueOf(child.name), block)
	}
}

// blocks fills a list of blocks.
func (d *decoder) blocks(path string, node *yaml.Node, v reflect.Value) {
	if empty(node) {
		return // what was inherited stays
	}
	v.SetZero()
	for i, item := range d.sequence(path, node) {
		block := reflect.New(v.Type().Elem()).Elem()
		d.prepare(block)
		d.block(fmt.Sprintf("%s[%d]", path, i), item, block)
		v.Set(reflect.Append(v, block))
	}
}

// list fills a list of single values. In the environment, commas stand between them.
func (d *decoder) list(path string, f field, node *yaml.Node, v reflect.Value) {
	var items []*yaml.Node
	if text, found := d.override(path); found {
		for word := range strings.SplitSeq(text, ",") {
			items = append(items, &yaml.Node{Kind: yaml.ScalarNode, Value: strings.TrimSpace(word)})
		}
	} else if items = d.sequence(path, node); empty(node) {
		return
	}
	v.SetZero()
	for i, item := range items {
		element := reflect.New(v.Type().Elem()).Elem()
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.Line > 0 {
			d.at[at] = place{line: item.Line, column: item.Column}
		}
		d.text(at, f, content(item), element)
		v.Set(reflect.Append(v, element))
	}
}

// single fills a value that stands alone, from the environment if it says something.
func (d *decoder) single(path string, f field, node *yaml.Node, v reflect.Value) {
	if text, found := d.override(path); found {
		d.text(path, f, &yaml.Node{Kind: yaml.ScalarNode, Value: text}, v)
		return
	}
	if !empty(node) {
		d.text(path, f, content(node), v)
	}
	if file, ok := v.Interface().(File); ok && file != "" && !filepath.IsAbs(string(file)) {
		v.SetString(filepath.Join(d.dir, string(file)))
	}
}

// text reads a single value and refuses what is not allowed.
func (d *decoder) text(path string, f field, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.ScalarNode {
		d.fail(path, "%s does not belong here: must be %s", shape(node), f.allowed.phrase(v.Type()))
		return
	}
	if err := read(v, node.Value); err == nil && f.allowed.permits(v, node.Value) {
		return
	}
	d.fail(path, "%smust be %s", d.shown(f, node.Value), f.allowed.phrase(v.Type()))
}
