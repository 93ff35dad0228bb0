// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// panickingHandler panics once, for the record of an invalid event.
type panickingHandler struct {
	slog.Handler
	panicked *atomic.Int64
}

func (h panickingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h panickingHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "invalid event skipped" && h.panicked.Add(1) == 1 {
		panic("SECRET")
	}
	return nil
}

// TestIndexContinuesAfterPanic panics while the stream is read. The stream is read again, and every event
// is found once.
func TestIndexContinuesAfterPanic(t *testing.T) {
	f := newStreamFixture(t) // a log has no other writer
	var panicked atomic.Int64
	h := f.openWith(history.Config{Logger: slog.New(panickingHandler{slog.DiscardHandler, &panicked})})
	before, after := newID(), newID()
	h.appendEvents(lifecycle(before)...)
	jetstreamtest.Retry(t, f.engineConfig, func() error {
		_, err := f.engine.JetStream().Publish(t.Context(), "sluice.event.shop", []byte("{}x"))
		return err
	})
	h.appendEvents(lifecycle(after)...)
	for _, id := range []string{before, after} {
		if receipt, events := h.find("shop", id); receipt.Status() != push.StatusAccepted || len(events) != 3 {
			t.Errorf("%+v %+v", receipt, events)
		}
	}
	h.waitIndexed()
	if panicked.Load() < 2 {
		t.Error("the invalid event was read once, so there was no panic or no restart")
	}
	testwait.Until(t, func() bool { return h.Status().CaughtUp }, "the index is caught up")
}
