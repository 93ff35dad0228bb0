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

// firstBlock is the file with the first messages of a stream.
func firstBlock(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "S", "msgs", "*.blk"))
	if err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	return found[0]
}

// copyAfterCrash returns a copy of a folder with fifty chunks of one item, taken while nobody had closed it, whose block damage has
// changed.
func copyAfterCrash(t *testing.T, damage func(block []byte) []byte) (dir string) {
	t.Helper()
	alive := t.TempDir()
	fill(t, alive)
	return damagedCopy(t, alive, damage)
}

// copyAfterClose is crashed after a proper end.
func copyAfterClose(t *testing.T, damage func(block []byte) []byte) (dir string) {
	t.Helper()
	whole := t.TempDir()
	fill(t, whole)()
	return damagedCopy(t, whole, damage)
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

func damagedCopy(t *testing.T, alive string, damage func(block []byte) []byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(alive)); err != nil {
		t.Fatal(err)
	}
	file := firstBlock(t, dir)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, damage(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestTornTailLosesNothing has the disk stop in the middle of a write that nobody was told of.
func TestTornTailLosesNothing(t *testing.T) {
	e, w, _ := open(t, copyAfterCrash(t, func(block []byte) []byte { return append(block, block[:len(block)/100]...) }), testStream)
	if found := len(readAll(t, e)); found != 50 {
		t.Errorf("%d of 50 are there", found)
	}
	if place, err := w.Append(t.Context(), "s.a", []byte("{}")); err != nil || place.Seq != 51 {
		t.Errorf("it goes on with %v, %v", place, err)
	}
}

// TestRepairLosesOnlyDamagedRecords damages a block as disks do. What is left is what was written; it is delivered, the
// rest is told of, and the stream goes on.
func TestRepairLosesOnlyDamagedRecords(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(b []byte, size int) // of fifty records, each so large
		lost   int
	}{
		"a bit of a record":        {func(b []byte, size int) { b[len(b)/2] ^= 1 }, 1},
		"a bit of a length":        {func(b []byte, size int) { b[len(b)-20*size] ^= 1 }, 1},
		"a length beyond the file": {func(b []byte, size int) { b[len(b)-20*size+2] ^= 1 }, 1},
		"bits of three records":    {func(b []byte, size int) { b[4] ^= 1; b[len(b)/2] ^= 8; b[len(b)-2*size-1] ^= 128 }, 3},
		"what was never written":   {func(b []byte, size int) { clear(b[len(b)-20*size : len(b)-10*size]) }, 10},
		"the first record":         {func(b []byte, size int) { b[30] ^= 1 }, 1},
		"the last record":          {func(b []byte, size int) { b[len(b)-size/2] ^= 1 }, 1},
		"the last length":          {func(b []byte, size int) { b[len(b)-size] ^= 1 }, 1},
	} {
		damage := func(block []byte) []byte {
			c.damage(block, len(block)/50)
			return block
		}
		t.Run(name+" after a crash", func(t *testing.T) { checkRecovery(t, copyAfterCrash(t, damage), 50-c.lost) })
		t.Run(name+" at rest", func(t *testing.T) { checkRecovery(t, copyAfterClose(t, damage), 50-c.lost) })
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
	for place, item := range found {
		if item != fmt.Sprintf(`{"i":%02d}`, place.Seq-1) {
			t.Errorf("%v is %s", place, item)
		}
	}
	if kept := stream.CachedInfo().State.Msgs; len(found) != want || kept != uint64(want) {
		t.Errorf("%d of 50 are there, %d are said to be", len(found), kept)
	}
	if place, err := w.Append(t.Context(), "s.a", []byte("{}")); err != nil || place.Seq < 50 {
		t.Errorf("it goes on with %v, %v", place, err)
	}
	shut()
	if !strings.Contains(log.String(), "the disk has damaged a record") && !strings.Contains(log.String(), "the end of a file made no sense") {
		t.Errorf("the log is silent: %s", log.String())
	}
}

// waitDelivered waits until a consumer gets so many.
func waitDelivered(t *testing.T, e *jetstream.Engine, want int) {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; {
		got := countDelivered(t, e)
		if got == want {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%d are delivered, want %d", got, want)
		}
	}
}

// countDelivered is how many a consumer gets, none where the engine is too busy to say.
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

// TestReadSkipsRecordDamagedAfterStart damages a text after the engine has looked and before anybody reads it.
func TestReadSkipsRecordDamagedAfterStart(t *testing.T) {
	dir := copyAfterClose(t, func(block []byte) []byte { return block })
	e, _, _ := open(t, dir, testStream)
	text, err := os.ReadFile(firstBlock(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	text[bytes.Index(text, []byte(`{"i":25}`))] ^= 1
	if err := os.WriteFile(firstBlock(t, dir), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if found := len(readAll(t, e)); found != 49 {
		t.Errorf("%d of 50 are there", found)
	}
	waitDelivered(t, e, 49)
}

// TestUnreadableFileIsIgnored has a file that another program, or another version, has written.
func TestUnreadableFileIsIgnored(t *testing.T) {
	dir := copyAfterClose(t, func(block []byte) []byte { return block })
	foreign := filepath.Join(filepath.Dir(firstBlock(t, dir)), "7.blk")
	if err := os.WriteFile(foreign, bytes.Repeat([]byte("foreign "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	e, _, _ := open(t, dir, testStream)
	if found := len(readAll(t, e)); found != 50 {
		t.Errorf("%d of 50 are there", found)
	}
}
