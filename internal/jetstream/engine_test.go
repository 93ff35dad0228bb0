// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(jetstreamtest.Main(m)) }

// open opens an engine in dir with a stream and a writer. They run until shut is called or the test
// ends.
func open(t testing.TB, dir string, stream natsjs.StreamConfig) (e *jetstream.Engine, w *jetstream.Writer, shut func()) {
	t.Helper()
	return openWith(t, jetstream.Config{Dir: dir, Reserve: -1}, stream)
}

func openWith(t testing.TB, cfg jetstream.Config, stream natsjs.StreamConfig) (e *jetstream.Engine, w *jetstream.Writer, shut func()) {
	t.Helper()
	e, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Stream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	w = e.Writer(stream.Name)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	running.Go(func() { _ = w.Run(ctx) })
	shut = sync.OnceFunc(func() {
		stop()
		running.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(shut)
	return e, w, shut
}

var testStream = natsjs.StreamConfig{Name: "S", Subjects: []string{"s.>"}}

// readAll returns all items of the stream S.
func readAll(t testing.TB, e *jetstream.Engine) (items map[jetstream.Offset]string) {
	t.Helper()
	stream, err := e.JetStream().Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	items = map[jetstream.Offset]string{}
	state := stream.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && state.Msgs > 0; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for i, item := range jetstream.Items(msg.Data) {
			items[jetstream.Offset{Seq: seq, Index: i}] = string(item)
		}
	}
	return items
}

func TestItemsKeepTheirOffsetsAfterReopen(t *testing.T) {
	dir := t.TempDir()
	_, w, shut := open(t, dir, testStream)
	var mu sync.Mutex
	want := map[jetstream.Offset]string{}
	var callers sync.WaitGroup
	for caller := range 64 {
		callers.Go(func() {
			for i := range 10 {
				item := fmt.Sprintf(`{"caller":%d,"i":%d}`, caller, i)
				offset, err := w.Append(t.Context(), fmt.Sprintf("s.%d", caller%3), []byte(item))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[offset] = item
				mu.Unlock()
			}
		})
	}
	testwait.Call(t, callers.Wait, "the end of all callers")
	shut()
	e, _, _ := open(t, dir, testStream)
	got := readAll(t, e)
	if len(want) != 640 || len(got) != len(want) {
		t.Fatalf("wrote %d items, found %d", len(want), len(got))
	}
	for offset, item := range want {
		if got[offset] != item {
			t.Errorf("%v: %q, want %q", offset, got[offset], item)
		}
	}
}

// TestEmbeddedSetupIsNotInterrupted opens a bucket with a context that has ended. Its stream exists
// afterwards: a server that is stopped while it creates a stream leaves goroutines of it.
func TestEmbeddedSetupIsNotInterrupted(t *testing.T) {
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: t.TempDir(), Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Bucket(natsjs.KeyValueConfig{Bucket: "TEST"}).Open(ctx); err != nil {
		t.Error(err)
	}
	if _, err := e.JetStream().KeyValue(t.Context(), "TEST"); err != nil {
		t.Error(err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}
