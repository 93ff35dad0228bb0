// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/testwait"
)

// panickingHandler panics once for a record with this message.
type panickingHandler struct {
	slog.Handler
	message  string
	panicked *atomic.Int64
}

func (h panickingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h panickingHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message && h.panicked.CompareAndSwap(0, 1) {
		panic("SECRET")
	}
	return nil
}

// TestPanicOfWriterFailsOneBatch panics while a batch is published, and again while the server is
// restarted because it is unknown whether the batch was stored. Only the batch fails.
func TestPanicOfWriterFailsOneBatch(t *testing.T) {
	var restarts atomic.Int64
	log := slog.New(panickingHandler{slog.DiscardHandler, "embedded server restarting after a failed write", &restarts})
	e, w, _ := openWith(t, jetstream.Config{Dir: t.TempDir(), Reserve: -1, Logger: log}, testStream)
	var published atomic.Int64
	w.MapSubject = func(subject string, _ int) (string, nats.Header) {
		if published.Add(1) == 1 {
			panic("SECRET")
		}
		return subject, nil
	}
	if _, err := w.Append(t.Context(), "s.a", []byte("1")); !errors.Is(err, jetstream.ErrUnwritable) {
		t.Errorf("%v, want that it is unknown whether the item is stored", err)
	}
	testwait.Until(t, func() bool { return restarts.Load() == 1 && e.Writable() == nil }, "the server is restarted")
	testwait.Until(t, func() bool { _, err := w.Append(t.Context(), "s.a", []byte("2")); return err == nil }, "an item is stored")
}
