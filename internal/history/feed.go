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

// Oldest is the cursor of a feed that begins with the oldest event that is kept.
const Oldest = "oldest"

// Chunks that a feed takes from the index at a time: a few hundred KB at the most for each reader.
const feedPageSize = 8

// Feed returns the events of an app, or of all apps for "", in the order of the stream: those behind the cursor after, and
// then each new one as soon as the index has it, until ctx ends. An empty cursor begins with what comes next.
//
// want chooses; nil wants all. Where it wanted nothing for a while, it is asked about an event that has a cursor and no ID:
// a reader that takes those can resume there instead of at the last event that it wanted.
//
// Each reader goes at its own pace and holds up nobody. An error is the last thing that is yielded: push.ErrCursor, or
// push.ErrForgotten if what stood behind the cursor is not kept any more.
func (h *History) Feed(ctx context.Context, app, after string, want func(*push.Event) bool) iter.Seq2[push.Event, error] {
	return func(yield func(push.Event, error) bool) {
		r := &feedReader{history: h, app: app, match: want}
		if err := r.start(ctx, after); err != nil {
			r.fail(ctx, err, yield)
			return
		}
		for ctx.Err() == nil {
			more := h.notifier.waitAbove(app, r.position.Seq)
			page, err := r.page(ctx)
			if err != nil {
				r.fail(ctx, err, yield)
				return
			}
			for _, c := range page {
				if !r.emit(c, yield) {
					return
				}
			}
			if len(page) == 0 {
				r.wait(ctx, more)
			}
		}
	}
}

// feedReader is one feed that is being read.
type feedReader struct {
	history  *History
	app      string
	match    func(*push.Event) bool
	position jetstream.Offset // what has been read
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
		return fmt.Errorf("%w: the stream was made anew", push.ErrCursorExpired)
	}
	return nil
}

// page returns the next chunks, none if there is nothing new. While the index is being made anew there is nothing new.
func (r *feedReader) page(ctx context.Context) ([]*message, error) {
	page, err := r.query(ctx)
	if err == nil || errors.Is(err, push.ErrCursorExpired) || ctx.Err() != nil {
		return page, err
	}
	r.history.cfg.Logger.Warn("history: a feed waits", "app", r.app, "err", r.history.reportDamage(err))
	pause(ctx)
	return nil, nil
}

// selectMessagesSQL asks for the chunks behind a place, and for what is kept at all, at the same moment.
const selectMessagesSQL = `SELECT m.last, m.floor, m.floor_index, c.seq, c.app, c.body FROM mark m LEFT JOIN
	(SELECT seq, app, body FROM chunk WHERE %s seq >= ? ORDER BY seq LIMIT ?) c ORDER BY c.seq`

func (r *feedReader) query(ctx context.Context) ([]*message, error) {
	query, args := fmt.Sprintf(selectMessagesSQL, ""), []any{int64(r.nextSeq()), feedPageSize}
	if r.app != "" {
		query, args = fmt.Sprintf(selectMessagesSQL, "app = ? AND"), append([]any{r.app}, args...)
	}
	rows, err := r.history.index.Load().readDB.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err has told by then
	var page []*message
	var at checkpoint
	for rows.Next() {
		var seq sql.NullInt64
		var app sql.NullString
		var body []byte
		if err := rows.Scan(&at.lastSeq, &at.oldestSeq, &at.lastDroppedIndex, &seq, &app, &body); err != nil {
			return nil, err
		}
		if r.position != (jetstream.Offset{}) && at.dropped(r.position) {
			return nil, push.ErrCursorExpired
		}
		if seq.Valid {
			page = append(page, &message{seq: uint64(seq.Int64), app: app.String, body: body})
		}
	}
	if len(page) == 0 && at.lastSeq > r.position.Seq { // nothing of this app up to there
		r.position = jetstream.Offset{Seq: at.lastSeq, Index: math.MaxInt32}
	}
	return page, rows.Err()
}

// nextSeq is the first chunk that may hold something unread.
func (r *feedReader) nextSeq() uint64 {
	if r.position.Index == math.MaxInt32 {
		return r.position.Seq + 1
	}
	return r.position.Seq
}

// dropped reports whether something behind p is not in the index any more.
func (m checkpoint) dropped(p jetstream.Offset) bool {
	if p.Index == math.MaxInt32 {
		return p.Seq+1 < m.oldestSeq
	}
	if p.Seq+1 == m.oldestSeq && m.lastDroppedIndex >= 0 {
		return p.Index < m.lastDroppedIndex
	}
	return p.Seq < m.oldestSeq
}

// emit yields the events of a chunk that are wanted, and reports whether the reader wants to go on.
func (r *feedReader) emit(c *message, yield func(push.Event, error) bool) (more bool) {
	told := false
	var last jetstream.Offset
	for i, item := range jetstream.Items(c.body) {
		last = jetstream.Offset{Seq: c.seq, Index: i}
		if !r.position.Before(last) {
			continue
		}
		r.position = last
		e, err := (&eventHeader{offset: last, text: item}).event()
		if err != nil {
			r.history.cfg.Logger.Error("history: an event is passed over", "err", err)
			continue
		}
		e.KeyHash, e.BodyHash = nil, nil
		if r.match != nil && !r.match(&e) {
			continue
		}
		told = true
		if !yield(e, nil) {
			return false
		}
	}
	mark := push.Event{Cursor: formatCursor(last)}
	r.position.Index = math.MaxInt32 // nothing in this chunk is unread
	if !told && r.match != nil && r.match(&mark) {
		return yield(mark, nil)
	}
	return true
}

// wait waits for something new.
func (r *feedReader) wait(ctx context.Context, more <-chan struct{}) {
	if more == nil {
		return
	}
	select {
	case <-more:
	case <-ctx.Done():
	}
}
