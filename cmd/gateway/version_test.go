// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sluice-push/sluice/internal/buildinfo"
	"github.com/sluice-push/sluice/internal/testtool"
)

func TestFormatVersion(t *testing.T) {
	info := buildinfo.Info{Version: "v0.3.0", Commit: "unknown", GoVersion: "go1.26.8"}
	if got, want := formatVersion(info), "v0.3.0 (commit unknown, go1.26.8)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	info.Commit, info.Modified = "7f7eb02", true
	if got, want := formatVersion(info), "v0.3.0 (commit 7f7eb02, modified, go1.26.8)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestImageKnowsItsCommit runs the script of the Dockerfile on the files of .git that .dockerignore
// leaves in the context.
func TestImageKnowsItsCommit(t *testing.T) {
	const commit = "7f7eb029a8b3c5d6e7f8091a2b3c4d5e6f708192"
	script, err := filepath.Abs("../../tools/commit.sh")
	if err != nil {
		t.Fatal(err)
	}
	testtool.Require(t, "sh")
	for _, c := range []struct {
		want  string
		files map[string]string
	}{
		{commit + "\n", map[string]string{"HEAD": "ref: refs/heads/a/b\n", "refs/heads/a/b": commit + "\n", "packed-refs": "1111 refs/heads/a/b\n"}},
		{commit + "\n", map[string]string{"HEAD": "ref: refs/heads/main\n", "packed-refs": "# pack-refs\n1111 refs/heads/maintenance\n" + commit + " refs/heads/main\n^2222\n"}},
		{commit + "\n", map[string]string{"HEAD": commit + "\n"}},
		{"", map[string]string{}},
	} {
		dir := t.TempDir()
		for _, sub := range []string{"tools", ".git/refs/heads/a"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		c.files["../tools/commit.sh"] = string(text)
		for file, content := range c.files {
			if err := os.WriteFile(filepath.Join(dir, ".git", file), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		out, err := exec.CommandContext(t.Context(), "sh", filepath.Join(dir, "tools", "commit.sh")).Output()
		if err != nil || string(out) != c.want {
			t.Errorf("%q, %v; want %q", out, err, c.want)
		}
	}
}
