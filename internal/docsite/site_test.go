// SPDX-License-Identifier: Apache-2.0

package docsite_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/sluice-push/sluice/docs"
	"github.com/sluice-push/sluice/internal/docsite"
)

func files(t *testing.T, pages map[string]string) map[string][]byte {
	t.Helper()
	fsys := fstest.MapFS{}
	for name, text := range pages {
		fsys[name] = &fstest.MapFile{Data: []byte(text)}
	}
	files, err := docsite.Files(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLinksWorkUnderAnyPath(t *testing.T) {
	got := files(t, map[string]string{
		"README.md":     "# Contents\n\n## Guides\n\n* [First](a.md) and [folder](sub/)\n",
		"a.md":          "# A\n\n[b](sub/b.md#two-words) [folder](sub/) [file](../go.mod) [out](https://example.com/x) ![p](p.svg)\n",
		"sub/b.md":      "# B\n\n## Two words\n\nset secret_file\nonce\n\n[a](../a.md) [self](#two-words) [contents](../README.md)\n",
		"p.svg":         "<svg/>",
		"sub/ignored.x": "",
	})
	for name, want := range map[string][]string{
		"index.html": {`<h2>Guides</h2>`, `<a href="a.html">A</a>`, `<a href="sub/index.html">Sub</a>`},
		"a.html": {
			`href="sub/b.html#two-words"`, `href="sub/index.html"`, `href="https://github.com/sluice-push/sluice/blob/main/go.mod"`,
			`href="https://example.com/x"`, `src="p.svg"`, `<a href="a.html" aria-current="page">`,
		},
		"sub/b.html":     {`<h2 id="two-words">`, `href="../a.html"`, `href="#two-words"`, `href="../index.html"`, `href="../style.css"`, `data-root="../"`},
		"sub/index.html": {`<a href="../sub/b.html">B</a>`},
		"search.js":      {`"href":"sub/b.html#two-words","text":"Two words set secret_file once a self contents"`},
		"p.svg":          {"<svg/>"},
	} {
		for _, text := range want {
			if !strings.Contains(string(got[name]), text) {
				t.Errorf("%s has no %s:\n%s", name, text, got[name])
			}
		}
	}
	if len(got) != 8 {
		t.Errorf("%d files", len(got))
	}
}

func TestAnchorsAreThoseOfGitHub(t *testing.T) {
	page, err := docsite.Render([]byte("# `pool.max_age`\n\n## What to do, first?\n\n## What to do, first?\n\n### A – b\n"), func(to string) string { return to })
	if err != nil {
		t.Fatal(err)
	}
	want := []docsite.Heading{
		{Level: 1, Anchor: "poolmax_age", Text: "pool.max_age"}, {Level: 2, Anchor: "what-to-do-first", Text: "What to do, first?"},
		{Level: 2, Anchor: "what-to-do-first-1", Text: "What to do, first?"}, {Level: 3, Anchor: "a--b", Text: "A – b"},
	}
	for i, h := range want {
		if i >= len(page.Headings) || page.Headings[i] != h {
			t.Errorf("heading %d: %+v, want %+v", i, page.Headings, h)
		}
	}
}

// TestDocumentationRenders renders the real documentation: every page, with what a strict
// Content-Security-Policy allows.
func TestDocumentationRenders(t *testing.T) {
	dir := t.TempDir()
	if err := docsite.Write(docs.FS, dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"index.html", "operations.html", "decisions/index.html", "runbooks/overloaded.html", "growth-apps.svg", "style.css", "site.js", "search.js"} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		for _, forbidden := range []string{" style=", "<script>", " onclick=", "raw HTML omitted"} {
			if strings.HasSuffix(name, ".html") && strings.Contains(string(text), forbidden) {
				t.Errorf("%s contains %q", name, forbidden)
			}
		}
	}
}

func TestHandlerServesUnderPrefix(t *testing.T) {
	h := http.StripPrefix("/console/help/", docsite.Handler(docs.FS))
	for target, want := range map[string]struct {
		status int
		kind   string
	}{
		"/console/help/":                {200, "text/html"},
		"/console/help/decisions/":      {200, "text/html"},
		"/console/help/operations.html": {200, "text/html"},
		"/console/help/style.css":       {200, "text/css"},
		"/console/help/site.js":         {200, "text/javascript"},
		"/console/help/nowhere.html":    {404, "text/plain"},
		"/console/help/../go.mod":       {404, "text/plain"},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, target, nil))
		if w.Code != want.status || !strings.HasPrefix(w.Header().Get("Content-Type"), want.kind) {
			t.Errorf("%s: %d %s", target, w.Code, w.Header().Get("Content-Type"))
		}
	}
}
