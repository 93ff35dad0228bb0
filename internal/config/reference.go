// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Reference returns the reference of all keys, a page in Markdown.
func Reference() string {
	r := &reference{docs: fieldDocs(), blocks: map[reflect.Type]string{}}
	r.WriteString(referenceStart)
	r.block("", reflect.TypeFor[Config](), field{})
	return r.String()
}

const referenceStart = `# Configuration reference

All keys of the configuration file of ` + "`" + `gateway serve` + "`" + `, in the order of
[examples/gateway.yaml](../../examples/gateway.yaml). ` + "`" + `gateway schema --markdown` + "`" + ` prints this page,
and ` + "`" + `gateway schema` + "`" + ` a JSON Schema for editors.

- **Paths.** ` + "`" + `NAME` + "`" + ` stands for the name of an app, and ` + "`" + `[]` + "`" + ` for each item of a list. Paths of files
  are relative to the folder of the configuration.
- **Units.** Durations, sizes, percentages and rates need a unit: ` + "`" + `1h30m` + "`" + `, ` + "`" + `64KiB` + "`" + `, ` + "`" + `15%` + "`" + `,
  ` + "`" + `600000/min` + "`" + `.
- **Environment.** The variable in the last column overrides the key. Items of a list are separated
  by commas. ` + "`" + `NAME` + "`" + ` in it is the name of the app in capitals, with underscores for dots and dashes.
- **Reload.** The gateway applies a changed file within a second, completely or not at all. It
  refuses a change of a key that says *restart*.

`

// reference writes the page.
type reference struct {
	strings.Builder
	docs   map[string]string
	blocks map[reflect.Type]string // where each type of block is described
}

// block writes the keys of a block, which is the value of key.
func (r *reference) block(path string, t reflect.Type, key field) {
	for _, f := range fieldsOf(t) {
		f = f.in(key)
		if preset, found := key.preset[f.name]; found {
			f.Tag = reflect.StructTag(`default:"` + preset + `"`)
		}
		at, inner := joinPath(path, f.name), f.Type
		switch {
		case f.Type.Kind() == reflect.Map:
			at, inner = at+".NAME", f.Type.Elem().Elem()
		case f.Type.Kind() == reflect.Pointer:
			inner = f.Type.Elem()
		case f.Type.Kind() == reflect.Slice && isBlock(f.Type.Elem()):
			at, inner = at+"[]", f.Type.Elem()
		}
		fmt.Fprintf(&r.Builder, "%s %s\n\n", strings.Repeat("#", min(4, 2+strings.Count(strings.Replace(at, ".NAME", "", 1), "."))), at)
		comment := r.docs[t.Name()+"."+f.Name]
		switch {
		case f.inherit != "":
			r.paragraph(fmt.Sprintf("The keys of [`%s`](#%s). What is set here replaces the value there.", strings.ToLower(f.inherit), anchor(strings.ToLower(f.inherit))))
		case isBlock(inner):
			r.paragraph(cmp.Or(comment, blockDoc(r.docs[inner.Name()])))
			r.blockKeys(at, inner, f)
		default:
			r.paragraph(comment)
			r.row(at, f)
		}
	}
}

// blockKeys writes the keys of a block, or a link if another block of the same type has them.
func (r *reference) blockKeys(at string, t reflect.Type, f field) {
	first, again := r.blocks[t]
	if !again {
		r.blocks[t] = at
		r.block(at, t, f)
		return
	}
	text := fmt.Sprintf("The keys are those of [`%s`](#%s).", first, anchor(first))
	for _, name := range slices.Sorted(maps.Keys(f.preset)) {
		text += fmt.Sprintf(" The default of `%s` is `%s`.", name, f.preset[name])
	}
	r.paragraph(text)
}

// row writes the facts of a key with a single value, or with a list of them.
func (r *reference) row(path string, f field) {
	t, list := f.Type, ""
	if t.Kind() == reflect.Slice {
		t, list = t.Elem(), "list of "
	}
	k := kindOf(t)
	def, reload := f.Tag.Get("default"), "yes"
	switch {
	case f.required:
		def = "required"
	case def != "":
		def = code(strings.ReplaceAll(def, ",", ", "))
	}
	if f.restart {
		reload = "restart"
	}
	r.WriteString("| type | unit | default | allowed | reload | example | environment variable |\n|---|---|---|---|---|---|---|\n")
	fmt.Fprintf(&r.Builder, "| %s | %s | %s | %s | %s | %s | %s |\n\n", list+k.name, k.unit, def, f.allowed.cell(k), reload, code(f.name+": "+f.example()), code(variable(strings.ReplaceAll(path, "[]", "[0]"))))
}

// cell describes the allowed values in the reference.
func (a allowed) cell(k kind) string {
	switch {
	case a.words != nil:
		return code(strings.Join(a.words, "`, `"))
	case a.lo != "":
		return code(a.lo) + " to " + code(a.hi)
	case a.pattern != nil:
		return a.meaning
	case k.unit == "" && k.example != "":
		return k.description
	}
	return ""
}

// example returns a value for the key as the file contains it.
func (f field) example() string {
	t, list := f.Type, f.Type.Kind() == reflect.Slice
	if list {
		t = t.Elem()
	}
	text := cmp.Or(f.Tag.Get("example"), f.Tag.Get("default"), kindOf(t).example)
	switch {
	case list:
		return "[" + strings.ReplaceAll(text, ",", ", ") + "]"
	case t.Kind() == reflect.Bool && text == f.Tag.Get("default"):
		return strconv.FormatBool(text == "false")
	case f.name == "socket_mode": // a number to YAML
		return strconv.Quote(text)
	}
	return text
}

// paragraph writes a text in lines of up to 100 columns.
func (r *reference) paragraph(text string) {
	column := 0
	for word := range strings.FieldsSeq(text) {
		if column > 0 && column+1+len([]rune(word)) > 100 {
			r.WriteByte('\n')
			column = 0
		} else if column > 0 {
			r.WriteByte(' ')
			column++
		}
		r.WriteString(word)
		column += len([]rune(word))
	}
	r.WriteString("\n\n")
}

// blockVerb matches the start of the comment of a type: "Pool configures".
var blockVerb = regexp.MustCompile(`^\w+ (configures|is) `)

// blockDoc returns the comment of a type as a description of the block.
func blockDoc(comment string) string {
	text := blockVerb.ReplaceAllString(comment, "")
	if text == "" {
		return text
	}
	return strings.ToUpper(text[:1]) + text[1:]
}

// anchor returns the anchor of the heading for a path.
func anchor(path string) string {
	return strings.ToLower(strings.NewReplacer(".", "", "[]", "").Replace(path))
}

// code formats a text as code in a cell of a table.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(text, "|", `\|`) + "`"
}
