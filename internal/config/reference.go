// SPDX-License-Identifier: Apache-2.0

package config

import (
	"cmp"
	"fmt"
	"reflect"
	"strings"
)

// Reference returns a Markdown table of all keys with their values, defaults and meanings.
func Reference() string {
	var b strings.Builder
	b.WriteString("| key | value | default | meaning |\n|---|---|---|---|\n")
	reference(&b, fieldDocs(), "", reflect.TypeFor[Config](), nil)
	return b.String()
}

func reference(b *strings.Builder, comments map[string]string, path string, t reflect.Type, preset map[string]string) {
	for _, f := range fieldsOf(t) {
		at, inner := joinPath(path, f.name), f.Type
		switch f.Type.Kind() {
		case reflect.Map:
			at, inner = at+".NAME", f.Type.Elem().Elem()
		case reflect.Pointer:
			inner = f.Type.Elem()
		case reflect.Slice:
			at, inner = at+"[]", f.Type.Elem()
		}
		comment := comments[t.Name()+"."+f.Name]
		if from := f.inherit; from != "" {
			fmt.Fprintf(b, "| `%s` | the keys of `%s`; they override those | | |\n", at, strings.ToLower(from))
			continue
		}
		if isBlock(inner) {
			if comment != "" {
				fmt.Fprintf(b, "| `%s` | block | | %s |\n", at, comment)
			}
			reference(b, comments, at, inner, f.preset)
			continue
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", at, escapeCell(f.allowed.describe(inner)), f.defaultCell(preset[f.name]), comment)
	}
}

func (f field) defaultCell(preset string) string {
	switch def := cmp.Or(preset, f.Tag.Get("default")); {
	case f.required:
		return "required"
	case def != "":
		return "`" + def + "`"
	default:
		return ""
	}
}

// escapeCell escapes the character that would end a table cell.
func escapeCell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
