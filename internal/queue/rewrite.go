// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// rewrittenTogether is the number of tasks that are written again with one write.
const rewrittenTogether = 100

// OldestSeq implements jetstream.Keeper.
func (q *Queue) OldestSeq() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.table.oldest()
}

// Rewrite implements jetstream.Keeper. It leaves the tasks that are being sent: they end soon.
func (q *Queue) Rewrite(ctx context.Context, seq uint64, limit int64) error {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	q.mu.Lock()
	tasks := q.table.openBefore(seq, limit)
	q.mu.Unlock()
	for group := range slices.Chunk(tasks, rewrittenTogether) {
		if err := q.rewrite(ctx, group); err != nil {
			return err
		}
	}
	if len(tasks) > 0 {
		q.cfg.Logger.Info("waiting notifications written again, so that older history can be deleted", "notifications", len(tasks))
	}
	return nil
}

// rewrite writes tasks again that wait. No other record of them can come between.
func (q *Queue) rewrite(ctx context.Context, tasks []jetstream.Offset) error {
	type waiting struct {
		at     jetstream.Offset
		before progress
		record *record.Record
	}
	var read []waiting
	for _, at := range tasks {
		q.mu.Lock()
		before := q.table.started[at]
		q.mu.Unlock()
		r, err := q.readRecord(ctx, at)
		if err == nil && before.rescheduled.Seq > 0 {
			err = q.readReceipt(ctx, r, before.rescheduled)
		}
		if isDamaged(err) {
			continue
		}
		if err != nil {
			return err
		}
		read = append(read, waiting{at, before, r})
	}
	return q.cfg.Log.Exclusive(ctx, func() (records []jetstream.Record) {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, w := range read {
			if data := q.table.rewritten(w.record, w.at, w.before); data != nil {
				records = append(records, jetstream.Record{Data: data})
			}
		}
		return records
	})
}

// readReceipt sets the receipt of r to that of the record at an offset. Without it, it lacks attempts.
func (q *Queue) readReceipt(ctx context.Context, r *record.Record, at jetstream.Offset) error {
	rescheduled, err := q.readRecord(ctx, at)
	if err == nil {
		r.Receipt = rescheduled.Receipt
	}
	if isDamaged(err) {
		return nil
	}
	return err
}

// rewritten returns the new record of a task. It returns nil if the task has changed, or is being sent.
func (t *table) rewritten(r *record.Record, at jetstream.Offset, before progress) []byte {
	f, p := t.find(at), t.started[at]
	if f == nil || f.has(isSending, at.Index) || p != before || r.Notification == nil {
		return nil
	}
	r.Of, r.Attempt, r.Reschedules = record.Position(at), p.attempts, p.reschedules
	switch {
	case !f.has(isLater, at.Index):
		r.Status, r.SendAt = push.StatusQueued, time.Time{}
	case p.due != 0:
		r.Status, r.SendAt = push.StatusQueued, time.UnixMilli(p.due-1) // see dueTime
	}
	data, err := r.Append(nil)
	if err != nil {
		return nil
	}
	return data
}
