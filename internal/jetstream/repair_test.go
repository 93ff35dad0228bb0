// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// firstBlock returns the path of the first block of the stream S.
func firstBlock(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "S", "msgs", "*.blk"))
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	return found[0]
}

// copyAfterCrash returns a copy of a directory with fifty messages of one item, taken while the
// engine runs. damage changes its first block.
func copyAfterCrash(t *testing.T, damage func(block []byte) []byte) (dir string) {
	t.Helper()
	src := t.TempDir()
	fill(t, src)
	return damagedCopy(t, src, damage)
}

// copyAfterClose is like copyAfterCrash, but copies after a clean shutdown.
func copyAfterClose(t *testing.T, damage func(block []byte) []byte) (dir string) {
	t.Helper()
	src := t.TempDir()
	fill(t, src)()
	return damagedCopy(t, src, damage)
}

func fill(t *testing.T, dir string) (shut func()) {
	t.Helper()
	_, w, shut := open(t, dir, testStream)
	for i := range 50 {
		if _, err := w.Append(t.Context(), "s.a", fmt.Appendf(nil, `{"i":%02d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	return shut
}

func damagedCopy(t *testing.T, src string, damage func(block []byte) []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(src)); err != nil {
		t.Fatal(err)
	}
	file := firstBlock(t, dir)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, damage(data), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTornTailLosesNothing simulates a crash in the middle of a write that was not acknowledged.
func TestTornTailLosesNothing(t *testing.T) {
	e, w, _ := open(t, copyAfterCrash(t, func(block []byte) []byte { return append(block, block[:len(block)/100]...) }), testStream)
	if found := len(readAll(t, e)); found != 50 {
		t.Errorf("found %d of 50 items", found)
	}
	if offset, err := w.Append(t.Context(), "s.a", []byte("{}")); err != nil || offset.Seq != 51 {
		t.Errorf("next append: %v, %v", offset, err)
	}
}

// TestRepairLosesOnlyDamagedRecords damages a block. The other records are intact and are
// delivered, the loss is logged, and the stream accepts new items.
func TestRepairLosesOnlyDamagedRecords(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(b []byte, size int) // b holds fifty records of this size
		lost   int
	}{
		"bit flip in a record":         {func(b []byte, size int) { b[len(b)/2] ^= 1 }, 1},
		"bit flip in a length":         {func(b []byte, size int) { b[len(b)-20*size] ^= 1 }, 1},
		"length beyond the file":       {func(b []byte, size int) { b[len(b)-20*size+2] ^= 1 }, 1},
		"bit flips in three records":   {func(b []byte, size int) { b[4] ^= 1; b[len(b)/2] ^= 8; b[len(b)-2*size-1] ^= 128 }, 3},
		"zeroed range":                 {func(b []byte, size int) { clear(b[len(b)-20*size : len(b)-10*size]) }, 10},
		"bit flip in the first record": {func(b []byte, size int) { b[30] ^= 1 }, 1},
		"bit flip in the last record":  {func(b []byte, size int) { b[len(b)-size/2] ^= 1 }, 1},
		"bit flip in the last length":  {func(b []byte, size int) { b[len(b)-size] ^= 1 }, 1},
	} {
		damage := func(block []byte) []byte {
			c.damage(block, len(block)/50)
			return block
		}
		t.Run(name+" after a crash", func(t *testing.T) { checkRecovery(t, copyAfterCrash(t, damage), 50-c.lost) })
		t.Run(name+" after a clean shutdown", func(t *testing.T) { checkRecovery(t, copyAfterClose(t, damage), 50-c.lost) })
	}
}

func checkRecovery(t *testing.T, dir string, want int) {
	var log bytes.Buffer
	e, w, shut := openWith(t, jetstream.Config{Dir: dir, Reserve: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))}, testStream)
	waitDelivered(t, e, want)
	found := readAll(t, e)
	stream, err := e.JetStream().Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	for offset, item := range found {
		if item != fmt.Sprintf(`{"i":%02d}`, offset.Seq-1) {
			t.Errorf("%v holds %s", offset, item)
		}
	}
	if kept := stream.CachedInfo().State.Msgs; len(found) != want || kept != uint64(want) {
		t.Errorf("found %d of 50 items, the stream reports %d", len(found), kept)
	}
	if offset, err := w.Append(t.Context(), "s.a", []byte("{}")); err != nil || offset.Seq < 50 {
		t.Errorf("next append: %v, %v", offset, err)
	}
	shut()
	if !strings.Contains(log.String(), "damaged record dropped") && !strings.Contains(log.String(), "invalid data at the end of a block truncated") {
		t.Errorf("the damage is not logged: %s", log.String())
	}
}

// TestRepairLeavesUnknownFormatToServer damages a block next to a state file of a later version. The
// server truncates the block at the damage, repair changes nothing, and both are logged.
func TestRepairLeavesUnknownFormatToServer(t *testing.T) {
	dir := copyAfterClose(t, func(block []byte) []byte { block[len(block)/2] ^= 1; return block })
	state := filepath.Join(filepath.Dir(firstBlock(t, dir)), "index.db")
	data, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	data[1]++
	if err := os.WriteFile(state, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	e, _, shut := openWith(t, jetstream.Config{Dir: dir, Reserve: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))}, testStream)
	if found := len(readAll(t, e)); found != 25 {
		t.Errorf("found %d items, want the 25 before the damage", found)
	}
	shut()
	if found, _ := filepath.Glob(filepath.Join(dir, "damaged", "*")); len(found) > 0 {
		t.Error("repair changed a block:", found)
	}
	for text, count := range map[string]int{"its format is unknown": 1, "damaged record dropped": 0, "invalid data at the end of a block truncated": 1} {
		if got := strings.Count(log.String(), text); got != count {
			t.Errorf("%q is logged %d times, want %d: %s", text, got, count, log.String())
		}
	}
}

// waitDelivered waits until a consumer gets want messages.
func waitDelivered(t *testing.T, e *jetstream.Engine, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		got := countDelivered(t, e)
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d messages delivered, want %d", got, want)
		}
	}
}

// countDelivered returns the number of messages that a new consumer gets, or 0 if the server is
// busy.
func countDelivered(t *testing.T, e *jetstream.Engine) (count int) {
	t.Helper()
	c, err := e.JetStream().CreateConsumer(t.Context(), "S", natsjs.ConsumerConfig{AckPolicy: natsjs.AckExplicitPolicy})
	if err != nil {
		return 0
	}
	batch, err := c.FetchNoWait(100)
	if err != nil {
		return 0
	}
	for range batch.Messages() {
		count++
	}
	return count
}

// TestReadSkipsRecordDamagedAfterStart damages a record after the startup check and before it is
// read.
func TestReadSkipsRecordDamagedAfterStart(t *testing.T) {
	dir := copyAfterClose(t, func(block []byte) []byte { return block })
	e, _, _ := open(t, dir, testStream)
	data, err := os.ReadFile(firstBlock(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, []byte(`{"i":25}`))] ^= 1
	if err := os.WriteFile(firstBlock(t, dir), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if found := len(readAll(t, e)); found != 49 {
		t.Errorf("found %d of 50 items", found)
	}
	waitDelivered(t, e, 49)
}

// TestUnreadableFileIsIgnored adds a file of an unknown format.
func TestUnreadableFileIsIgnored(t *testing.T) {
	dir := copyAfterClose(t, func(block []byte) []byte { return block })
	foreign := filepath.Join(filepath.Dir(firstBlock(t, dir)), "7.blk")
	if err := os.WriteFile(foreign, bytes.Repeat([]byte("foreign "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	e, _, _ := open(t, dir, testStream)
	if found := len(readAll(t, e)); found != 50 {
		t.Errorf("found %d of 50 items", found)
	}
}
