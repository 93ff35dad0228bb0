// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v4"
)

// decoder fills a Config from the nodes of a file and from the environment, and collects all
// errors. Positions and the names of all variables cost more than the rest, and only the text of
// errors needs them: Parse decodes a file with errors again, with describe.
type decoder struct {
	file      string
	dir       string
	root      reflect.Value
	env       map[string]string // the variables that can override a key of the current block
	knownVars map[string]bool   // variables that override a key: those that are set, with describe all
	errors    Errors

	describe  bool                // visit every key, also those that are not set, and fill in the fields below
	retired   map[string]string   // variables of renamed keys, and the variables that replace them
	positions map[string]position // where each value came from, by path
}

// field is one key of a block.
type field struct {
	reflect.StructField
	name     string
	was      string // the name in earlier versions; empty if the key was not renamed
	allowed  allowed
	required bool
	secret   bool
	restart  bool              // a reload cannot change the key
	reload   bool              // a reload can change the key, also if it cannot change others of the block
	inherit  string            // the block of Config whose values the block starts with
	def      reflect.Value     // the default; invalid if there is none
	preset   map[string]string // defaults of keys within the block that replace the block's own
}

// fieldCache holds the result of fieldsOf by type. Each app has the same blocks.
var fieldCache sync.Map

// fieldsOf returns the fields of a block. The caller must not change them.
func fieldsOf(t reflect.Type) []field {
	if cached, ok := fieldCache.Load(t); ok {
		return cached.([]field)
	}
	fields := make([]field, t.NumField())
	for i := range fields {
		f := t.Field(i)
		fields[i] = field{
			StructField: f, name: f.Tag.Get("name"), was: f.Tag.Get("was"), allowed: parseAllowed(f.Tag.Get("allowed")),
			required: f.Tag.Get("required") == "true", secret: f.Tag.Get("secret") == "true", restart: f.Tag.Get("restart") == "true",
			reload: f.Tag.Get("restart") == "false",
			preset: parsePairs(f.Tag.Get("preset")), inherit: f.Tag.Get("inherit"),
		}
		switch def := f.Tag.Get("default"); {
		case def != "" && f.Type.Kind() == reflect.Slice:
			fields[i].def = reflect.ValueOf(strings.Split(def, ","))
		case def != "":
			fields[i].def = mustParse(f.Type, def)
		}
	}
	fieldCache.Store(t, fields)
	return fields
}

// parsePairs parses key=value,key=value.
func parsePairs(tag string) map[string]string {
	found := map[string]string{}
	for pair := range strings.SplitSeq(tag, ",") {
		if name, value, ok := strings.Cut(pair, "="); ok {
			found[name] = value
		}
	}
	return found
}

// applyPreset replaces the defaults of some keys of a block.
func applyPreset(block reflect.Value, values map[string]string) {
	for i, f := range fieldsOf(block.Type()) {
		if def, ok := values[f.name]; ok {
			block.Field(i).Set(mustParse(f.Type, def))
		}
	}
}

func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// isBlock reports whether t is a mapping with keys. Some single values are structs too.
func isBlock(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[Rate]() && t != reflect.TypeFor[Endpoint]() && t != reflect.TypeFor[Time]()
}

// setDefaults sets a new block to its defaults: those of the tags, or the current values of the
// block that it inherits from.
func (d *decoder) setDefaults(block reflect.Value) {
	for i, f := range fieldsOf(block.Type()) {
		v := block.Field(i)
		switch {
		case f.inherit != "":
			v.Set(fieldByPath(d.root, f.inherit))
		case isBlock(f.Type):
			d.setDefaults(v)
			applyPreset(v, f.preset)
		case f.def.IsValid():
			v.Set(f.def)
		}
	}
}

// fieldByPath returns the field at a path of Go field names, such as Quota.FCM.
func fieldByPath(v reflect.Value, names string) reflect.Value {
	for name := range strings.SplitSeq(names, ".") {
		v = v.FieldByName(name)
	}
	return v
}

// block fills a struct from a mapping, in the order of the struct's fields, not of the file.
func (d *decoder) block(path string, node *yaml.Node, block reflect.Value) {
	env := d.env
	defer func() { d.env = env }()
	if !d.hasOverride(path) {
		d.env = nil
	}
	fields := fieldsOf(block.Type())
	children := d.mapping(path, node)
	for _, child := range children {
		if !slices.ContainsFunc(fields, func(f field) bool { return f.name == child.name }) {
			d.failAt(child.position, joinPath(path, child.name), "unknown key"+unknownKeyHint(child.name, fields))
		}
	}
	for i := range fields {
		f, value := &fields[i], children.find(fields[i].name)
		if value == nil && len(d.env) == 0 && !f.required && !d.describe {
			continue
		}
		d.retire(path, f)
		at, before := joinPath(path, f.name), len(d.errors)
		d.value(at, f, value, block.Field(i))
		if f.required && isMissing(block.Field(i)) && len(d.errors) == before {
			d.fail(at, "required: %s", f.describe())
		}
	}
}

// value fills one field of any type from node, which is nil if the file does not contain the key.
func (d *decoder) value(path string, f *field, node *yaml.Node, v reflect.Value) {
	switch t := v.Type(); {
	case isBlock(t):
		d.block(path, node, v)
	case t.Kind() == reflect.Pointer:
		d.optionalBlock(path, node, v)
	case t.Kind() == reflect.Map:
		d.blockMap(path, node, v)
	case t.Kind() == reflect.Slice && isBlock(t.Elem()):
		d.blockList(path, node, v)
	case t.Kind() == reflect.Slice:
		d.list(path, f, node, v)
	default:
		d.scalar(path, f, node, v)
	}
}

// optionalBlock fills a block that stays nil unless the file or the environment sets one of its
// keys.
func (d *decoder) optionalBlock(path string, node *yaml.Node, v reflect.Value) {
	t := v.Type().Elem()
	if set := d.anyVarSet(path, t); isEmpty(node) && !set {
		return
	}
	v.Set(reflect.New(t))
	d.setDefaults(v.Elem())
	d.block(path, node, v.Elem())
}

// blockMap fills a map of blocks.
func (d *decoder) blockMap(path string, node *yaml.Node, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	for _, child := range d.mapping(path, node) {
		block := reflect.New(v.Type().Elem().Elem())
		d.setDefaults(block.Elem())
		d.block(joinPath(path, child.name), child.node, block.Elem())
		v.SetMapIndex(reflect.ValueOf(child.name), block)
	}
}

// blockList fills a list of blocks.
func (d *decoder) blockList(path string, node *yaml.Node, v reflect.Value) {
	if isEmpty(node) {
		return // keep the inherited list
	}
	v.SetZero()
	for i, item := range d.sequence(path, node) {
		block := reflect.New(v.Type().Elem()).Elem()
		d.setDefaults(block)
		d.block(fmt.Sprintf("%s[%d]", path, i), item, block)
		v.Set(reflect.Append(v, block))
	}
}

// list fills a list of single values. In an environment variable, they are separated by commas.
func (d *decoder) list(path string, f *field, node *yaml.Node, v reflect.Value) {
	var items []*yaml.Node
	if text, found := d.lookupVar(path); found {
		for word := range strings.SplitSeq(text, ",") {
			items = append(items, &yaml.Node{Kind: yaml.ScalarNode, Value: strings.TrimSpace(word)})
		}
	} else if items = d.sequence(path, node); isEmpty(node) {
		return
	}
	v.SetZero()
	for i, item := range items {
		element := reflect.New(v.Type().Elem()).Elem()
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.Line > 0 {
			d.setPosition(at, position{line: item.Line, column: item.Column})
		}
		d.parseScalar(at, f, content(item), element)
		d.resolveFile(element)
		v.Set(reflect.Append(v, element))
	}
}

// scalar fills a single value. The environment has precedence over the file.
func (d *decoder) scalar(path string, f *field, node *yaml.Node, v reflect.Value) {
	if text, found := d.lookupVar(path); found {
		d.parseScalar(path, f, &yaml.Node{Kind: yaml.ScalarNode, Value: text}, v)
		return
	}
	if !isEmpty(node) {
		d.parseScalar(path, f, content(node), v)
	}
	d.resolveFile(v)
}

// resolveFile makes a relative path one that starts at the folder of the configuration.
func (d *decoder) resolveFile(v reflect.Value) {
	if file, ok := v.Interface().(File); ok && file != "" && !filepath.IsAbs(string(file)) {
		v.SetString(filepath.Join(d.dir, string(file)))
	}
}

// in returns the field of a block that is the value of key.
func (f field) in(key field) field {
	f.restart = f.restart || key.restart && !f.reload
	return f
}

// parseScalar parses a single value and rejects a value that is not allowed.
func (d *decoder) parseScalar(path string, f *field, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.ScalarNode {
		d.fail(path, "%s does not belong here: must be %s", describeNode(node), f.allowed.describe(v.Type()))
		return
	}
	if err := parseValue(v, node.Value); err == nil && f.allowed.permits(v, node.Value) {
		return
	}
	d.fail(path, "%smust be %s", d.quoteValue(f, node.Value), f.allowed.describe(v.Type()))
}
