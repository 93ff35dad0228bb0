// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// Rows that are written by one statement.
const rowsAtATime = 128

var (
	putRow  = "INSERT INTO notification (" + columns + ") VALUES " + oneRow + onConflict
	putRows = "INSERT INTO notification (" + columns + ") VALUES " + strings.Repeat(oneRow+",", rowsAtATime-1) + oneRow + onConflict
)

const (
	oneRow     = "(?,?,?)"
	onConflict = " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, rest = excluded.rest"
	putChunk   = "INSERT INTO chunk (seq, app, body) VALUES (?,?,?)"
	putKey     = "REPLACE INTO idempotency (key, body, id, at, seq) VALUES (?,?,?,?,?)"
	putMark    = "UPDATE mark SET last = ?, floor = ?, floor_index = ?"
)

// puts are the statements that write, which SQLite has parsed once.
type puts struct{ row, rows, chunk, key *sql.Stmt }

func newPuts(ctx context.Context, db *sql.DB) (p puts, err error) {
	for text, stmt := range map[string]**sql.Stmt{putRow: &p.row, putRows: &p.rows, putChunk: &p.chunk, putKey: &p.key} {
		if *stmt, err = db.PrepareContext(ctx, text); err != nil {
			return p, err
		}
	}
	return p, nil
}

// insert writes a batch and the rows that it changes.
func (x *index) insert(ctx context.Context, tx *sql.Tx, batch []*chunk, rows []*row, steps []*step, at mark) error {
	if err := x.insertRows(ctx, tx, rows); err != nil {
		return err
	}
	put := tx.StmtContext(ctx, x.puts.chunk)
	for _, c := range batch {
		if _, err := put.ExecContext(ctx, int64(c.seq), c.app, c.body); err != nil {
			return err
		}
	}
	put = tx.StmtContext(ctx, x.puts.key)
	for _, s := range newestKeys(steps) {
		if _, err := put.ExecContext(ctx, s.keyHash, s.bodyHash, s.id[:], millis(s.at), int64(s.place.Seq)); err != nil {
			return err
		}
	}
	return setMark(ctx, tx, at)
}

// insertRows writes as many rows as it can by one statement.
func (x *index) insertRows(ctx context.Context, tx *sql.Tx, rows []*row) error {
	one, many := tx.StmtContext(ctx, x.puts.row), tx.StmtContext(ctx, x.puts.rows)
	var values []any
	for some := range slices.Chunk(rows, rowsAtATime) {
		values = values[:0]
		for _, r := range some {
			values = append(values, r.values()...)
		}
		if len(some) == rowsAtATime {
			if _, err := many.ExecContext(ctx, values...); err != nil {
				return err
			}
			continue
		}
		for row := range slices.Chunk(values, len(values)/len(some)) {
			if _, err := one.ExecContext(ctx, row...); err != nil {
				return err
			}
		}
	}
	return nil
}
