// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(jetstreamtest.Main(m)) }

// testWriter stores items as a version without a log did.
type testWriter struct{ *jetstream.Engine }

func (w testWriter) Append(ctx context.Context, subject string, item []byte) (jetstream.Offset, error) {
	ack, err := w.JetStream().Publish(ctx, subject, append(item, '\n'))
	if err != nil {
		return jetstream.Offset{}, err
	}
	return jetstream.Offset{Seq: ack.Sequence}, nil
}

// open opens an engine in dir with a stream. It runs until shut is called or the test ends.
func open(t testing.TB, dir string, stream natsjs.StreamConfig) (e *jetstream.Engine, w testWriter, shut func()) {
	t.Helper()
	return openWith(t, jetstream.Config{Dir: dir, Reserve: -1}, stream)
}

func openWith(t testing.TB, cfg jetstream.Config, stream natsjs.StreamConfig) (e *jetstream.Engine, w testWriter, shut func()) {
	t.Helper()
	e, err := jetstream.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Stream(t.Context(), stream); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	shut = sync.OnceFunc(func() {
		stop()
		running.Wait()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(shut)
	return e, testWriter{e}, shut
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
