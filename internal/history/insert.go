// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// Rows that are written by one statement.
const rowsPerInsert = 128

var (
	insertRowSQL  = "INSERT INTO notification (" + columns + ") VALUES " + oneRow + onConflict
	insertRowsSQL = "INSERT INTO notification (" + columns + ") VALUES " + strings.Repeat(oneRow+",", rowsPerInsert-1) + oneRow + onConflict
)

const (
	oneRow              = "(?,?,?)"
	onConflict          = " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, rest = excluded.rest"
	insertMessageSQL    = "INSERT INTO chunk (seq, app, body) VALUES (?,?,?)"
	replaceKeySQL       = "REPLACE INTO idempotency (key, body, id, at, seq) VALUES (?,?,?,?,?)"
	updateCheckpointSQL = "UPDATE mark SET last = ?, floor = ?, floor_index = ?"
)

// insertStmts are the statements that write, which SQLite has parsed once.
type insertStmts struct{ row, rows, chunk, key *sql.Stmt }

func prepareInserts(ctx context.Context, db *sql.DB) (p insertStmts, err error) {
	for text, stmt := range map[string]**sql.Stmt{insertRowSQL: &p.row, insertRowsSQL: &p.rows, insertMessageSQL: &p.chunk, replaceKeySQL: &p.key} {
		if *stmt, err = db.PrepareContext(ctx, text); err != nil {
			return p, err
		}
	}
	return p, nil
}

// insertBatch writes a batch and the rows that it changes.
func (x *index) insertBatch(ctx context.Context, tx *sql.Tx, batch []*message, rows []*row, steps []*eventHeader, at checkpoint) error {
	if err := x.insertRows(ctx, tx, rows); err != nil {
		return err
	}
	put := tx.StmtContext(ctx, x.inserts.chunk)
	for _, c := range batch {
		if _, err := put.ExecContext(ctx, int64(c.seq), c.app, c.body); err != nil {
			return err
		}
	}
	put = tx.StmtContext(ctx, x.inserts.key)
	for _, s := range lastByKey(steps) {
		if _, err := put.ExecContext(ctx, s.keyHash, s.bodyHash, s.id[:], toMillis(s.at), int64(s.offset.Seq)); err != nil {
			return err
		}
	}
	return saveCheckpoint(ctx, tx, at)
}

// insertRows writes as many rows as it can by one statement.
func (x *index) insertRows(ctx context.Context, tx *sql.Tx, rows []*row) error {
	one, many := tx.StmtContext(ctx, x.inserts.row), tx.StmtContext(ctx, x.inserts.rows)
	var values []any
	for some := range slices.Chunk(rows, rowsPerInsert) {
		values = values[:0]
		for _, r := range some {
			values = append(values, r.args()...)
		}
		if len(some) == rowsPerInsert {
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
