// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sluice-push/sluice/push"
)

func TestIndexOfOtherStreamIsRebuilt(t *testing.T) {
	one, two := newFixture(t), newFixture(t)
	h := one.open()
	old := newID()
	h.appendEvents(lifecycle(old)...)
	h.stop()
	two.dir = one.dir
	h = two.open()
	if _, _, err := h.Find(t.Context(), "shop", old); !errors.Is(err, push.ErrNotFound) {
		t.Errorf("found a notification of another stream: %v", err)
	}
	recent := newID()
	h.appendEvents(lifecycle(recent)...)
	if got, _ := h.find("shop", recent); got.Status() != push.StatusAccepted {
		t.Error(got.Status())
	}
}

// TestIndexOfEarlierVersionIsReplaced opens a directory with an index of a version without a log.
func TestIndexOfEarlierVersionIsReplaced(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	known := newID()
	h.appendEvents(lifecycle(known)...)
	h.stop()
	f.dir = t.TempDir()
	for _, name := range []string{"index.db", "index.db-wal"} {
		if err := os.WriteFile(filepath.Join(f.dir, name), []byte("SQLite format 3"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := f.open().find("shop", known); got.Status() != push.StatusAccepted {
		t.Error(got.Status())
	}
	if left, _ := filepath.Glob(filepath.Join(f.dir, "index.db*")); len(left) > 0 {
		t.Error("left over: ", left)
	}
}

// TestIndexIsForItsOwnerOnly opens an index in a directory that everyone can read.
func TestIndexIsForItsOwnerOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("files have no modes")
	}
	f := newFixture(t)
	if err := os.Chmod(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.open()
	entries, err := os.ReadDir(f.dir)
	if err != nil || len(entries) < 2 {
		t.Fatal(entries, err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", entry.Name(), info.Mode(), err)
		}
	}
}
