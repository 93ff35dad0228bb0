// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/engine"
)

const (
	// Chunks and events that are committed together.
	chunksAtOnce, stepsAtOnce = 256, 8000
	// How long a commit waits behind the one before for more to commit with it: what becomes of a notification within that
	// time is one row to write instead of three.
	commitAgain = 25 * time.Millisecond
	// Chunks that are forgotten together: a reader or the next commit waits that long for it.
	forgetAtOnce = 2
)

// project brings chunks into the index until there are no more. It is the index's one writer.
func (h *History) project(ctx context.Context, chunks <-chan *chunk, firsts <-chan uint64) error {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case c, more := <-chunks:
			if !more {
				return nil
			}
			batch := gather(c, chunks, next.C)
			next.Reset(commitAgain)
			if err := h.persist(ctx, batch); err != nil {
				return err
			}
		case first := <-firsts:
			if err := h.forget(context.WithoutCancel(ctx), first, chunks); damaged(err) {
				return fmt.Errorf("history: the index: %w", err)
			}
		}
	}
}

// persist commits a batch, however often it takes: the disk may be full for a while. It gives up when ctx ends, or when the
// index is damaged.
func (h *History) persist(ctx context.Context, batch []*chunk) error {
	for warned := false; ; warned = true {
		err := h.commit(context.WithoutCancel(ctx), batch)
		if err == nil {
			return nil
		}
		if damaged(err) || ctx.Err() != nil {
			return fmt.Errorf("history: the index: %w", err)
		}
		if !warned {
			h.cfg.Logger.Error("history: the index cannot be written; trying again until it can", "err", err)
		}
		pause(ctx)
	}
}

// gather returns c and the chunks that come behind it until it is time, or enough have.
func gather(c *chunk, chunks <-chan *chunk, now <-chan time.Time) []*chunk {
	batch, steps := []*chunk{c}, len(c.steps)
	for len(batch) < chunksAtOnce && steps < stepsAtOnce {
		select {
		case c, more := <-chunks:
			if !more {
				return batch
			}
			batch, steps = append(batch, c), steps+len(c.steps)
		case <-now:
			return batch
		}
	}
	return batch
}

// commit brings a batch into the index, and takes it out of the overlay then.
func (h *History) commit(ctx context.Context, batch []*chunk) error {
	steps := stepsOf(batch)
	at := h.mark
	idx := h.index.Load()
	idx.remember(steps, h.cfg.KeepKeys) // before the overlay lets go of them
	if batch[0].seq > at.last+1 {       // some were gone before we heard of them
		at.floor, at.floorIndex = batch[0].seq, -1
	}
	at.last = batch[len(batch)-1].seq
	var rows []*row
	err := transact(ctx, idx.write, func(tx *sql.Tx) (err error) {
		if rows, err = idx.merge(ctx, tx, steps); err != nil {
			return err
		}
		return idx.insert(ctx, tx, batch, rows, steps, at)
	})
	if err != nil {
		return err
	}
	idx.newest = newest(idx.newest, rows)
	h.mark = at
	h.counts.committed.Store(at.last)
	h.overlay.committed(steps)
	h.tide.rise(batch)
	return nil
}

func stepsOf(batch []*chunk) []*step {
	var steps []*step
	for _, c := range batch {
		steps = append(steps, c.steps...)
	}
	return steps
}

// merge returns the rows that the steps change, in the order in which they first do: one row for all steps of one
// notification. It looks for those only that may be there: IDs that we give ascend, and so most are new.
func (x *index) merge(ctx context.Context, tx *sql.Tx, steps []*step) ([]*row, error) {
	var known []uuid.UUID
	merged := make(map[uuid.UUID]*row, len(steps))
	for _, s := range steps {
		if _, ok := merged[s.id]; !ok && bytes.Compare(s.id[:], x.newest[:]) <= 0 {
			known = append(known, s.id)
		}
		merged[s.id] = nil
	}
	found, err := x.rows.in(ctx, tx).load(ctx, known)
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
		r.take(s)
	}
	return rows, nil
}

// newest returns the greatest of the IDs.
func newest(id uuid.UUID, rows []*row) uuid.UUID {
	for _, r := range rows {
		if bytes.Compare(r.id[:], id[:]) > 0 {
			id = r.id
		}
	}
	return id
}

// newestKeys returns the last step with each key.
func newestKeys(steps []*step) map[string]*step {
	newest := map[string]*step{}
	for _, s := range steps {
		if s.keyHash != nil {
			newest[string(s.keyHash)] = s
		}
	}
	return newest
}

func setMark(ctx context.Context, tx *sql.Tx, at mark) error {
	_, err := tx.ExecContext(ctx, putMark, int64(at.last), int64(at.floor), at.floorIndex)
	return err
}

// forget drops what the stream has dropped below first, step by step, as long as nothing new waits for the index.
func (h *History) forget(ctx context.Context, first uint64, chunks <-chan *chunk) error {
	for len(chunks) == 0 {
		more, err := h.forgetSome(ctx, max(first, h.mark.floor))
		if !more || err != nil {
			return err
		}
	}
	return nil
}

// forgetSome drops a few chunks below first, with what ended in them, and reports whether there may be more.
func (h *History) forgetSome(ctx context.Context, first uint64) (more bool, err error) {
	at := h.mark
	err = transact(ctx, h.index.Load().write, func(tx *sql.Tx) error {
		old, err := h.oldest(ctx, tx, first)
		for _, c := range old {
			if err := forgetChunk(ctx, tx, c); err != nil {
				return err
			}
			if c.seq >= at.floor {
				at.floor, at.floorIndex = c.seq+1, count(c)-1
			}
		}
		more = len(old) == forgetAtOnce
		if err != nil || len(old) == 0 {
			return err
		}
		return setMark(ctx, tx, at)
	})
	if err == nil {
		h.mark = at
	}
	return more, err
}

// count is how many items a chunk has, those that are no events included.
func count(c *chunk) (n int) {
	for range engine.Items(c.body) {
		n++
	}
	return n
}

// oldest returns the first chunks of the index, as far as they lie below first.
func (h *History) oldest(ctx context.Context, tx *sql.Tx, first uint64) ([]*chunk, error) {
	rows, err := tx.QueryContext(ctx, "SELECT seq, app, body FROM chunk WHERE seq < ? ORDER BY seq LIMIT ?", int64(first), forgetAtOnce)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err has told by then
	var old []*chunk
	for rows.Next() {
		var seq uint64
		var app string
		var body []byte
		if err := rows.Scan(&seq, &app, &body); err != nil {
			return nil, err
		}
		old = append(old, h.read(seq, subject(app), body, newStep))
	}
	return old, rows.Err()
}

// forgetChunk drops a chunk, and what has had no event since.
func forgetChunk(ctx context.Context, tx *sql.Tx, c *chunk) error {
	for _, s := range c.steps {
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

// transact does work in one transaction.
func transact(ctx context.Context, db *sql.DB, work func(*sql.Tx) error) error {
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
