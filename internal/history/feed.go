// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"math"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Oldest is the cursor before the oldest event of the history.
const Oldest = "oldest"

// Messages that a feed reads from the index at a time: up to a few hundred KB for each feed.
const feedPageSize = 8

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
			page, err := r.page(ctx)
			if err != nil {
				r.fail(ctx, err, yield)
				return
			}
			for _, m := range page {
				if !r.emit(m, yield) {
					return
				}
			}
			if len(page) == 0 {
				r.wait(ctx, changed)
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
	switch after {
	case "":
		info, err := r.history.streamInfo(ctx)
		if err != nil {
			return err
		}
		r.position = jetstream.Offset{Seq: info.State.LastSeq, Index: math.MaxInt32}
		return nil
	case Oldest:
		return nil
	}
	if r.position, err = parseCursor(after); err != nil {
		return err
	}
	info, err := r.history.streamInfo(ctx)
	if err != nil {
		return err
	}
	if r.position.Seq > info.State.LastSeq {
		return fmt.Errorf("%w: the stream was recreated", push.ErrCursorExpired)
	}
	return nil
}

// page returns the next messages, or none if there are no new ones or the index is being rebuilt.
func (r *feedReader) page(ctx context.Context) ([]*message, error) {
	page, err := r.query(ctx)
	if err == nil || errors.Is(err, push.ErrCursorExpired) || ctx.Err() != nil {
		return page, err
	}
	r.history.cfg.Logger.Warn("feed delayed: cannot read the index", "app", r.app, "err", r.history.reportDamage(err))
	pause(ctx)
	return nil, nil
}

// selectMessagesSQL reads messages and the checkpoint in one statement, so that both are
// consistent.
const selectMessagesSQL = `SELECT c.last_seq, c.oldest_seq, c.last_dropped_index, m.seq, m.app, m.body FROM checkpoint c LEFT JOIN
	(SELECT seq, app, body FROM message WHERE %s seq >= ? ORDER BY seq LIMIT ?) m ORDER BY m.seq`

func (r *feedReader) query(ctx context.Context) ([]*message, error) {
	if r.history.entries != nil {
		return r.readLog(ctx)
	}
	query, args := fmt.Sprintf(selectMessagesSQL, ""), []any{int64(r.nextSeq()), feedPageSize}
	if r.app != "" {
		query, args = fmt.Sprintf(selectMessagesSQL, "app = ? AND"), append([]any{r.app}, args...)
	}
	rows, err := r.history.index.Load().readDB.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err reports the error
	var page []*message
	var cp checkpoint
	for rows.Next() {
		var seq sql.NullInt64
		var app sql.NullString
		var body []byte
		if err := rows.Scan(&cp.lastSeq, &cp.oldestSeq, &cp.lastDroppedIndex, &seq, &app, &body); err != nil {
			return nil, err
		}
		if r.position != (jetstream.Offset{}) && cp.dropped(r.position) {
			return nil, push.ErrCursorExpired
		}
		if seq.Valid {
			page = append(page, &message{seq: uint64(seq.Int64), app: app.String, body: body})
		}
	}
	if len(page) == 0 && cp.lastSeq > r.position.Seq { // no event of this app up to there
		r.position = jetstream.Offset{Seq: cp.lastSeq, Index: math.MaxInt32}
	}
	return page, rows.Err()
}

// nextSeq returns the first message that may contain unread events.
func (r *feedReader) nextSeq() uint64 {
	if r.position.Index == math.MaxInt32 {
		return r.position.Seq + 1
	}
	return r.position.Seq
}

// dropped reports whether events after o were deleted from the index.
func (c checkpoint) dropped(o jetstream.Offset) bool {
	if o.Index == math.MaxInt32 {
		return o.Seq+1 < c.oldestSeq
	}
	if o.Seq+1 == c.oldestSeq && c.lastDroppedIndex >= 0 {
		return o.Index < c.lastDroppedIndex
	}
	return o.Seq < c.oldestSeq
}

// emit yields the matching events of a message, and reports whether the reader continues.
func (r *feedReader) emit(m *message, yield func(push.Event, error) bool) (more bool) {
	yielded := false
	var last jetstream.Offset
	for i, item := range m.items() {
		last = jetstream.Offset{Seq: m.seq, Index: i}
		if !r.position.Before(last) {
			continue
		}
		r.position = last
		e, err := (&eventHeader{offset: last, text: item}).event()
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
