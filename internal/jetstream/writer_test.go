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
)

func TestAppendAllKeepsOrder(t *testing.T) {
	e, w, _ := open(t, t.TempDir(), testStream)
	var items [][]byte
	for i := range 1234 {
		items = append(items, fmt.Appendf(nil, "%d", i))
	}
	places, err := w.AppendAll(t.Context(), "s.a", items)
	if err != nil {
		t.Fatal(err)
	}
	found := readAll(t, e)
	for i, place := range places {
		if found[place] != string(items[i]) {
			t.Fatalf("%v holds %s, not %d", place, found[place], i)
		}
		if i > 0 && !places[i-1].Before(place) {
			t.Fatalf("%v is not before %v", places[i-1], place)
		}
	}
}

func TestAppendAllWritesOneBatch(t *testing.T) {
	_, w, _ := open(t, t.TempDir(), testStream)
	for range 100 {
		places, err := w.AppendAll(t.Context(), "s.a", [][]byte{[]byte("1"), []byte("2"), []byte("3")})
		if err != nil || places[2] != (jetstream.Offset{Seq: places[0].Seq, Index: 2}) {
			t.Fatal(places, err)
		}
	}
}

// TestRetriesKeepOrder writes to a stream that is there only after a while, as one whose leader
// has died: no chunk may overtake another.
func TestRetriesKeepOrder(t *testing.T) {
	e, w := externalEngine(t)
	tries := make(chan struct{}, 1)
	w.MapSubject = func(subject string, _ int) (string, nats.Header) {
		select {
		case tries <- struct{}{}:
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
			places, err := w.AppendAll(t.Context(), subject, items)
			if err != nil || !slices.IsSortedFunc(places, compareOffsets) {
				t.Error(places, err)
			}
		})
	}
	for range 6 {
		<-tries
	}
	if _, err := e.Stream(t.Context(), testStream); err != nil {
		t.Fatal(err)
	}
	writing.Wait()
}

func compareOffsets(a, b jetstream.Offset) int {
	if a.Before(b) {
		return -1
	}
	return 1
}

// externalEngine is a JetStream that is not in this process as far as the engine knows, and a writer to a stream that it has not.
func externalEngine(t *testing.T) (*jetstream.Engine, *jetstream.Writer) {
	t.Helper()
	e, err := jetstream.Open(t.Context(), jetstream.Config{URL: jetstreamtest.StartServer(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e, e.Writer(testStream.Name, false)
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
	callers.Wait()
	stream, err := e.JetStream().Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if chunks := stream.CachedInfo().State.Msgs; chunks < items/100 || chunks > items/2 {
		t.Errorf("%d items at once made %d chunks", items, chunks)
	}
}

func TestMaxItemsLimitsBatch(t *testing.T) {
	e, _, _ := open(t, t.TempDir(), testStream)
	w := e.Writer("S", false)
	w.MaxItems = 500
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := w.AppendAll(gone, "s.a", slices.Repeat([][]byte{[]byte("{}")}, 1000)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := w.Run(gone); err != nil { // writes what is in line
		t.Fatal(err)
	}
	stream, err := e.JetStream().Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	if chunks := stream.CachedInfo().State.Msgs; chunks != 2 {
		t.Errorf("1000 items made %d chunks", chunks)
	}
}

func TestMapSubjectSetsSubjectAndHeaders(t *testing.T) {
	e, _, _ := open(t, t.TempDir(), testStream)
	w := e.Writer("S", false)
	w.MapSubject = func(subject string, items int) (string, nats.Header) {
		return fmt.Sprintf("%s.%d", subject, items), nats.Header{"X": {"y"}}
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	places := make(chan jetstream.Offset, 1)
	go func() {
		place, err := w.AppendAll(t.Context(), "s.a", [][]byte{[]byte("1"), []byte("2"), []byte("3")})
		if err != nil {
			t.Error(err)
		}
		places <- place[2]
		stop()
	}()
	go func() { ended <- w.Run(ctx) }()
	place := <-places
	stream, _ := e.JetStream().Stream(t.Context(), "S")
	msg, err := stream.GetMsg(t.Context(), place.Seq)
	if err != nil || !strings.HasPrefix(msg.Subject, "s.a.") || msg.Header.Get("X") != "y" {
		t.Errorf("%+v %v", msg, err)
	}
	if err := <-ended; err != nil {
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
	places, err := w.AppendAll(t.Context(), "s.a", slices.Repeat([][]byte{item}, 150))
	if !errors.Is(err, jetstream.ErrFull) {
		t.Fatal(err)
	}
	taken := 0
	for _, place := range places {
		if place.Seq != 0 {
			taken++
		}
	}
	if found := len(readAll(t, e)); taken == 0 || taken != found {
		t.Errorf("%d are said to be written, and %d are", taken, found)
	}
	if err := e.Ready(); err != nil { // a full stream is nobody's illness
		t.Error(err)
	}
}

func TestAppendRejectsInvalidItems(t *testing.T) {
	_, w, _ := open(t, t.TempDir(), testStream)
	if _, err := w.Append(t.Context(), "s.a", []byte("a\nb")); err == nil {
		t.Error("two lines are one item")
	}
	if _, err := w.Append(t.Context(), "s.a", make([]byte, 5<<20)); !errors.Is(err, jetstream.ErrTooLarge) {
		t.Error(err)
	}
	if _, err := w.Append(t.Context(), "s.a", []byte(strings.Repeat("x", 1<<20))); err != nil {
		t.Error("a large item is a chunk of its own: ", err)
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

func TestReserveRefusesOnlyRespectingWriters(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	if _, err := e.Stream(t.Context(), testStream); err != nil {
		t.Fatal(err)
	}
	yields, insists := e.Writer("S", true), e.Writer("S", false)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = yields.Run(ctx) })
	running.Go(func() { _ = insists.Run(ctx) })
	if _, err := yields.Append(t.Context(), "s.a", []byte("1")); !errors.Is(err, jetstream.ErrFull) || !errors.Is(e.Ready(), jetstream.ErrFull) {
		t.Error(err, e.Ready())
	}
	if _, err := insists.Append(t.Context(), "s.a", []byte("1")); err != nil {
		t.Error(err)
	}
	stop()
	running.Wait()
}
