// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"sync"

	"github.com/sluice-push/sluice/push"
)

const (
	// Notes that may wait to be written; beyond, Note waits.
	maxNotes = 4096
	// Notes that are written at a time.
	notesAtOnce = 400
)

// note is an event that nobody waits for, or what is to be done when all before it are written.
type note struct {
	step *step
	then func()
}

// Note writes events without waiting until they are on disk: Find and States know them at once, a crash may forget them.
// While too many wait it waits too; its error is ctx's, or that of an event that cannot be written.
func (h *History) Note(ctx context.Context, events ...push.Event) error {
	for _, e := range events {
		s, err := write(e)
		if err != nil {
			return err
		}
		h.overlay.expect(s)
		if err := h.enqueue(ctx, note{step: s}); err != nil {
			h.overlay.lost([]*step{s})
			return err
		}
	}
	return nil
}

func (h *History) enqueue(ctx context.Context, n note) error {
	select {
	case h.notes <- n:
		return nil
	case <-ctx.Done():
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
	notes := []note{first}
	for len(notes) < notesAtOnce {
		select {
		case n := <-h.notes:
			notes = append(notes, n)
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
		if n.step != nil {
			apps[n.step.app] = append(apps[n.step.app], n.step)
		}
	}
	var writing sync.WaitGroup
	for _, steps := range apps {
		writing.Go(func() { h.writeNoted(steps) })
	}
	writing.Wait()
	for _, n := range notes {
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
