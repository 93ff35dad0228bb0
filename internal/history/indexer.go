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
	// Limits of messages, events and bytes in one commit, which the write-ahead log holds several times.
	maxBatchMessages, maxBatchEvents, maxBatchBytes = 256, 8000, 2 << 20
	// The minimum time between two commits. Events of one notification that arrive within it need
	// one row write instead of three.
	commitInterval = 25 * time.Millisecond
	// Messages that are deleted in one transaction. Queries and the next commit wait for it.
	deleteBatchSize = 2
)

// runIndexer writes messages to the index until the channel is closed. No other goroutine writes to
// the index.
func (h *History) runIndexer(ctx context.Context, messages <-chan *message, oldestSeqs <-chan uint64) error {
	commitTimer := time.NewTimer(0)
	defer commitTimer.Stop()
	for {
		select {
		case m, more := <-messages:
			if !more {
				return nil
			}
			batch := collectBatch(m, messages, commitTimer.C)
			commitTimer.Reset(commitInterval)
			if err := h.commitWithRetry(ctx, batch); err != nil {
				return err
			}
		case first := <-oldestSeqs:
			if err := h.deleteExpired(context.WithoutCancel(ctx), first, messages); isDamaged(err) {
				return fmt.Errorf("history: index: %w", err)
			}
		}
	}
}

// commitWithRetry commits a batch. It retries, for instance while the disk is full, until ctx ends
// or the index is damaged.
func (h *History) commitWithRetry(ctx context.Context, batch []*message) error {
	for warned := false; ; warned = true {
		err := h.commit(context.WithoutCancel(ctx), batch)
		if err == nil {
			return nil
		}
		if isDamaged(err) || ctx.Err() != nil {
			return fmt.Errorf("history: index: %w", err)
		}
		if !warned {
			h.cfg.Logger.Error("cannot write the index; retrying", "err", err)
		}
		pause(ctx)
	}
}

// collectBatch returns m and the messages after it, until now fires or the batch is full.
func collectBatch(m *message, messages <-chan *message, now <-chan time.Time) []*message {
	batch, headers, bytes := []*message{m}, len(m.headers), len(m.body)
	for len(batch) < maxBatchMessages && headers < maxBatchEvents && bytes < maxBatchBytes {
		select {
		case m, more := <-messages:
			if !more {
				return batch
			}
			batch, headers, bytes = append(batch, m), headers+len(m.headers), bytes+len(m.body)
		case <-now:
			return batch
		}
	}
	return batch
}

// commit writes a batch to the index and then removes it from the overlay.
func (h *History) commit(ctx context.Context, batch []*message) error {
	headers := headersOf(batch)
	cp := h.checkpoint
	idx := h.index.Load()
	idx.addKeys(headers, h.cfg.IdempotencyTTL) // before the events leave the overlay
	if batch[0].seq > cp.lastSeq+1 {           // some expired before this gateway received them
		cp.oldestSeq, cp.lastDroppedIndex = batch[0].seq, -1
	}
	cp.lastSeq = batch[len(batch)-1].seq
	var rows []*row
	err := inTransaction(ctx, idx.writeDB, func(tx *sql.Tx) (err error) {
		if rows, err = idx.mergeRows(ctx, tx, headers); err != nil {
			return err
		}
		return idx.insertBatch(ctx, tx, batch, rows, headers, cp)
	})
	if err != nil {
		return err
	}
	idx.maxID = maxID(idx.maxID, rows)
	h.checkpoint = cp
	h.counters.committed.Store(cp.lastSeq)
	h.overlay.removeCommitted(headers)
	h.notifier.notify(batch)
	return nil
}

func headersOf(batch []*message) []*eventHeader {
	var headers []*eventHeader
	for _, m := range batch {
		headers = append(headers, m.headers...)
	}
	return headers
}

// mergeRows applies the events and returns the changed rows, one for each notification, in the
// order of their first events. It queries only IDs up to maxID: IDs are generated in ascending
// order, so most rows are new.
func (x *index) mergeRows(ctx context.Context, tx *sql.Tx, headers []*eventHeader) ([]*row, error) {
	var candidates []uuid.UUID
	merged := make(map[uuid.UUID]*row, len(headers))
	for _, hdr := range headers {
		if _, ok := merged[hdr.id]; !ok && bytes.Compare(hdr.id[:], x.maxID[:]) <= 0 {
			candidates = append(candidates, hdr.id)
		}
		merged[hdr.id] = nil
	}
	found, err := x.writeFinder.inTx(ctx, tx).load(ctx, candidates)
	if err != nil {
		return nil, err
	}
	rows := make([]*row, 0, len(merged))
	for _, hdr := range headers {
		r := merged[hdr.id]
		if r == nil {
			if r = found[hdr.id]; r == nil {
				r = &row{id: hdr.id}
			}
			merged[hdr.id] = r
			rows = append(rows, r)
		}
		r.apply(hdr)
	}
	return rows, nil
}

// maxID returns the largest of the IDs.
func maxID(id uuid.UUID, rows []*row) uuid.UUID {
	for _, r := range rows {
		if bytes.Compare(r.id[:], id[:]) > 0 {
			id = r.id
		}
	}
	return id
}

// lastByKey returns the last event of each key.
func lastByKey(headers []*eventHeader) map[string]*eventHeader {
	newest := map[string]*eventHeader{}
	for _, hdr := range headers {
		if hdr.keyHash != nil {
			newest[string(hdr.keyHash)] = hdr
		}
	}
	return newest
}

func saveCheckpoint(ctx context.Context, tx *sql.Tx, cp checkpoint) error {
	_, err := tx.ExecContext(ctx, updateCheckpointSQL, int64(cp.lastSeq), int64(cp.oldestSeq), cp.lastDroppedIndex)
	return err
}

// deleteExpired deletes messages that the stream has deleted, those before first. It stops when new
// messages wait.
func (h *History) deleteExpired(ctx context.Context, first uint64, messages <-chan *message) error {
	for len(messages) == 0 {
		more, err := h.deleteExpiredBatch(ctx, max(first, h.checkpoint.oldestSeq))
		if !more || err != nil {
			return err
		}
	}
	return nil
}

// deleteExpiredBatch deletes a few messages before first, and the notifications whose last event
// was in them. It reports whether there may be more.
func (h *History) deleteExpiredBatch(ctx context.Context, first uint64) (more bool, err error) {
	cp := h.checkpoint
	err = inTransaction(ctx, h.index.Load().writeDB, func(tx *sql.Tx) error {
		expired, err := h.oldestMessages(ctx, tx, first)
		for _, m := range expired {
			if err := deleteMessage(ctx, tx, m); err != nil {
				return err
			}
			if m.seq >= cp.oldestSeq {
				cp.oldestSeq, cp.lastDroppedIndex = m.seq+1, countItems(m)-1
			}
		}
		more = len(expired) == deleteBatchSize
		if err != nil || len(expired) == 0 {
			return err
		}
		return saveCheckpoint(ctx, tx, cp)
	})
	if err == nil {
		h.checkpoint = cp
	}
	return more, err
}

// countItems returns the number of items in a message, including invalid ones.
func countItems(m *message) (n int) {
	for range jetstream.Items(m.body) {
		n++
	}
	return n
}

// oldestMessages returns the first messages of the index that are before first.
func (h *History) oldestMessages(ctx context.Context, tx *sql.Tx, first uint64) ([]*message, error) {
	rows, err := tx.QueryContext(ctx, "SELECT seq, app, body FROM message WHERE seq < ? ORDER BY seq LIMIT ?", int64(first), deleteBatchSize)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err reports the error
	var oldest []*message
	for rows.Next() {
		var seq uint64
		var app string
		var body []byte
		if err := rows.Scan(&seq, &app, &body); err != nil {
			return nil, err
		}
		oldest = append(oldest, h.parseMessage(seq, subjectOf(app), body, newEventHeader))
	}
	return oldest, rows.Err()
}

// deleteMessage deletes a message, and the notifications and keys without a later event.
func deleteMessage(ctx context.Context, tx *sql.Tx, m *message) error {
	for _, hdr := range m.headers {
		if _, err := tx.ExecContext(ctx, "DELETE FROM notification WHERE id = ? AND seq = ?", hdr.id[:], int64(m.seq)); err != nil {
			return err
		}
		if hdr.keyHash == nil {
			continue
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM idempotency WHERE key = ? AND seq = ?", hdr.keyHash, int64(m.seq)); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, "DELETE FROM message WHERE seq = ?", int64(m.seq))
	return err
}

// inTransaction runs work in a transaction.
func inTransaction(ctx context.Context, db *sql.DB, work func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // has no effect after Commit
	if err := work(tx); err != nil {
		return err
	}
	return tx.Commit()
}
