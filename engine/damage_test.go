// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-push/sluice/engine"
)

// block is the file with the first messages of a stream.
func block(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "S", "msgs", "*.blk"))
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	return found[0]
}

// crashed returns a copy of a folder with fifty chunks of one item, taken while nobody had closed it, whose block damage has
// changed.
func crashed(t *testing.T, damage func(block []byte) []byte) (dir string) {
	t.Helper()
	alive := t.TempDir()
	_, w, _ := open(t, alive, plain)
	for i := range 50 {
		if _, err := w.Append(t.Context(), "s.a", fmt.Appendf(nil, `{"i":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(alive)); err != nil {
		t.Fatal(err)
	}
	file := block(t, dir)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, damage(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestATornTailLosesNothing has the disk stop in the middle of a write that nobody was told of.
func TestATornTailLosesNothing(t *testing.T) {
	e, w, _ := open(t, crashed(t, func(block []byte) []byte { return append(block, block[:len(block)/100]...) }), plain)
	if found := len(all(t, e)); found != 50 {
		t.Errorf("%d of 50 are there", found)
	}
	if place, err := w.Append(t.Context(), "s.a", []byte("{}")); err != nil || place.Seq != 51 {
		t.Errorf("it goes on with %v, %v", place, err)
	}
}

// TestAFlippedBitIsTold is about what it costs, too: after a crash the engine reads a block up to the damage, and gives up
// what stands behind it in the same block.
func TestAFlippedBitIsTold(t *testing.T) {
	dir := crashed(t, func(block []byte) []byte {
		block[len(block)/2] ^= 1
		return block
	})
	var log bytes.Buffer
	e, err := engine.Open(t.Context(), engine.Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Stream(t.Context(), plain); err != nil {
		t.Error(err)
	}
	found := len(all(t, e))
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if found == 50 || found < 20 {
		t.Errorf("%d of 50 are there", found)
	}
	if !strings.Contains(log.String(), "the end of a file made no sense") {
		t.Errorf("the log is silent: %s", log.String())
	}
}
