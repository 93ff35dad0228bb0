// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Oldest is the cursor before the oldest event of the history.
const Oldest = "oldest"

// Feed returns the events of an app, or of all apps for "", in the order of the stream: first those
// after the cursor, then new ones as soon as they are indexed, until ctx ends. An empty cursor
// starts with the next new event.
//
// match selects events; nil selects all. For a message without a match, match is called again with
// an event that has only a cursor. If it matches, Feed yields it, so that the reader can resume
// there.
//
// A slow reader does not block others. An error is the last value of the sequence:
// push.ErrInvalidCursor, or push.ErrCursorExpired if events after the cursor were deleted.
func (h *History) Feed(ctx context.Context, app, after string, match func(*push.Event) bool) iter.Seq2[push.Event, error] {
	return func(yield func(push.Event, error) bool) {
		r := &feedReader{history: h, app: app, match: match}
		if err := r.start(ctx, after); err != nil {
			r.fail(ctx, err, yield)
			return
		}
		for ctx.Err() == nil {
			changed := h.notifier.waitAbove(app, r.position.Seq)
			m, err := r.next(ctx)
			switch {
			case err != nil:
				r.fail(ctx, err, yield)
				return
			case m == nil:
				r.wait(ctx, changed)
			case !r.emit(m, yield):
				return
			}
		}
	}
}

// feedReader is the state of one feed.
type feedReader struct {
	history  *History
	app      string
	match    func(*push.Event) bool
	position jetstream.Offset // of the last event read
}

func (r *feedReader) fail(ctx context.Context, err error, yield func(push.Event, error) bool) {
	if ctx.Err() == nil {
		yield(push.Event{}, err)
	}
}

func (r *feedReader) start(ctx context.Context, after string) (err error) {
	if after == Oldest {
		return nil
	}
	if after != "" {
		if r.position, err = parseCursor(after); err != nil {
			return err
		}
	}
	if err := r.history.WaitCaughtUp(ctx); err != nil {
		return err
	}
	last := r.history.cfg.Log.LastSeq()
	if after == "" {
		r.position = jetstream.Offset{Seq: last, Index: math.MaxInt32}
	} else if r.position.Seq > last {
		return fmt.Errorf("%w: the stream was recreated", push.ErrCursorExpired)
	}
	return nil
}

// next returns the next message, or nil if there is no new one or it cannot be read now.
func (r *feedReader) next(ctx context.Context) (*message, error) {
	m, err := r.readLog(ctx)
	if err == nil || errors.Is(err, push.ErrCursorExpired) || ctx.Err() != nil {
		return m, err
	}
	r.history.cfg.Logger.Warn("feed delayed: cannot read the log", "app", r.app, "err", err)
	pause(ctx)
	return nil, nil
}

// nextSeq returns the first message that may contain unread events.
func (r *feedReader) nextSeq() uint64 {
	if r.position.Index == math.MaxInt32 {
		return r.position.Seq + 1
	}
	return r.position.Seq
}

// emit yields the matching events of a message, and reports whether the reader continues.
func (r *feedReader) emit(m *message, yield func(push.Event, error) bool) (more bool) {
	yielded := false
	var last jetstream.Offset
	for _, item := range m.items {
		last = jetstream.Offset{Seq: m.seq, Index: item.index}
		if !r.position.Before(last) {
			continue
		}
		r.position = last
		e, err := (&eventHeader{offset: last, text: item.text}).event()
		if err != nil {
			r.history.cfg.Logger.Error("invalid event skipped", "err", err)
			continue
		}
		e.KeyHash, e.BodyHash = nil, nil
		if r.match != nil && !r.match(&e) {
			continue
		}
		yielded = true
		if !yield(e, nil) {
			return false
		}
	}
	end := push.Event{Cursor: formatCursor(last)}
	r.position.Index = math.MaxInt32 // the whole message is read
	if !yielded && r.match != nil && r.match(&end) {
		return yield(end, nil)
	}
	return true
}

// wait waits for a new message.
func (r *feedReader) wait(ctx context.Context, changed <-chan struct{}) {
	if changed == nil {
		return
	}
	select {
	case <-changed:
	case <-ctx.Done():
	}
}
