// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"slices"
	"strings"
)

// Rows in one multi-row insert.
const rowsPerInsert = 128

var (
	insertRowSQL  = "INSERT INTO notification (" + columns + ") VALUES " + oneRow + onConflict
	insertRowsSQL = "INSERT INTO notification (" + columns + ") VALUES " + strings.Repeat(oneRow+",", rowsPerInsert-1) + oneRow + onConflict
)

const (
	oneRow              = "(?,?,?)"
	onConflict          = " ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, data = excluded.data"
	insertMessageSQL    = "INSERT INTO message (seq, app, body) VALUES (?,?,?)"
	replaceKeySQL       = "REPLACE INTO idempotency (key, body, id, at, seq) VALUES (?,?,?,?,?)"
	updateCheckpointSQL = "UPDATE checkpoint SET last_seq = ?, oldest_seq = ?, last_dropped_index = ?"
)

// insertStmts holds the prepared statements of a commit.
type insertStmts struct{ row, rows, message, key *sql.Stmt }

func prepareInserts(ctx context.Context, db *sql.DB) (s insertStmts, err error) {
	for text, stmt := range map[string]**sql.Stmt{insertRowSQL: &s.row, insertRowsSQL: &s.rows, insertMessageSQL: &s.message, replaceKeySQL: &s.key} {
		if *stmt, err = db.PrepareContext(ctx, text); err != nil {
			return s, err
		}
	}
	return s, nil
}

// insertBatch writes messages, rows, keys and the checkpoint.
func (x *index) insertBatch(ctx context.Context, tx *sql.Tx, batch []*message, rows []*row, headers []*eventHeader, cp checkpoint) error {
	if err := x.insertRows(ctx, tx, rows); err != nil {
		return err
	}
	stmt := tx.StmtContext(ctx, x.inserts.message)
	for _, m := range batch {
		if _, err := stmt.ExecContext(ctx, int64(m.seq), m.app, m.body); err != nil {
			return err
		}
	}
	stmt = tx.StmtContext(ctx, x.inserts.key)
	for _, hdr := range lastByKey(headers) {
		if _, err := stmt.ExecContext(ctx, hdr.keyHash, hdr.bodyHash, hdr.id[:], toMillis(hdr.at), int64(hdr.offset.Seq)); err != nil {
			return err
		}
	}
	return saveCheckpoint(ctx, tx, cp)
}

// insertRows writes rows, with multi-row inserts as far as possible.
func (x *index) insertRows(ctx context.Context, tx *sql.Tx, rows []*row) error {
	one, many := tx.StmtContext(ctx, x.inserts.row), tx.StmtContext(ctx, x.inserts.rows)
	var values []any
	for chunk := range slices.Chunk(rows, rowsPerInsert) {
		values = values[:0]
		for _, r := range chunk {
			values = append(values, r.args()...)
		}
		if len(chunk) == rowsPerInsert {
			if _, err := many.ExecContext(ctx, values...); err != nil {
				return err
			}
			continue
		}
		for row := range slices.Chunk(values, len(values)/len(chunk)) {
			if _, err := one.ExecContext(ctx, row...); err != nil {
				return err
			}
		}
	}
	return nil
}
