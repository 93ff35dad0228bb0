// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestAppendAllKeepsOrder(t *testing.T) {
	e, w, _ := open(t, t.TempDir(), testStream)
	var items [][]byte
	for i := range 1234 {
		items = append(items, fmt.Appendf(nil, "%d", i))
	}
	offsets, err := w.AppendAll(t.Context(), "s.a", items)
	if err != nil {
		t.Fatal(err)
	}
	found := readAll(t, e)
	for i, offset := range offsets {
		if found[offset] != string(items[i]) {
			t.Fatalf("%v holds %s, not %d", offset, found[offset], i)
		}
		if i > 0 && !offsets[i-1].Before(offset) {
			t.Fatalf("%v is not before %v", offsets[i-1], offset)
		}
	}
}

func TestAppendAllWritesOneBatch(t *testing.T) {
	_, w, _ := open(t, t.TempDir(), testStream)
	for range 100 {
		offsets, err := w.AppendAll(t.Context(), "s.a", [][]byte{[]byte("1"), []byte("2"), []byte("3")})
		if err != nil || offsets[2] != (jetstream.Offset{Seq: offsets[0].Seq, Index: 2}) {
			t.Fatal(offsets, err)
		}
	}
}

// TestRetriesKeepOrder writes to a stream that is created later, as if its leader had failed.
// Retries must not reorder batches.
func TestRetriesKeepOrder(t *testing.T) {
	e, w := externalEngine(t)
	attempts := make(chan struct{}, 1)
	w.MapSubject = func(subject string, _ int) (string, nats.Header) {
		select {
		case attempts <- struct{}{}:
		default:
		}
		return subject, nil
	}
	runWriter(t, w)
	var items [][]byte
	for i := range 1234 {
		items = append(items, fmt.Appendf(nil, "%d", i))
	}
	var writing sync.WaitGroup
	for _, subject := range []string{"s.a", "s.b"} {
		writing.Go(func() {
			offsets, err := w.AppendAll(t.Context(), subject, items)
			if err != nil || !slices.IsSortedFunc(offsets, compareOffsets) {
				t.Error(offsets, err)
			}
		})
	}
	for range 6 {
		testwait.For(t, attempts, "an attempt")
	}
	if _, err := e.Stream(t.Context(), testStream); err != nil {
		t.Fatal(err)
	}
	testwait.Call(t, writing.Wait, "the end of the writes")
}

func compareOffsets(a, b jetstream.Offset) int {
	if a.Before(b) {
		return -1
	}
	return 1
}

// externalEngine returns an engine with an external server, and a writer to a stream that does not
// exist yet.
func externalEngine(t *testing.T) (*jetstream.Engine, *jetstream.Writer) {
	t.Helper()
	e, err := jetstream.Open(t.Context(), jetstream.Config{URL: jetstreamtest.StartServer(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e, e.Writer(testStream.Name)
}

// runWriter runs w until the test ends.
func runWriter(t *testing.T, w *jetstream.Writer) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
}

func TestConcurrentAppendsShareBatches(t *testing.T) {
	e, w, _ := open(t, t.TempDir(), testStream)
	const items = 2000
	var callers sync.WaitGroup
	for range items {
		callers.Go(func() {
			if _, err := w.Append(t.Context(), "s.a", []byte("{}")); err != nil {
				t.Error(err)
			}
		})
	}
	testwait.Call(t, callers.Wait, "the end of all callers")
	stream, err := e.JetStream().Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if batches := stream.CachedInfo().State.Msgs; batches < items/100 || batches > items/2 {
		t.Errorf("%d concurrent items made %d batches", items, batches)
	}
}

func TestMaxItemsLimitsBatch(t *testing.T) {
	e, _, _ := open(t, t.TempDir(), testStream)
	w := e.Writer("S")
	w.MaxItems = 500
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.AppendAll(cancelled, "s.a", slices.Repeat([][]byte{[]byte("{}")}, 1000)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := w.Run(cancelled); err != nil { // writes the pending batches
		t.Fatal(err)
	}
	stream, err := e.JetStream().Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if batches := stream.CachedInfo().State.Msgs; batches != 2 {
		t.Errorf("1000 items made %d batches", batches)
	}
}

func TestMapSubjectSetsSubjectAndHeaders(t *testing.T) {
	e, _, _ := open(t, t.TempDir(), testStream)
	w := e.Writer("S")
	w.MapSubject = func(subject string, items int) (string, nats.Header) {
		return fmt.Sprintf("%s.%d", subject, items), nats.Header{"X": {"y"}}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	offsets := make(chan jetstream.Offset, 1)
	go func() {
		offset, err := w.AppendAll(t.Context(), "s.a", [][]byte{[]byte("1"), []byte("2"), []byte("3")})
		if err != nil {
			t.Error(err)
		}
		offsets <- offset[2]
		stop()
	}()
	go func() { ended <- w.Run(ctx) }()
	offset := testwait.For(t, offsets, "an offset")
	stream, _ := e.JetStream().Stream(t.Context(), "S")
	msg, err := stream.GetMsg(t.Context(), offset.Seq)
	if err != nil || !strings.HasPrefix(msg.Subject, "s.a.") || msg.Header.Get("X") != "y" {
		t.Errorf("%+v %v", msg, err)
	}
	if err := testwait.For(t, ended, "the end"); err != nil {
		t.Error(err)
	}
	if _, err := w.Append(t.Context(), "s.a", []byte("4")); !errors.Is(err, jetstream.ErrClosed) {
		t.Error(err)
	}
}

func TestFullStreamReportsWrittenItems(t *testing.T) {
	bounded := natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}, Discard: natsjs.DiscardNew, MaxBytes: 100 << 10}
	e, w, _ := open(t, t.TempDir(), bounded)
	item := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	offsets, err := w.AppendAll(t.Context(), "s.a", slices.Repeat([][]byte{item}, 150))
	if !errors.Is(err, jetstream.ErrFull) {
		t.Fatal(err)
	}
	written := 0
	for _, offset := range offsets {
		if offset.Seq != 0 {
			written++
		}
	}
	if found := len(readAll(t, e)); written == 0 || written != found {
		t.Errorf("AppendAll reports %d items written, found %d", written, found)
	}
	if err := e.Writable(); err != nil { // a full stream does not make the engine unready
		t.Error(err)
	}
}

func TestAppendRejectsInvalidItems(t *testing.T) {
	_, w, _ := open(t, t.TempDir(), testStream)
	if _, err := w.Append(t.Context(), "s.a", []byte("a\nb")); err == nil {
		t.Error("an item with a line break is accepted")
	}
	if _, err := w.Append(t.Context(), "s.a", make([]byte, 5<<20)); !errors.Is(err, jetstream.ErrTooLarge) {
		t.Error(err)
	}
	if _, err := w.Append(t.Context(), "s.a", []byte(strings.Repeat("x", 1<<20))); err != nil {
		t.Error("an item larger than a batch is refused: ", err)
	}
}

func TestOpenLocksDirectory(t *testing.T) {
	dir := t.TempDir()
	_, _, shut := open(t, dir, testStream)
	if _, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir}); !errors.Is(err, jetstream.ErrLocked) {
		t.Error(err)
	}
	shut()
	open(t, dir, testStream)
}

func TestAdmitLeavesReserve(t *testing.T) {
	const terabyte = 1 << 40
	e, w, shut := openWith(t, jetstream.Config{Dir: t.TempDir(), Reserve: 1}, testStream) // a large one would fill the disk
	if err := e.Admit(1 << 20 * terabyte); !errors.Is(err, jetstream.ErrFull) {
		t.Error("more is committed than the disk has:", err)
	}
	if _, err := w.Append(t.Context(), "s.a", []byte("1")); err != nil || e.Writable() != nil {
		t.Error("accepted items cannot use the reserve:", err)
	}
	shut()
	e, _, _ = open(t, t.TempDir(), testStream)
	if err := e.Admit(1 << 20 * terabyte); err != nil {
		t.Error("without a reserve:", err)
	}
}
