// SPDX-License-Identifier: Apache-2.0

package docsite

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// repository has the files outside of the documentation that pages link to.
const repository = "https://github.com/sluice-push/sluice/blob/main/"

//go:embed page.html style.css site.js
var assets embed.FS

var pageTemplate = template.Must(template.ParseFS(assets, "page.html"))

// Files renders the documentation in docs and returns the files of the site by name. README.md becomes
// index.html; its headings and links are the navigation. A folder without a README.md gets a list of
// its pages. All links are relative, so that the site works under any path.
func Files(docs fs.FS) (map[string][]byte, error) {
	s := &site{docs: docs, pages: map[string]*Page{}, files: map[string][]byte{}}
	if err := fs.WalkDir(docs, ".", s.add); err != nil {
		return nil, fmt.Errorf("docsite: %w", err)
	}
	s.addFolderLists()
	if s.pages["README.md"] == nil {
		return nil, fmt.Errorf("docsite: there is no README.md")
	}
	for _, name := range []string{"style.css", "site.js"} {
		s.files[name], _ = assets.ReadFile(name) // embedded
	}
	for name := range s.pages {
		if err := s.write(name); err != nil {
			return nil, fmt.Errorf("docsite: %s: %w", name, err)
		}
	}
	return s.files, s.writeSearchIndex()
}

type site struct {
	docs  fs.FS
	pages map[string]*Page // by the name of the Markdown file
	files map[string][]byte
}

func (s *site) add(name string, entry fs.DirEntry, err error) error {
	if err != nil || entry.IsDir() {
		return err
	}
	content, err := fs.ReadFile(s.docs, name)
	switch path.Ext(name) {
	case ".md":
		if err == nil {
			s.pages[name], err = Render(content, func(destination string) string { return s.resolve(name, destination) })
		}
	case ".svg", ".png":
		s.files[name] = content
	}
	return err
}

// resolve returns the link in the site for a link of the page at from.
func (s *site) resolve(from, destination string) string {
	file, anchor := SplitLink(from, destination)
	if file == "" {
		return destination
	}
	if anchor != "" {
		anchor = "#" + anchor
	}
	if strings.HasPrefix(file, "../") {
		return repository + strings.TrimPrefix(file, "../") + anchor
	}
	if info, err := fs.Stat(s.docs, file); err == nil && info.IsDir() {
		file = path.Join(file, "README.md")
	}
	return relative(from, htmlName(file)) + anchor
}

// htmlName returns the name of a page in the site. Other files keep their names.
func htmlName(file string) string {
	if base, found := strings.CutSuffix(file, "README.md"); found {
		return base + "index.html"
	}
	if base, found := strings.CutSuffix(file, ".md"); found {
		return base + ".html"
	}
	return file
}

// relative returns the path from a page to a file.
func relative(from, file string) string {
	return strings.Repeat("../", strings.Count(from, "/")) + file
}

// addFolderLists adds a page with the list of pages to each folder that has no README.md.
func (s *site) addFolderLists() {
	lists := map[string]*bytes.Buffer{}
	for _, name := range slices.Sorted(maps.Keys(s.pages)) {
		dir := path.Dir(name)
		if s.pages[path.Join(dir, "README.md")] != nil {
			continue
		}
		if lists[dir] == nil {
			lists[dir] = bytes.NewBufferString("# " + strings.ToUpper(dir[:1]) + dir[1:] + "\n\n")
		}
		fmt.Fprintf(lists[dir], "* [%s](%s)\n", s.pages[name].Title, path.Base(name))
	}
	for dir, list := range lists {
		name := path.Join(dir, "README.md")
		s.pages[name], _ = Render(list.Bytes(), func(destination string) string { return s.resolve(name, destination) }) // valid
	}
}

// navGroup is a group of links in the navigation.
type navGroup struct {
	Title string
	Links []navLink
}

type navLink struct {
	Title, Href string
	Current     bool
}

// navigation returns the pages that README.md lists, by its headings, as seen from the page at from.
func (s *site) navigation(from string) (groups []navGroup) {
	contents := s.pages["README.md"]
	for i := range contents.sections {
		group := navGroup{Title: contents.sections[i].heading.Text}
		for _, destination := range contents.sections[i].links {
			file, anchor := SplitLink("README.md", destination)
			if info, err := fs.Stat(s.docs, file); err == nil && info.IsDir() {
				file = path.Join(file, "README.md")
			}
			if page := s.pages[file]; page != nil && anchor == "" {
				group.Links = append(group.Links, navLink{page.Title, relative(from, htmlName(file)), file == from})
			}
		}
		if group.Links != nil {
			groups = append(groups, group)
		}
	}
	return groups
}

// write writes the HTML of a page.
func (s *site) write(name string) error {
	var out bytes.Buffer
	err := pageTemplate.Execute(&out, map[string]any{
		"Page": s.pages[name], "Navigation": s.navigation(name), "Root": relative(name, ""), "IsIndex": name == "README.md",
	})
	s.files[htmlName(name)] = out.Bytes()
	return err
}

// writeSearchIndex writes the text of all sections as a script, which also works in pages that are
// opened as files.
func (s *site) writeSearchIndex() error {
	type entry struct {
		Page    string `json:"page"`
		Heading string `json:"heading"`
		Href    string `json:"href"`
		Text    string `json:"text"`
	}
	var entries []entry
	for _, name := range slices.Sorted(maps.Keys(s.pages)) {
		page := s.pages[name]
		for i := range page.sections {
			part := &page.sections[i]
			if body := strings.Join(strings.Fields(part.text.String()), " "); body != "" && part.heading.Anchor != "" {
				entries = append(entries, entry{page.Title, part.heading.Text, htmlName(name) + "#" + part.heading.Anchor, body})
			}
		}
	}
	index, err := json.Marshal(entries)
	s.files["search.js"] = append(append([]byte("searchIndex = "), index...), ";\n"...)
	return err
}

// Write writes the site to a folder, which it creates.
func Write(docs fs.FS, dir string) error {
	files, err := Files(docs)
	if err != nil {
		return err
	}
	for name, content := range files {
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("docsite: %w", err)
		}
		if err := os.WriteFile(file, content, 0o644); err != nil {
			return fmt.Errorf("docsite: %w", err)
		}
	}
	return nil
}

// contentSecurityPolicy allows only files of the site.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the site. It renders it at the first request. Use http.StripPrefix to serve it under
// a path, which must end in a slash.
func Handler(docs fs.FS) http.Handler {
	rendered := sync.OnceValues(func() (map[string][]byte, error) { return Files(docs) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		files, err := rendered()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		if name == "" || strings.HasSuffix(name, "/") {
			name += "index.html"
		}
		content, found := files[name]
		if !found {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Security-Policy", contentSecurityPolicy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-cache")
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	})
}
