// SPDX-License-Identifier: Apache-2.0

package atomicfile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sluice-push/sluice/internal/atomicfile"
)

func TestWriteReplacesTheFileOfAnEarlierCrash(t *testing.T) {
	name := filepath.Join(t.TempDir(), "state")
	for path, text := range map[string]string{name: "old", name + ".new": "a part of"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := atomicfile.Write(name, []byte("new")); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil || string(text) != "new" {
		t.Errorf("%q %v", text, err)
	}
	if files, err := os.ReadDir(filepath.Dir(name)); err != nil || len(files) != 1 {
		t.Errorf("%v %v", files, err)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestFailedWriteKeepsTheFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state") // a directory with a file cannot be replaced
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(dir, []byte("new")); err == nil {
		t.Error("written")
	}
	if _, err := os.Stat(filepath.Join(dir, "old")); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(files) != 1 {
		t.Errorf("%v %v", files, err)
	}
}
