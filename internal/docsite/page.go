// SPDX-License-Identifier: Apache-2.0

// Package docsite renders the documentation, a folder of Markdown files, as web pages: for the help
// in the console and as a static site. The pages need no other host, no inline script and no inline
// style.
package docsite

import (
	"bytes"
	"fmt"
	"html/template"
	"path"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/renderer/html"
	"github.com/yuin/goldmark/text"
)

// Page is a rendered Markdown file.
type Page struct {
	// Title is the text of the first heading.
	Title string
	// Headings are all headings in order. Their anchors are those of GitHub.
	Headings []Heading
	// Links are the destinations of links and pictures, as they are written in the file.
	Links []string
	// HTML is the content, safe to embed because the documentation is trusted.
	HTML template.HTML

	sections []section
}

// Heading is a heading of a page.
type Heading struct {
	Level        int
	Anchor, Text string
}

// section is what is below a heading: its text for the search, and its links for the navigation.
type section struct {
	heading Heading
	text    strings.Builder
	links   []string
}

// markdown is CommonMark with tables. Comments and <br> in the files stay as they are. Cells have the
// attribute align instead of a style, which a strict Content-Security-Policy forbids.
var markdown = goldmark.New(
	goldmark.WithExtensions(extension.NewTable(extension.WithTableCellAlignMethod(extension.TableCellAlignAttribute))),
	goldmark.WithParserOptions(parser.WithAutoHeadingID()),
	goldmark.WithRendererOptions(html.WithUnsafe()),
)

// scrollable makes what can be wider than the screen scroll by itself, also by keyboard.
var scrollable = strings.NewReplacer("<pre>", `<pre tabindex="0">`, "<table>", `<div class="table" tabindex="0"><table>`, "</table>", "</table></div>")

// Render renders the file of a page. resolve returns the destination of a link or picture of the page.
func Render(source []byte, resolve func(destination string) string) (*Page, error) {
	document := markdown.Parser().Parse(text.NewReader(source), parser.WithContext(parser.NewContext(parser.WithIDs(&anchors{used: map[string]int{}}))))
	p := &Page{sections: []section{{}}}
	err := ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			p.visit(node, source, resolve)
		} else if node.Type() == ast.TypeBlock {
			p.sections[len(p.sections)-1].text.WriteByte(' ')
		}
		return ast.WalkContinue, nil
	})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := markdown.Renderer().Render(&out, source, document); err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	p.HTML = template.HTML(scrollable.Replace(out.String()))
	return p, nil
}

func (p *Page) visit(node ast.Node, source []byte, resolve func(string) string) {
	current := &p.sections[len(p.sections)-1]
	switch n := node.(type) {
	case *ast.Heading:
		anchor, _ := n.AttributeString("id")
		h := Heading{n.Level, string(anchor.([]byte)), plainText(n, source)}
		if p.Title == "" {
			p.Title = h.Text
		}
		p.Headings = append(p.Headings, h)
		p.sections = append(p.sections, section{heading: h})
	case *ast.Link:
		p.Links = append(p.Links, string(n.Destination))
		current.links = append(current.links, string(n.Destination))
		n.Destination = []byte(resolve(string(n.Destination)))
	case *ast.Image:
		p.Links = append(p.Links, string(n.Destination))
		n.Destination = []byte(resolve(string(n.Destination)))
	case *ast.Text:
		current.text.Write(n.Segment.Value(source))
		if n.SoftLineBreak() || n.HardLineBreak() {
			current.text.WriteByte(' ')
		}
	case *ast.FencedCodeBlock:
		current.text.Write(n.Lines().Value(source))
	}
}

// plainText returns the text of a heading without markup.
func plainText(node ast.Node, source []byte) string {
	var out strings.Builder
	for child := node.FirstChild(); child != nil; child = child.NextSibling() {
		if t, ok := child.(*ast.Text); ok {
			out.Write(t.Segment.Value(source))
		} else {
			out.WriteString(plainText(child, source))
		}
	}
	return out.String()
}

// anchors generates the anchors of headings in the same way as GitHub, so that a link works in both.
type anchors struct{ used map[string]int }

// Generate implements parser.IDs.
func (a *anchors) Generate(heading []byte, _ ast.NodeKind) []byte {
	anchor := strings.Map(func(r rune) rune {
		switch {
		case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
			return unicode.ToLower(r)
		case r == ' ':
			return '-'
		}
		return -1
	}, string(heading))
	n := a.used[anchor]
	a.used[anchor]++
	if n > 0 {
		anchor = fmt.Sprintf("%s-%d", anchor, n)
	}
	return []byte(anchor)
}

// Put implements parser.IDs. No heading sets its anchor itself.
func (a *anchors) Put([]byte) {}

// SplitLink returns the file that a link on the page at from refers to, and the anchor. The file is
// empty for links to other sites.
func SplitLink(from, destination string) (file, anchor string) {
	if strings.Contains(destination, "://") || strings.HasPrefix(destination, "mailto:") {
		return "", ""
	}
	file, anchor, _ = strings.Cut(destination, "#")
	if file == "" {
		return from, anchor
	}
	return path.Join(path.Dir(from), file), anchor
}
