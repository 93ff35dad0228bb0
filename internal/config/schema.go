// SPDX-License-Identifier: Apache-2.0

package config

import (
	"embed"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

// structSource is the source code of the structs. Their comments are the descriptions in the schema
// and the reference, so that there is only one text for each key.
//
//go:embed config.go app.go auth.go
var structSource embed.FS

// fieldDocs returns the comment of each struct and of each of its fields, by TYPE and TYPE.FIELD, on
// one line.
func fieldDocs() map[string]string {
	found := map[string]string{}
	for _, name := range []string{"config.go", "app.go", "auth.go"} {
		source, _ := structSource.ReadFile(name)
		file, err := parser.ParseFile(token.NewFileSet(), name, source, parser.ParseComments)
		if err != nil {
			panic(err) // impossible: the file has been compiled
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if group, ok := n.(*ast.GenDecl); ok && group.Tok == token.TYPE && group.Doc != nil {
				found[group.Specs[0].(*ast.TypeSpec).Name.Name] = strings.Join(strings.Fields(group.Doc.Text()), " ")
			}
			if spec, ok := n.(*ast.TypeSpec); ok {
				collectFieldDocs(spec, found)
			}
			return true
		})
	}
	return found
}

func collectFieldDocs(spec *ast.TypeSpec, found map[string]string) {
	block, ok := spec.Type.(*ast.StructType)
	if !ok {
		return
	}
	for _, f := range block.Fields.List {
		for _, name := range f.Names {
			found[spec.Name.Name+"."+name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
		}
	}
}

// Schema returns the JSON Schema (draft 2020-12) of the file, for validation and completion in
// editors.
func Schema() []byte {
	s := schema{docs: fieldDocs(), defs: map[string]any{}}
	doc := s.block(reflect.TypeFor[Config]())
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["title"] = "Configuration of the Sluice gateway"
	doc["$defs"] = s.defs
	out, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		panic(err) // impossible: the document contains only maps, slices and strings
	}
	return append(out, '\n')
}

type schema struct {
	docs map[string]string
	defs map[string]any // every block except the outermost, by the name of its type
}

// block describes a mapping with known keys.
func (s schema) block(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range fieldsOf(t) {
		property := s.value(f, f.Type)
		if comment := s.docs[t.Name()+"."+f.Name]; comment != "" {
			property["description"] = comment
		}
		properties[f.name] = property
		if f.required {
			required = append(required, f.name)
		}
	}
	return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}

// value describes the value of a key.
func (s schema) value(f field, t reflect.Type) map[string]any {
	switch {
	case t.Kind() == reflect.Pointer:
		return s.value(f, t.Elem())
	case isBlock(t):
		return s.ref(t)
	case t.Kind() == reflect.Map:
		return map[string]any{
			"type": "object", "minProperties": 1, "additionalProperties": s.value(f, t.Elem()),
			"propertyNames": map[string]any{"pattern": appName.String()},
		}
	case t.Kind() == reflect.Slice:
		list := map[string]any{"type": "array", "items": s.value(field{allowed: f.allowed}, t.Elem())}
		if def := f.Tag.Get("default"); def != "" {
			list["default"] = strings.Split(def, ",")
		}
		return list
	default:
		return scalarSchema(f, t)
	}
}

// ref returns a reference to a block in $defs, and describes the block there once.
func (s schema) ref(t reflect.Type) map[string]any {
	if _, done := s.defs[t.Name()]; !done {
		s.defs[t.Name()] = nil // ends the recursion if a block contains itself
		s.defs[t.Name()] = s.block(t)
	}
	return map[string]any{"$ref": "#/$defs/" + t.Name()}
}

// scalarSchema describes a single value.
func scalarSchema(f field, t reflect.Type) map[string]any {
	k := kindOf(t)
	out := map[string]any{"type": k.json}
	if k.pattern != "" {
		out["pattern"] = k.pattern
	}
	if k.example != "" {
		out["examples"] = []string{k.example}
	}
	if def := f.Tag.Get("default"); def != "" {
		out["default"] = jsonLiteral(t, def)
	}
	switch a := f.allowed; {
	case a.words != nil:
		values := make([]any, len(a.words))
		for i, word := range a.words {
			values[i] = jsonLiteral(t, word)
		}
		out["enum"] = values
	case a.pattern != nil:
		out["pattern"] = a.pattern.String()
	case a.lo != "" && k.json == "integer":
		out["minimum"], out["maximum"] = jsonLiteral(t, a.lo), jsonLiteral(t, a.hi)
	}
	return out
}

// jsonLiteral returns the text of a tag as a JSON value of type t.
func jsonLiteral(t reflect.Type, text string) any {
	switch kindOf(t).json {
	case "integer", "boolean":
		return json.RawMessage(text)
	default:
		return text
	}
}
