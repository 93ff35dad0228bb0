// SPDX-License-Identifier: Apache-2.0

package history

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

const (
	// unfinishedPage is how many rows are read in one statement, about a million per second. A longer
	// one would let the write-ahead log grow.
	unfinishedPage = 20_000
	lastOfPageSQL  = "SELECT id FROM notification WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
	// unfinishedSQL selects the rows of a page whose encoded state may be other than an end.
	unfinishedSQL = "SELECT " + columns + " FROM notification WHERE id > ? AND id <= ? AND (instr(data, ?) > 0 OR instr(data, ?) > 0 OR instr(data, ?) > 0)"
)

// LastSeq returns the sequence of the last message in the stream. It works before Run.
func (h *History) LastSeq(ctx context.Context) (uint64, error) {
	if h.cfg.Log != nil {
		return h.cfg.Log.LastSeq(), nil
	}
	info, err := h.streamInfo(ctx)
	if err != nil {
		return 0, err
	}
	return info.State.LastSeq, nil
}

// Unfinished returns the IDs of the notifications that have a state other than an end, from an event up
// to message seq, in ascending order. Some may have ended meanwhile. It reads the overlay before the
// index, so that it misses none.
func (h *History) Unfinished(ctx context.Context, seq uint64) (ids []uuid.UUID, err error) {
	if h.entries != nil {
		return h.unfinishedInLog(ctx, seq)
	}
	idx, err := h.currentIndex(ctx)
	if err != nil {
		return nil, err
	}
	uncommitted := h.overlay.ids()
	if ids, err = idx.unfinished(ctx, seq); err != nil {
		return nil, h.reportDamage(err)
	}
	for chunk := range slices.Chunk(uncommitted, rowsPerQuery) {
		found, err := h.lookup(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for id, s := range found {
			if s.state.unfinishedAt(seq) {
				ids = append(ids, id)
			}
		}
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids), nil
}

// unfinishedAt reports whether an event up to message seq led to a state other than an end.
func (s State) unfinishedAt(seq uint64) bool {
	return !s.Ended() && s.Offset.Seq > 0 && s.Offset.Seq <= seq
}

// unfinished returns the IDs of the committed notifications for which unfinishedAt is true.
func (x *index) unfinished(ctx context.Context, seq uint64) (ids []uuid.UUID, err error) {
	for after, last := []byte{}, false; !last; {
		to := make([]byte, 0, len(uuid.UUID{}))
		err := x.readDB.QueryRowContext(ctx, lastOfPageSQL, after, unfinishedPage-1).Scan(&to)
		if last = errors.Is(err, sql.ErrNoRows); last {
			to = bytes.Repeat([]byte{0xff}, len(uuid.UUID{}))
		} else if err != nil {
			return nil, err
		}
		if ids, err = x.unfinishedBetween(ctx, after, to, seq, ids); err != nil {
			return nil, err
		}
		after = to
	}
	return ids, nil
}

// unfinishedBetween adds the unfinished notifications with IDs after one and up to another one.
func (x *index) unfinishedBetween(ctx context.Context, after, to []byte, seq uint64, ids []uuid.UUID) ([]uuid.UUID, error) {
	args := []any{after, to}
	for _, status := range [...]push.Status{push.StatusQueued, push.StatusScheduled, push.StatusSending} {
		args = append(args, append([]byte{byte(len(status))}, status...)) // as in row.encode
	}
	rows, err := x.readDB.QueryContext(ctx, unfinishedSQL, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err reports the error
	for rows.Next() {
		var r row
		if err := r.scan(rows); err != nil {
			return nil, err
		}
		if r.state.unfinishedAt(seq) {
			ids = append(ids, r.id)
		}
	}
	return ids, rows.Err()
}
