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
func (q *logQueue) OldestSeq() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.table.oldest()
}

// Rewrite implements jetstream.Keeper. It leaves the tasks that are being sent: they end soon.
func (q *logQueue) Rewrite(ctx context.Context, seq uint64, limit int64) error {
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

// rewrite writes tasks again that wait. Nothing else changes them until they are stored.
func (q *logQueue) rewrite(ctx context.Context, tasks []jetstream.Offset) error {
	q.rewriting.Lock()
	defer q.rewriting.Unlock()
	var records []jetstream.Record
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
		if data := q.rewritten(r, at, before); data != nil {
			records = append(records, jetstream.Record{Data: data})
		}
	}
	_, err := q.cfg.Log.Append(ctx, records...)
	return err
}

// readReceipt sets the receipt of r to that of the record at an offset. Without it, it lacks attempts.
func (q *logQueue) readReceipt(ctx context.Context, r *record.Record, at jetstream.Offset) error {
	rescheduled, err := q.readRecord(ctx, at)
	if err == nil {
		r.Receipt = rescheduled.Receipt
	}
	if isDamaged(err) {
		return nil
	}
	return err
}

// rewritten claims a task and returns its new record. It returns nil if the task has changed.
func (q *logQueue) rewritten(r *record.Record, at jetstream.Offset, p progress) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.table.started[at] != p || r.Notification == nil {
		return nil
	}
	r.Of, r.Attempt, r.Reschedules = record.Position(at), p.attempts, p.reschedules
	f := q.table.find(at)
	switch {
	case f == nil:
		return nil
	case !f.has(isLater, at.Index):
		r.Status, r.SendAt = push.StatusQueued, time.Time{}
	case p.due != 0:
		r.Status, r.SendAt = push.StatusQueued, time.UnixMilli(p.due-1) // see dueTime
	}
	data, err := r.Append(nil)
	if err != nil || !q.table.claim(at, false) {
		return nil
	}
	return data
}
