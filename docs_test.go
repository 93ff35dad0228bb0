// SPDX-License-Identifier: Apache-2.0

package sluice_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/docsite"
	"github.com/sluice-push/sluice/internal/subprocess"
	"github.com/sluice-push/sluice/internal/testtool"
	"github.com/sluice-push/sluice/mockprovider"
)

// codeBlock is a fenced block of a Markdown file.
type codeBlock struct {
	file     string
	line     int
	language string
	text     string
	notRun   string // the reason in a comment <!-- not run: … --> before the block
	prints   string // the text in a comment <!-- prints: … --> before the block
}

var blockComment = regexp.MustCompile(`^<!-- (not run|prints): (.+) -->$`)

// readCodeBlocks returns the fenced blocks of a Markdown file in order.
func readCodeBlocks(t *testing.T, file string) (blocks []codeBlock) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var open *codeBlock
	next := codeBlock{}
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case open != nil && strings.TrimSpace(line) == "```":
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		case strings.HasPrefix(strings.TrimSpace(line), "```"):
			b := next
			b.file, b.line, b.language = file, i+1, strings.TrimPrefix(strings.TrimSpace(line), "```")
			open, next = &b, codeBlock{}
		default:
			if m := blockComment.FindStringSubmatch(line); m != nil {
				if m[1] == "prints" {
					next.prints = m[2]
				} else {
					next.notRun = m[2]
				}
			}
		}
	}
	if open != nil {
		t.Errorf("%s:%d: the block has no end", file, open.line)
	}
	return blocks
}

// pages lists the Markdown files of the documentation.
func pages(t *testing.T) (files []string) {
	t.Helper()
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md", "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || found == nil {
			t.Fatalf("%s: %v", pattern, err)
		}
		files = append(files, found...)
	}
	return files
}

// maxColumns is the length of a line of a page outside of tables and code.
const maxColumns = 100

// indentedCommand matches a command in an indented block, which TestDocumentedCommandsRun does not see.
var indentedCommand = regexp.MustCompile(`^ {4,}(\$ )?(bin/gateway|curl|docker|gateway|git|go|make|node|npm|php|python3|sudo) `)

// TestPagesAreFormatted checks the length of lines, and that commands are in fenced blocks.
func TestPagesAreFormatted(t *testing.T) {
	for _, file := range pages(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		code := false
		for i, line := range strings.Split(string(text), "\n") {
			fence := strings.HasPrefix(strings.TrimSpace(line), "```")
			if code = code != fence; code || fence {
				continue
			}
			if columns := utf8.RuneCountInString(line); columns > maxColumns && !strings.HasPrefix(line, "|") {
				t.Errorf("%s:%d has %d columns, want at most %d", file, i+1, columns, maxColumns)
			}
			if indentedCommand.MatchString(line) {
				t.Errorf("%s:%d: a command must be in a fenced block: %s", file, i+1, line)
			}
		}
	}
}

// TestPagesLinkToExistingPages checks the links to files and to headings.
func TestPagesLinkToExistingPages(t *testing.T) {
	rendered := map[string]*docsite.Page{}
	render := func(file string) *docsite.Page {
		if rendered[file] == nil {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if rendered[file], err = docsite.Render(text, func(destination string) string { return destination }); err != nil {
				t.Fatal(err)
			}
		}
		return rendered[file]
	}
	for _, file := range pages(t) {
		for _, link := range render(file).Links {
			target, anchor := docsite.SplitLink(file, link)
			if target == "" {
				continue
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s: no such file", file, link)
				continue
			}
			hasAnchor := func(h docsite.Heading) bool { return h.Anchor == anchor }
			if anchor != "" && filepath.Ext(target) == ".md" && !slices.ContainsFunc(render(target).Headings, hasAnchor) {
				t.Errorf("%s: %s: the page has no such heading", file, link)
			}
		}
	}
}

// logLine matches a row of the table of log lines.
var logLine = regexp.MustCompile("(?m)^\\| ((?:`[^`]+`(?:, )?)+) \\| [^|]+ \\| [^|]+ \\|$")

// TestPagesNameExistingLogLines checks that the code has the log lines of docs/troubleshooting.md.
func TestPagesNameExistingLogLines(t *testing.T) {
	text, err := os.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "## Lines in the log")
	var code strings.Builder
	for _, file := range goFiles(t) {
		if text, err := os.ReadFile(file); err == nil && !strings.HasSuffix(file, "_test.go") {
			code.Write(text)
		}
	}
	rows := logLine.FindAllStringSubmatch(table, -1)
	for _, row := range rows {
		for _, span := range codeSpan.FindAllStringSubmatch(row[1], -1) {
			if !strings.Contains(code.String(), span[1]) {
				t.Errorf("docs/troubleshooting.md: no code logs %q", span[1])
			}
		}
	}
	if len(rows) < 10 {
		t.Errorf("only %d log lines found", len(rows))
	}
}

// TestDocumentedCommandsRun runs the code blocks of the documentation against gateway dev.
func TestDocumentedCommandsRun(t *testing.T) {
	run := &documentRun{T: t}
	for _, file := range pages(t) {
		for _, b := range readCodeBlocks(t, file) {
			if b.notRun != "" {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", b.file, b.line), func(t *testing.T) {
				if strings.Contains(b.text, "curl") && os.Getenv("TEST_CLOCK_AHEAD") != "" {
					t.Skip("curl sees the real time, in which the certificates of this test are not valid yet")
				}
				out, err := run.block(t, b)
				if err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				if !strings.Contains(out, b.prints) {
					t.Errorf("the output does not contain %q:\n%s", b.prints, out)
				}
			})
		}
	}
}

// documentRun has one gateway dev for all blocks, started when the first block needs it.
type documentRun struct {
	*testing.T
	dir   string // holds the binary and the ready file
	ready struct {
		URL      string `json:"url"`
		AdminURL string `json:"admin_url"`
		Key      string `json:"key"`
	}
}

// block runs one block and returns its output.
func (r *documentRun) block(t *testing.T, b codeBlock) (string, error) {
	switch b.language {
	case "sh":
		for _, program := range []string{"curl", "jq", "openssl"} {
			if strings.Contains(b.text, program+" ") {
				testtool.Require(t, program)
			}
		}
		const endJobs = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n" // also when a command fails
		return r.command(t, "bash", "-euo", "pipefail", "-c", endJobs+r.local(b.text))
	case "python":
		return r.command(t, "python3", "-c", r.local(b.text))
	case "js":
		return r.command(t, "node", "--input-type=module", "-e", r.local(b.text))
	case "php":
		return r.command(t, "php", "-r", r.local(b.text))
	case "go":
		return r.vet(t, b.text)
	case "yaml":
		return "", checkYAML(b)
	case "json":
		for decoder := json.NewDecoder(strings.NewReader(b.text)); decoder.More(); {
			var v any
			if err := decoder.Decode(&v); err != nil {
				return "", err
			}
		}
	case "text", "":
	default:
		return "", fmt.Errorf("no way to run %q blocks", b.language)
	}
	return "", nil
}

// excerpt matches a part of a configuration.
var excerpt = regexp.MustCompile(`^(audit_log|auth|console|listen|proxy|queue|quota|retry|tls|tracing|trusted_proxies):`)

// checkYAML parses a configuration of the gateway, or a part of one without apps, a configuration of
// the mock, or a fault script of the mock.
func checkYAML(b codeBlock) error {
	if excerpt.MatchString(b.text) {
		if !strings.HasPrefix(b.text, "queue:") {
			b.text += `queue: {nats: {url: "nats://127.0.0.1"}}` + "\n"
		}
		b.text += `apps: {shop: {keys: [{name: k, hash: "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}], fcm: {}}}
`
	}
	if strings.Contains(b.text, "apps:") {
		_, err := config.Parse(b.file, []byte(b.text), nil)
		return err
	}
	if strings.Contains(b.text, "advertise:") {
		_, err := mockprovider.ParseConfig([]byte(b.text))
		return err
	}
	_, err := mockprovider.ParseScript([]byte(b.text))
	return err
}

// command runs a program with gateway in its path, in an empty folder that has the examples.
func (r *documentRun) command(t *testing.T, name string, args ...string) (string, error) {
	testtool.Require(t, name)
	r.start()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "SLUICE_KEY="+r.ready.Key, "PATH="+r.dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = t.TempDir()
	root, err := os.Getwd()
	if err == nil {
		err = os.Symlink(filepath.Join(root, "examples"), filepath.Join(cmd.Dir, "examples"))
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// local replaces the addresses and the key of the documentation by those of the running gateway.
func (r *documentRun) local(text string) string {
	r.start()
	return strings.NewReplacer("http://127.0.0.1:8080", r.ready.URL, "http://127.0.0.1:9090", r.ready.AdminURL,
		"slk_…", r.ready.Key, "bin/gateway", "gateway", "go run ./cmd/gateway", "gateway").Replace(text)
}

// vet compiles statements of Go in a function with the variables that the documentation uses.
func (r *documentRun) vet(t *testing.T, text string) (string, error) {
	source := "package docsnippet\n\nimport (\n\t\"context\"\n\t\"log\"\n\t\"os\"\n\n\t\"" + module + "/client\"\n\t\"" + module + "/push\"\n)\n\n" +
		"func snippet(ctx context.Context, token string) {\n" + text + "\n\t_ = receipt\n}\n\nvar _ = snippet\n" +
		"var _, _, _, _ = log.Fatal, os.Getenv, push.Receipt{}, client.Config{}\n"
	if strings.Contains(text, "package ") {
		source = text
	}
	file := filepath.Join(t.TempDir(), "snippet.go")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		return "", err
	}
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	// An overlay compiles the snippet as a package of the module without a file in it.
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "docsnippet", "snippet.go"): file}})
	if err != nil {
		return "", err
	}
	overlayFile := filepath.Join(t.TempDir(), "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(t.Context(), "go", "build", "-overlay="+overlayFile, "./docsnippet").CombinedOutput()
	return string(out), err
}

// start builds the binary and starts gateway dev once.
func (r *documentRun) start() {
	if r.dir != "" {
		return
	}
	r.dir = r.TempDir()
	if out, err := exec.CommandContext(r.Context(), "go", "build", "-o", filepath.Join(r.dir, "gateway"), "./cmd/gateway").CombinedOutput(); err != nil {
		r.Fatalf("%v\n%s", err, out)
	}
	readyFile := filepath.Join(r.dir, "ready.json")
	cmd := exec.Command(filepath.Join(r.dir, "gateway"), "dev", "--listen", "127.0.0.1:0", "--ready-file", readyFile)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	p, err := subprocess.Start(cmd, nil)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() {
		if clean := p.Stop(time.Minute); !clean {
			r.Errorf("gateway dev did not stop within a minute, or with exit code %d\n%s", p.ExitCode(), output.String())
		}
	})
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.After(time.Minute); ; {
		if text, err := os.ReadFile(readyFile); err == nil && json.Unmarshal(text, &r.ready) == nil {
			return
		}
		select {
		case <-p.Done():
			r.Fatalf("gateway dev ended with exit code %d\n%s", p.ExitCode(), output.String())
		case <-deadline:
			r.Fatal("gateway dev was not ready within a minute")
		case <-poll.C:
		}
	}
}
