// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
)

const (
	// Chunks and events that are committed together.
	maxBatchMessages, maxBatchEvents = 256, 8000
	// How long a commit waits behind the one before for more to commit with it: what becomes of a notification within that
	// time is one row to write instead of three.
	commitInterval = 25 * time.Millisecond
	// Chunks that are forgotten together: a reader or the next commit waits that long for it.
	deleteBatchSize = 2
)

// runIndexer brings chunks into the index until there are no more. It is the index's one writer.
func (h *History) runIndexer(ctx context.Context, chunks <-chan *message, firsts <-chan uint64) error {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case c, more := <-chunks:
			if !more {
				return nil
			}
			batch := collectBatch(c, chunks, next.C)
			next.Reset(commitInterval)
			if err := h.commitWithRetry(ctx, batch); err != nil {
				return err
			}
		case first := <-firsts:
			if err := h.deleteExpired(context.WithoutCancel(ctx), first, chunks); isDamaged(err) {
				return fmt.Errorf("history: the index: %w", err)
			}
		}
	}
}

// commitWithRetry commits a batch, however often it takes: the disk may be full for a while. It gives up when ctx ends, or when the
// index is damaged.
func (h *History) commitWithRetry(ctx context.Context, batch []*message) error {
	for warned := false; ; warned = true {
		err := h.commit(context.WithoutCancel(ctx), batch)
		if err == nil {
			return nil
		}
		if isDamaged(err) || ctx.Err() != nil {
			return fmt.Errorf("history: the index: %w", err)
		}
		if !warned {
			h.cfg.Logger.Error("history: the index cannot be written; trying again until it can", "err", err)
		}
		pause(ctx)
	}
}

// collectBatch returns c and the chunks that come behind it until it is time, or enough have.
func collectBatch(c *message, chunks <-chan *message, now <-chan time.Time) []*message {
	batch, steps := []*message{c}, len(c.headers)
	for len(batch) < maxBatchMessages && steps < maxBatchEvents {
		select {
		case c, more := <-chunks:
			if !more {
				return batch
			}
			batch, steps = append(batch, c), steps+len(c.headers)
		case <-now:
			return batch
		}
	}
	return batch
}

// commit brings a batch into the index, and takes it out of the overlay then.
func (h *History) commit(ctx context.Context, batch []*message) error {
	steps := headersOf(batch)
	at := h.checkpoint
	idx := h.index.Load()
	idx.addKeys(steps, h.cfg.IdempotencyTTL) // before the overlay lets go of them
	if batch[0].seq > at.lastSeq+1 {         // some were gone before we heard of them
		at.oldestSeq, at.lastDroppedIndex = batch[0].seq, -1
	}
	at.lastSeq = batch[len(batch)-1].seq
	var rows []*row
	err := inTransaction(ctx, idx.writeDB, func(tx *sql.Tx) (err error) {
		if rows, err = idx.mergeRows(ctx, tx, steps); err != nil {
			return err
		}
		return idx.insertBatch(ctx, tx, batch, rows, steps, at)
	})
	if err != nil {
		return err
	}
	idx.maxID = maxID(idx.maxID, rows)
	h.checkpoint = at
	h.counters.committed.Store(at.lastSeq)
	h.overlay.removeCommitted(steps)
	h.notifier.notify(batch)
	return nil
}

func headersOf(batch []*message) []*eventHeader {
	var steps []*eventHeader
	for _, c := range batch {
		steps = append(steps, c.headers...)
	}
	return steps
}

// mergeRows returns the rows that the steps change, in the order in which they first do: one row for all steps of one
// notification. It looks for those only that may be there: IDs that we give ascend, and so most are new.
func (x *index) mergeRows(ctx context.Context, tx *sql.Tx, steps []*eventHeader) ([]*row, error) {
	var known []uuid.UUID
	merged := make(map[uuid.UUID]*row, len(steps))
	for _, s := range steps {
		if _, ok := merged[s.id]; !ok && bytes.Compare(s.id[:], x.maxID[:]) <= 0 {
			known = append(known, s.id)
		}
		merged[s.id] = nil
	}
	found, err := x.writeFinder.inTx(ctx, tx).load(ctx, known)
	if err != nil {
		return nil, err
	}
	rows := make([]*row, 0, len(merged))
	for _, s := range steps {
		r := merged[s.id]
		if r == nil {
			if r = found[s.id]; r == nil {
				r = &row{id: s.id}
			}
			merged[s.id] = r
			rows = append(rows, r)
		}
		r.apply(s)
	}
	return rows, nil
}

// maxID returns the greatest of the IDs.
func maxID(id uuid.UUID, rows []*row) uuid.UUID {
	for _, r := range rows {
		if bytes.Compare(r.id[:], id[:]) > 0 {
			id = r.id
		}
	}
	return id
}

// lastByKey returns the last step with each key.
func lastByKey(steps []*eventHeader) map[string]*eventHeader {
	newest := map[string]*eventHeader{}
	for _, s := range steps {
		if s.keyHash != nil {
			newest[string(s.keyHash)] = s
		}
	}
	return newest
}

func saveCheckpoint(ctx context.Context, tx *sql.Tx, at checkpoint) error {
	_, err := tx.ExecContext(ctx, updateCheckpointSQL, int64(at.lastSeq), int64(at.oldestSeq), at.lastDroppedIndex)
	return err
}

// deleteExpired drops what the stream has dropped below first, step by step, as long as nothing new waits for the index.
func (h *History) deleteExpired(ctx context.Context, first uint64, chunks <-chan *message) error {
	for len(chunks) == 0 {
		more, err := h.deleteExpiredBatch(ctx, max(first, h.checkpoint.oldestSeq))
		if !more || err != nil {
			return err
		}
	}
	return nil
}

// deleteExpiredBatch drops a few chunks below first, with what ended in them, and reports whether there may be more.
func (h *History) deleteExpiredBatch(ctx context.Context, first uint64) (more bool, err error) {
	at := h.checkpoint
	err = inTransaction(ctx, h.index.Load().writeDB, func(tx *sql.Tx) error {
		old, err := h.oldestMessages(ctx, tx, first)
		for _, c := range old {
			if err := deleteMessage(ctx, tx, c); err != nil {
				return err
			}
			if c.seq >= at.oldestSeq {
				at.oldestSeq, at.lastDroppedIndex = c.seq+1, countItems(c)-1
			}
		}
		more = len(old) == deleteBatchSize
		if err != nil || len(old) == 0 {
			return err
		}
		return saveCheckpoint(ctx, tx, at)
	})
	if err == nil {
		h.checkpoint = at
	}
	return more, err
}

// countItems is how many items a chunk has, those that are no events included.
func countItems(c *message) (n int) {
	for range jetstream.Items(c.body) {
		n++
	}
	return n
}

// oldestMessages returns the first chunks of the index, as far as they lie below first.
func (h *History) oldestMessages(ctx context.Context, tx *sql.Tx, first uint64) ([]*message, error) {
	rows, err := tx.QueryContext(ctx, "SELECT seq, app, body FROM chunk WHERE seq < ? ORDER BY seq LIMIT ?", int64(first), deleteBatchSize)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err has told by then
	var old []*message
	for rows.Next() {
		var seq uint64
		var app string
		var body []byte
		if err := rows.Scan(&seq, &app, &body); err != nil {
			return nil, err
		}
		old = append(old, h.parseMessage(seq, subjectOf(app), body, newEventHeader))
	}
	return old, rows.Err()
}

// deleteMessage drops a chunk, and what has had no event since.
func deleteMessage(ctx context.Context, tx *sql.Tx, c *message) error {
	for _, s := range c.headers {
		if _, err := tx.ExecContext(ctx, "DELETE FROM notification WHERE id = ? AND seq = ?", s.id[:], int64(c.seq)); err != nil {
			return err
		}
		if s.keyHash == nil {
			continue
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM idempotency WHERE key = ? AND seq = ?", s.keyHash, int64(c.seq)); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM chunk WHERE seq = ?", int64(c.seq))
	return err
}

// inTransaction does work in one transaction.
func inTransaction(ctx context.Context, db *sql.DB, work func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := work(tx); err != nil {
		_ = tx.Rollback() // err is the reason
		return err
	}
	return tx.Commit()
}
