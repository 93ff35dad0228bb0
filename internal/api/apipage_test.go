// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/sluice-push/sluice/internal/api"
)

// TestAPIPageIsUpToDate compares docs/reference/api.md with the OpenAPI document. After a change, make
// reference writes the page.
func TestAPIPageIsUpToDate(t *testing.T) {
	var document yaml.Node
	if err := yaml.Unmarshal(api.OpenAPI(), &document); err != nil {
		t.Fatal(err)
	}
	p := &apiPage{root: ordered{document.Content[0]}}
	p.write()
	comparePage(t, "../../docs/reference/api.md", strings.TrimRight(p.String(), "\n")+"\n")
}

// ordered is a value of the document whose members keep their order.
type ordered struct{ *yaml.Node }

// get returns the value at a path of names. It is empty if there is none.
func (o ordered) get(path ...string) ordered {
	for _, name := range path {
		next := ordered{&yaml.Node{}}
		for key, value := range o.members() {
			if key == name {
				next = value
			}
		}
		o = next
	}
	return o
}

func (o ordered) members() iter.Seq2[string, ordered] {
	return func(yield func(string, ordered) bool) {
		for i := 0; o.Kind == yaml.MappingNode && i+1 < len(o.Content); i += 2 {
			if !yield(o.Content[i].Value, ordered{o.Content[i+1]}) {
				return
			}
		}
	}
}

func (o ordered) items() (items []ordered) {
	if o.Kind == yaml.SequenceNode {
		for _, item := range o.Content {
			items = append(items, ordered{item})
		}
	}
	return items
}

// json returns the value as JSON, with its members in order.
func (o ordered) json(b *bytes.Buffer) {
	switch o.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		for key, value := range o.members() {
			if b.Bytes()[b.Len()-1] != '{' {
				b.WriteByte(',')
			}
			fmt.Fprintf(b, "%q:", key)
			value.json(b)
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range o.items() {
			if i > 0 {
				b.WriteByte(',')
			}
			item.json(b)
		}
		b.WriteByte(']')
	default:
		var value any
		if err := o.Decode(&value); err != nil {
			panic(err)
		}
		e := json.NewEncoder(b)
		e.SetEscapeHTML(false)
		if err := e.Encode(value); err != nil {
			panic(err)
		}
		b.Truncate(b.Len() - 1) // the line break
	}
}

// apiPage writes the page.
type apiPage struct {
	strings.Builder
	root ordered
}

func (p *apiPage) printf(format string, args ...any) { fmt.Fprintf(&p.Builder, format, args...) }

// resolve returns the value that a reference refers to, and the name of it.
func (p *apiPage) resolve(o ordered) (value ordered, name string) {
	ref := o.get("$ref").Value
	if ref == "" {
		return o, ""
	}
	path := strings.Split(strings.TrimPrefix(ref, "#/"), "/")
	return p.root.get(path...), path[len(path)-1]
}

// text writes a description in lines of up to 100 columns. Tables stay as they are.
func (p *apiPage) text(description string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(description), "\n\n") {
		if !strings.HasPrefix(paragraph, "|") {
			paragraph = wrapText(paragraph)
		}
		if paragraph != "" {
			p.printf("%s\n\n", paragraph)
		}
	}
}

// cell returns a description as the text of a cell.
func cell(description string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(description), " "), "|", `\|`)
}

func (p *apiPage) write() {
	p.printf("# API reference\n\n")
	p.text("The HTTP API, from the OpenAPI document that `gateway openapi` prints and a gateway serves at `/openapi.yaml`.")
	p.text(p.root.get("info", "description").Value)
	for _, tag := range p.root.get("tags").items() {
		name := tag.get("name").Value
		p.printf("## %s\n\n", strings.ToUpper(name[:1])+name[1:])
		p.text(tag.get("description").Value)
		for path, item := range p.root.get("paths").members() {
			for method, operation := range item.members() {
				if tags := operation.get("tags").items(); tags != nil && tags[0].Value == name {
					p.operation(strings.ToUpper(method), path, item, operation)
				}
			}
		}
	}
	p.printf("## Objects\n\n")
	for name, schema := range p.root.get("components", "schemas").members() {
		p.schema(name, schema)
	}
}

func (p *apiPage) operation(method, path string, item, operation ordered) {
	p.printf("### %s %s\n\n%s.\n\n", method, path, wrapText(operation.get("summary").Value))
	p.text(operation.get("description").Value)
	if parameters := append(item.get("parameters").items(), operation.get("parameters").items()...); parameters != nil {
		p.printf("| parameter | in | type | meaning |\n|---|---|---|---|\n")
		for _, parameter := range parameters {
			parameter, _ = p.resolve(parameter)
			p.printf("| `%s` | %s | %s | %s |\n", parameter.get("name").Value, parameter.get("in").Value, p.typeOf(parameter.get("schema")), cell(parameter.get("description").Value))
		}
		p.printf("\n")
	}
	for mediaType, content := range operation.get("requestBody", "content").members() {
		p.printf("Body, `%s`: %s\n\n", mediaType, p.typeOf(content.get("schema")))
		p.examples(mediaType, content)
	}
	p.printf("| status | meaning | body |\n|---|---|---|\n")
	for status, response := range operation.get("responses").members() {
		response, _ = p.resolve(response)
		var bodies []string
		for mediaType, content := range response.get("content").members() {
			body := "`" + mediaType + "`"
			if _, name := p.resolve(content.get("schema")); name != "" {
				body = p.typeOf(content.get("schema"))
			}
			bodies = append(bodies, body)
		}
		p.printf("| %s | %s | %s |\n", status, cell(response.get("description").Value), strings.Join(bodies, ", "))
	}
	p.printf("\n")
	for status, response := range operation.get("responses").members() {
		for mediaType, content := range response.get("content").members() {
			if content.get("examples").Content != nil {
				p.printf("Response %s:\n\n", status)
				p.examples(mediaType, content)
			}
		}
	}
}

// examples writes the examples of a body. Its lines can be streams.
func (p *apiPage) examples(mediaType string, content ordered) {
	for name, example := range content.get("examples").members() {
		value := example.get("value")
		p.printf("%s:\n\n", cmp.Or(example.get("summary").Value, strings.ToUpper(name[:1])+name[1:]))
		if value.Kind == yaml.ScalarNode {
			p.printf("```text\n%s\n```\n\n", strings.TrimSpace(value.Value))
			continue
		}
		var text, indented bytes.Buffer
		value.json(&text)
		if err := json.Indent(&indented, text.Bytes(), "", "  "); err != nil {
			panic(fmt.Sprintf("%s: %v", mediaType, err))
		}
		p.printf("```json\n%s\n```\n\n", indented.String())
	}
}

// typeOf describes the type of a value in one line.
func (p *apiPage) typeOf(schema ordered) string {
	if _, name := p.resolve(schema); name != "" {
		return fmt.Sprintf("[%s](#%s)", name, strings.ToLower(name))
	}
	var words []string
	for _, word := range schema.get("enum").items() {
		words = append(words, "`"+word.Value+"`")
	}
	kind := schema.get("type").Value
	if kinds := schema.get("type").items(); kinds != nil {
		kind = kinds[0].Value + " or null"
	}
	switch {
	case words != nil:
		return strings.Join(words, ", ")
	case kind == "array":
		return "list of " + p.typeOf(schema.get("items"))
	case schema.get("format").Value != "":
		return kind + " (" + schema.get("format").Value + ")"
	}
	limits := ""
	if low := schema.get("minimum").Value; low != "" {
		limits += ", from " + low
	}
	if high := schema.get("maximum").Value; high != "" {
		limits += " to " + high
	}
	return cmp.Or(kind, "any") + limits
}

func (p *apiPage) schema(name string, schema ordered) {
	p.printf("### %s\n\n", name)
	if name == "Reason" {
		p.printf("One of the [reasons](reasons.md). Later versions may add reasons: decide by the status.\n\n")
		return
	}
	p.text(schema.get("description").Value)
	if words := schema.get("enum").items(); words != nil {
		p.printf("%s\n\n", wrapText("One of "+p.typeOf(schema)+"."))
	}
	for _, keyword := range []string{"allOf", "anyOf"} {
		for _, part := range schema.get(keyword).items() {
			if _, other := p.resolve(part); other != "" {
				p.printf("* %s: the fields of %s\n", map[string]string{"allOf": "All", "anyOf": "One of these"}[keyword], p.typeOf(part))
			}
		}
		if schema.get(keyword).Content != nil {
			p.printf("\n")
		}
		for _, part := range schema.get(keyword).items() {
			p.fields(part)
		}
	}
	p.fields(schema)
}

// fields writes the table of the properties of an object.
func (p *apiPage) fields(schema ordered) {
	if schema.get("properties").Content == nil {
		return
	}
	required := map[string]bool{}
	for _, name := range schema.get("required").items() {
		required[name.Value] = true
	}
	p.printf("| field | type | meaning |\n|---|---|---|\n")
	for name, property := range schema.get("properties").members() {
		mark := ""
		if required[name] {
			mark = ", required"
		}
		target, _ := p.resolve(property)
		description := property.get("description").Value
		if description == "" && target.get("properties").Content == nil && target.get("enum").Content == nil {
			description = target.get("description").Value
		}
		p.printf("| `%s` | %s%s | %s |\n", name, p.typeOf(property), mark, cell(description))
	}
	p.printf("\n")
}
