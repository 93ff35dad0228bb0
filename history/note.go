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
	maxNotes = 8192
	// Events that are written at a time.
	notesAtOnce = 2000
)

// note is events that nobody waits for, or what is to be done when all before it are written.
type note struct {
	steps []*step
	then  func()
}

// Note writes events without waiting until they are on disk: Find and States know them at once, a crash may forget them.
// While too many wait it waits too; its error is ctx's, or that of an event that cannot be written.
func (h *History) Note(ctx context.Context, events ...push.Event) error {
	steps, err := writeAll(events)
	if err != nil {
		return err
	}
	for some := range slices.Chunk(steps, notesAtOnce) {
		h.overlay.expect(some...)
		if err := h.enqueue(ctx, note{steps: some}); err != nil {
			h.overlay.lost(some)
			return err
		}
	}
	return nil
}

func (h *History) enqueue(ctx context.Context, n note) error {
	if err := h.room.Acquire(ctx, int64(len(n.steps))); err != nil {
		return err
	}
	select {
	case h.notes <- n:
		return nil
	case <-ctx.Done():
		h.room.Release(int64(len(n.steps)))
		return ctx.Err()
	}
}

// writeNotes writes notes until ctx ends, and then those that are there.
func (h *History) writeNotes(ctx context.Context) {
	for {
		var first note
		select {
		case first = <-h.notes:
		case <-ctx.Done():
			select {
			case first = <-h.notes:
			default:
				return
			}
		}
		h.writeSome(h.someNotes(first))
	}
}

// someNotes returns the first note and those that wait behind it.
func (h *History) someNotes(first note) []note {
	notes, events := []note{first}, len(first.steps)
	for events < notesAtOnce {
		select {
		case n := <-h.notes:
			notes, events = append(notes, n), events+max(1, len(n.steps))
		default:
			return notes
		}
	}
	return notes
}

// writeSome writes the events of each app in their order, and those of all apps at a time.
func (h *History) writeSome(notes []note) {
	apps := map[string][]*step{}
	for _, n := range notes {
		for _, s := range n.steps {
			apps[s.app] = append(apps[s.app], s)
		}
	}
	var writing sync.WaitGroup
	for _, steps := range apps {
		writing.Go(func() { h.writeNoted(steps) })
	}
	writing.Wait()
	for _, n := range notes {
		h.room.Release(int64(len(n.steps)))
		if n.then != nil {
			n.then()
		}
	}
}

func (h *History) writeNoted(steps []*step) {
	if _, err := h.append(context.Background(), steps); err != nil { // the writer's own patience ends it
		h.counts.lost.Add(uint64(len(steps)))
		h.cfg.Logger.Error("history: events are lost", "app", steps[0].app, "events", len(steps), "err", err)
	}
}
