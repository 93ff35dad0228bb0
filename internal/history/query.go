// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

const (
	// maxSearchTime is how long one call reads. After that it returns what it has found.
	maxSearchTime = time.Second
	// concurrentSearches bounds the share of the machine that searches and statistics take.
	concurrentSearches = 2
	// storageDelay is how long after the time of an event it is stored at the latest, unless the disk
	// does not work. Clocks may differ by as much.
	storageDelay = time.Minute
	// taggedTogether is the number of entries for a tag that are read at a time.
	taggedTogether = 256
)

// Search returns notifications of an app, the newest first. A notification has the place of its first
// stored event, so that new events do not move it between pages. Sends whose result is not stored yet,
// which takes a few milliseconds, are left out. The error is push.ErrInvalidCursor, push.ErrCursorExpired
// if the events before the cursor were deleted, or one of the log.
func (h *History) Search(ctx context.Context, app string, want push.Query) (push.Page, error) {
	if err := h.waitCaughtUp(ctx); err != nil {
		return push.Page{}, err
	}
	if err := h.searches.Acquire(ctx, 1); err != nil {
		return push.Page{}, err
	}
	defer h.searches.Release(1)
	q := &query{History: h, app: app, Query: want, firstSeq: max(1, h.firstSeq.Load()), ended: map[record.Position]push.Status{}}
	if err := q.setRange(ctx); err != nil {
		return push.Page{}, err
	}
	q.pending = h.pendingHeaders(func(uuid.UUID) bool { return true })
	return q.page(ctx)
}

// query is one call of Search.
type query struct {
	*History
	app string
	push.Query
	firstSeq uint64                       // of the log, when the call started
	from     uint64                       // the first message to read
	before   jetstream.Offset             // the first record that is not to be read
	pending  map[uuid.UUID][]*eventHeader // that were not stored when the call started
	parser   record.HeaderParser
	ended    map[record.Position]push.Status // of the tasks whose end was read before them, if Statuses is set
}

// setRange sets the part of the log that can have the notifications.
func (q *query) setRange(ctx context.Context) (err error) {
	last := q.entries.last()
	q.from, q.before = q.firstSeq, jetstream.Offset{Seq: last + 1}
	if q.Cursor != "" {
		if q.before, err = parseCursor(q.Cursor); err != nil {
			return err
		}
		if q.before.Seq < q.firstSeq || q.before.Seq > last { // deleted, or of a stream that was created again
			return push.ErrCursorExpired
		}
	}
	if !q.Until.IsZero() {
		seq, err := q.firstSince(ctx, q.Until.Add(storageDelay), q.from, q.before.Seq)
		if err != nil {
			return err
		}
		if seq < q.before.Seq {
			q.before = jetstream.Offset{Seq: seq}
		}
	}
	if !q.Since.IsZero() {
		q.from, err = q.firstSince(ctx, q.Since.Add(-storageDelay), q.from, q.before.Seq)
	}
	return err
}

// page reads until the page is full.
func (q *query) page(ctx context.Context) (page push.Page, err error) {
	page.Notifications = []push.Summary{}
	limit, deadline := cmp.Or(q.Limit, push.DefaultLimit), time.Now().Add(maxSearchTime)
	for c, err := range q.candidates(ctx) {
		if err != nil {
			return push.Page{}, err
		}
		if c.header != nil {
			summary, err := q.examine(ctx, c)
			if err != nil {
				return push.Page{}, err
			}
			if summary != nil {
				page.Notifications = append(page.Notifications, *summary)
			}
		}
		if len(page.Notifications) == limit || time.Now().After(deadline) {
			page.NextCursor = formatCursor(c.at)
			return page, nil
		}
	}
	return page, ctx.Err()
}

// candidate is a record that may be the first of a notification. Without a header, it only says how far
// the search has come.
type candidate struct {
	at     jetstream.Offset
	header *record.Header
}

// candidates yields the records of the app that have the tag, if one is given, the last ones first.
func (q *query) candidates(ctx context.Context) iter.Seq2[candidate, error] {
	if q.Tag != "" {
		return q.tagged(ctx)
	}
	return func(yield func(candidate, error) bool) {
		seq, end := q.before.Seq, q.before.Index
		if end == 0 {
			seq, end = seq-1, -1
		}
		for ctx.Err() == nil {
			if with := q.entries.prevWith(q.app, seq); with != seq {
				seq, end = with, -1
			}
			if seq < q.from {
				return
			}
			m, err := q.cfg.Log.Read(ctx, seq)
			if err != nil && !errors.Is(err, jetstream.ErrDeleted) {
				yield(candidate{}, fmt.Errorf("history: %w", err))
				return
			}
			if err == nil && !q.inMessage(m, end, yield) {
				return
			}
			if !yield(candidate{at: jetstream.Offset{Seq: seq}}, nil) {
				return
			}
			seq, end = seq-1, -1
		}
	}
}

// inMessage yields the records of the app in a message before the index end, or all of them if it is
// negative.
func (q *query) inMessage(m *jetstream.Message, end int, yield func(candidate, error) bool) (more bool) {
	if end < 0 || end > len(m.Records) {
		end = len(m.Records)
	}
	for i := end - 1; i >= 0; i-- {
		h, err := parseHeader(m.Records[i].Data, &q.parser)
		if err == nil && h.App == q.app && !yield(candidate{jetstream.Offset{Seq: m.Seq, Index: i}, &h}, nil) {
			return false
		}
	}
	return true
}

// tagged is candidates with a tag.
func (q *query) tagged(ctx context.Context) iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		for p, err := range q.taggedPositions(ctx) {
			var h *record.Header
			if err == nil {
				h, _, err = q.taggedRecord(ctx, p.offset())
			}
			if !yield(candidate{p.offset(), h}, err) || err != nil {
				return
			}
		}
	}
}

// taggedPositions yields the positions of the entries for the tag, the last ones first. An error is the
// last value.
func (q *query) taggedPositions(ctx context.Context) iter.Seq2[position, error] {
	return func(yield func(position, error) bool) {
		for before := newPosition(q.before, 0); ctx.Err() == nil; {
			positions, err := q.findEntries(ctx, func() ([]position, error) {
				return q.entries.taggedBefore(q.app, q.Tag, before, q.from, taggedTogether)
			})
			if err != nil {
				yield(0, err)
				return
			}
			for _, p := range positions {
				if p.offset().Seq < q.from || !yield(p, nil) {
					return
				}
			}
			if len(positions) < taggedTogether {
				return
			}
			before = newPosition(positions[len(positions)-1].offset(), 0)
		}
	}
}

// taggedRecord returns the record at an offset with its header. It returns nil if the record is deleted or
// damaged, or does not have the tag.
func (q *query) taggedRecord(ctx context.Context, at jetstream.Offset) (*record.Header, []byte, error) {
	m, err := q.cfg.Log.Read(ctx, at.Seq)
	if errors.Is(err, jetstream.ErrDeleted) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("history: %w", err)
	}
	if at.Index >= len(m.Records) {
		return nil, nil, nil
	}
	data := m.Records[at.Index].Data
	h, err := parseHeader(data, &q.parser)
	if err != nil || h.App != q.app || !slices.Contains(h.Tags, q.Tag) {
		return nil, nil, nil
	}
	return &h, data, nil
}

// examine returns the notification of a record, or nil if the record is not the first of the notification
// or the query does not select it.
func (q *query) examine(ctx context.Context, c candidate) (*push.Summary, error) {
	h := c.header
	switch {
	case h.Kind == record.Control:
	case h.Of.Seq >= q.firstSeq: // the first one is the record of the task
		if len(q.Statuses) > 0 && (h.Kind == record.End || h.Kind == record.Cancel) {
			q.ended[h.Of] = h.Status
		}
	case q.Platform != "" && h.Platform != "" && h.Platform != q.Platform:
	case !q.Since.IsZero() && h.At.Before(q.Since):
	case q.Tag == "" && !q.Until.IsZero() && !h.At.Before(q.Until): // an earlier event can lack the tag, if that of the task is deleted
	default:
		if may, err := q.mayHaveStatus(ctx, c); !may || err != nil {
			return nil, err
		}
		found, err := q.lookupOne(ctx, h.ID, q.pending[h.ID], q.entries.findState)
		if err != nil || found == nil || !q.isFirst(found, c.at) || len(q.Statuses) > 0 && !slices.Contains(q.Statuses, found.state.Status) {
			return nil, err
		}
		summary, err := found.summary()
		if err != nil || q.Platform != "" && summary.Platform != q.Platform || summary.CreatedAt.Before(q.Since) ||
			!q.Until.IsZero() && !summary.CreatedAt.Before(q.Until) {
			return nil, err
		}
		return &summary, nil
	}
	return nil, nil
}

// mayHaveStatus reports whether the notification of a record may have one of Statuses, if the record is the
// first of it. It reads at most the end, and not that if it was read before: most notifications have
// another status.
func (q *query) mayHaveStatus(ctx context.Context, c candidate) (bool, error) {
	if len(q.Statuses) == 0 {
		return true, nil
	}
	h, at := c.header, record.Position(c.at)
	if h.Kind == record.End || h.Kind == record.Cancel {
		return slices.Contains(q.Statuses, h.Status), nil
	}
	if status, ok := q.ended[at]; ok {
		delete(q.ended, at)
		return slices.Contains(q.Statuses, status), nil
	}
	positions, err := q.findEntries(ctx, func() ([]position, error) { return q.entries.findState(h.ID) })
	if err != nil {
		return false, err
	}
	if len(q.pending[h.ID]) > 0 || slices.ContainsFunc(positions, func(p position) bool { return p.isOfID() && p.kind() == '?' }) {
		return true, nil
	}
	i := slices.IndexFunc(positions, position.isEnd)
	if i < 0 {
		return slices.ContainsFunc(q.Statuses, func(s push.Status) bool { return !isEnd(s) }), nil
	}
	end, err := q.storedHeader(ctx, positions[i])
	return end == nil || end.id != h.ID || slices.Contains(q.Statuses, end.status), err
}

// isFirst reports whether the first stored event of a notification, with the tag if one is given, is at
// an offset.
func (q *query) isFirst(found *snapshot, at jetstream.Offset) bool {
	for _, hdr := range found.headers {
		if q.Tag == "" || slices.Contains(hdr.tags, q.Tag) {
			return hdr.offset == at
		}
	}
	return false
}

// summary returns the summary of a notification.
func (s *snapshot) summary() (push.Summary, error) {
	summary := push.Summary{
		ID: s.id.String(), Status: s.state.Status, CreatedAt: s.headers[0].at, UpdatedAt: s.state.At, SendAt: s.state.SendAt, AttemptCount: s.state.Attempt,
	}
	var state State
	for i, hdr := range s.headers {
		decisive := state.apply(hdr) && hdr.offset == s.state.Offset
		if i > 0 && !decisive && summary.Platform != "" {
			continue
		}
		e, err := hdr.event()
		if err != nil {
			return push.Summary{}, err
		}
		summary.Platform, summary.Lane = cmp.Or(summary.Platform, e.Platform), cmp.Or(summary.Lane, e.Lane)
		if summary.Tags == nil {
			summary.Tags = e.Tags
		}
		if decisive && e.Receipt != nil {
			summary.Reason = e.Receipt.Reason
			summary.AttemptCount = max(summary.AttemptCount, len(e.Receipt.Attempts))
		}
	}
	return summary, nil
}
