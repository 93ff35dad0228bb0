// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/push"
)

const (
	// Events that may wait to be written; beyond, AppendAsync blocks.
	maxAsyncEvents = 8192
	// Events that are written together.
	asyncBatchEvents = 2000
)

// asyncWrite is a list of events to write, or a function to call when all earlier writes are done.
type asyncWrite struct {
	headers   []*eventHeader
	onWritten func()
}

// AppendAsync appends events without waiting for the disk. Find and States include them
// immediately, but a crash may lose them. It blocks while too many events wait. The error is that
// of ctx or of an invalid event.
func (h *History) AppendAsync(ctx context.Context, events ...push.Event) error {
	if h.cfg.Log != nil {
		records, keys, err := encodeRecords(events)
		if err != nil {
			return err
		}
		h.overlay.addPending(keys...)
		if err := h.cfg.Log.AppendAsync(ctx, records...); err != nil {
			h.overlay.removePending(keys)
			return fmt.Errorf("history: %w", err)
		}
		return nil
	}
	headers, err := encodeEvents(events)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(headers, asyncBatchEvents) {
		h.overlay.addPending(batch...)
		if err := h.enqueueAsync(ctx, asyncWrite{headers: batch}); err != nil {
			h.overlay.removePending(batch)
			return err
		}
	}
	return nil
}

func (h *History) enqueueAsync(ctx context.Context, w asyncWrite) error {
	if err := h.asyncSlots.Acquire(ctx, int64(len(w.headers))); err != nil {
		return err
	}
	select {
	case h.asyncWrites <- w:
		return nil
	case <-ctx.Done():
		h.asyncSlots.Release(int64(len(w.headers)))
		return ctx.Err()
	}
}

// AfterWrites calls f when all events that were appended before are written. It does not call f if
// too many writes wait.
func (h *History) AfterWrites(f func()) {
	select {
	case h.asyncWrites <- asyncWrite{onWritten: f}:
	default:
	}
}

// runAsyncWrites writes events until ctx ends, and then those that still wait.
func (h *History) runAsyncWrites(ctx context.Context) error {
	for {
		var first asyncWrite
		select {
		case first = <-h.asyncWrites:
		case <-ctx.Done():
			select {
			case first = <-h.asyncWrites:
			default:
				return nil
			}
		}
		h.writeAsync(h.collectAsync(first))
	}
}

// collectAsync returns the first write and those that wait after it.
func (h *History) collectAsync(first asyncWrite) []asyncWrite {
	writes, events := []asyncWrite{first}, len(first.headers)
	for events < asyncBatchEvents {
		select {
		case w := <-h.asyncWrites:
			writes, events = append(writes, w), events+max(1, len(w.headers))
		default:
			return writes
		}
	}
	return writes
}

// writeAsync writes the events. It keeps the order within an app, and writes several apps
// concurrently.
func (h *History) writeAsync(writes []asyncWrite) {
	apps := map[string][]*eventHeader{}
	for _, w := range writes {
		for _, s := range w.headers {
			apps[s.app] = append(apps[s.app], s)
		}
	}
	var writing sync.WaitGroup
	for _, headers := range apps {
		writing.Go(func() { h.writeAppEvents(headers) })
	}
	writing.Wait()
	for _, w := range writes {
		h.asyncSlots.Release(int64(len(w.headers)))
		if w.onWritten != nil {
			w.onWritten()
		}
	}
}

func (h *History) writeAppEvents(headers []*eventHeader) {
	err := panics.Recover(h.cfg.Logger, "history: write events", func() error {
		_, err := h.append(context.Background(), headers) // the writer bounds the time
		return err
	})
	if err != nil {
		h.counters.lost.Add(uint64(len(headers)))
		h.cfg.Logger.Error("events lost", "app", headers[0].app, "events", len(headers), "err", err)
	}
}
