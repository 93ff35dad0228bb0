// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"slices"
	"sync"

	"github.com/sluice-push/sluice/push"
)

const (
	// Events that may wait to be written; beyond, Note waits.
	maxAsyncEvents = 8192
	// Events that are written at a time.
	asyncBatchEvents = 2000
)

// asyncWrite is events that nobody waits for, or what is to be done when all before it are written.
type asyncWrite struct {
	headers   []*eventHeader
	onWritten func()
}

// AppendAsync writes events without waiting until they are on disk: Find and States know them at once, a crash may forget them.
// While too many wait it waits too; its error is ctx's, or that of an event that cannot be written.
func (h *History) AppendAsync(ctx context.Context, events ...push.Event) error {
	steps, err := encodeEvents(events)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(steps, asyncBatchEvents) {
		h.overlay.addPending(some...)
		if err := h.enqueueAsync(ctx, asyncWrite{headers: some}); err != nil {
			h.overlay.removePending(some)
			return err
		}
	}
	return nil
}

func (h *History) enqueueAsync(ctx context.Context, n asyncWrite) error {
	if err := h.asyncSlots.Acquire(ctx, int64(len(n.headers))); err != nil {
		return err
	}
	select {
	case h.asyncWrites <- n:
		return nil
	case <-ctx.Done():
		h.asyncSlots.Release(int64(len(n.headers)))
		return ctx.Err()
	}
}

// runAsyncWrites writes notes until ctx ends, and then those that are there.
func (h *History) runAsyncWrites(ctx context.Context) {
	for {
		var first asyncWrite
		select {
		case first = <-h.asyncWrites:
		case <-ctx.Done():
			select {
			case first = <-h.asyncWrites:
			default:
				return
			}
		}
		h.writeAsync(h.collectAsync(first))
	}
}

// collectAsync returns the first note and those that wait behind it.
func (h *History) collectAsync(first asyncWrite) []asyncWrite {
	notes, events := []asyncWrite{first}, len(first.headers)
	for events < asyncBatchEvents {
		select {
		case n := <-h.asyncWrites:
			notes, events = append(notes, n), events+max(1, len(n.headers))
		default:
			return notes
		}
	}
	return notes
}

// writeAsync writes the events of each app in their order, and those of all apps at a time.
func (h *History) writeAsync(notes []asyncWrite) {
	apps := map[string][]*eventHeader{}
	for _, n := range notes {
		for _, s := range n.headers {
			apps[s.app] = append(apps[s.app], s)
		}
	}
	var writing sync.WaitGroup
	for _, steps := range apps {
		writing.Go(func() { h.writeAppEvents(steps) })
	}
	writing.Wait()
	for _, n := range notes {
		h.asyncSlots.Release(int64(len(n.headers)))
		if n.onWritten != nil {
			n.onWritten()
		}
	}
}

func (h *History) writeAppEvents(steps []*eventHeader) {
	if _, err := h.append(context.Background(), steps); err != nil { // the writer's own patience ends it
		h.counters.lost.Add(uint64(len(steps)))
		h.cfg.Logger.Error("history: events are lost", "app", steps[0].app, "events", len(steps), "err", err)
	}
}
