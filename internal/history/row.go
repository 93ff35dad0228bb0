// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	"encoding/binary"
	"iter"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// row is what the index holds of a notification.
type row struct {
	id             uuid.UUID
	app            string
	state          State
	firstAt        time.Time        // of its first event that is known
	lastOffset     jetstream.Offset // of its last event
	encodedOffsets []byte           // of all its events
}

// apply goes on with the next step.
func (r *row) apply(s *eventHeader) {
	if r.firstAt.IsZero() {
		r.app, r.firstAt = s.app, s.at
	}
	r.state.apply(s)
	r.lastOffset = s.offset
	r.encodedOffsets = binary.AppendUvarint(binary.AppendUvarint(r.encodedOffsets, s.offset.Seq), uint64(s.offset.Index))
}

// offsets returns the places of the events.
func (r *row) offsets() iter.Seq[jetstream.Offset] {
	return func(yield func(jetstream.Offset) bool) {
		for rest := r.encodedOffsets; len(rest) > 0; {
			seq, n := binary.Uvarint(rest)
			index, m := binary.Uvarint(rest[max(n, 0):])
			if n <= 0 || m <= 0 || !yield(jetstream.Offset{Seq: seq, Index: int(index)}) {
				return
			}
			rest = rest[n+m:]
		}
	}
}

const columns = "id, seq, rest"

func (r *row) args() []any { return []any{r.id[:], int64(r.lastOffset.Seq), r.encode()} }

// encode is all that the index asks SQLite nothing about, in one value: each column would cost as much as that.
func (r *row) encode() []byte {
	b := make([]byte, 0, 64+len(r.encodedOffsets))
	for _, word := range [...]string{r.app, string(r.state.Status)} {
		b = append(binary.AppendUvarint(b, uint64(len(word))), word...)
	}
	for _, number := range [...]int64{
		int64(r.state.Attempt), toMillis(r.firstAt), toMillis(r.state.At), toMillis(r.state.SendAt),
		int64(r.state.Offset.Seq), int64(r.state.Offset.Index), int64(r.lastOffset.Index),
	} {
		b = binary.AppendVarint(b, number)
	}
	return append(b, r.encodedOffsets...)
}

// decode reads what rest wrote.
func (r *row) decode(rest []byte) error {
	in := decoder{rest: rest}
	r.app, r.state.Status = in.text(), push.Status(in.text())
	r.state.Attempt = int(in.number())
	r.firstAt, r.state.At, r.state.SendAt = fromMillis(in.number()), fromMillis(in.number()), fromMillis(in.number())
	r.state.Offset = jetstream.Offset{Seq: uint64(in.number()), Index: int(in.number())}
	r.lastOffset.Index, r.encodedOffsets = int(in.number()), in.rest
	return in.err
}

// decoder are read one by one from what is left. Once it makes no sense, they are empty.
type decoder struct {
	rest []byte
	err  error
}

func (v *decoder) number() int64 {
	number, n := binary.Varint(v.rest)
	v.skip(n)
	return number
}

func (v *decoder) text() string {
	length, n := binary.Uvarint(v.rest)
	v.skip(n)
	if length > uint64(len(v.rest)) {
		v.skip(0)
		return ""
	}
	word := string(v.rest[:length])
	v.rest = v.rest[length:]
	return word
}

// skip goes on behind n bytes; none are a value that is not there.
func (v *decoder) skip(n int) {
	if n <= 0 {
		v.rest, v.err = nil, errDamaged
		return
	}
	v.rest = v.rest[n:]
}

func (r *row) scan(rows *sql.Rows) error {
	var id, rest []byte
	if err := rows.Scan(&id, &r.lastOffset.Seq, &rest); err != nil {
		return err
	}
	copy(r.id[:], id)
	return r.decode(rest)
}

func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Rows that are asked for at once.
const rowsPerQuery = 64

var (
	selectRowSQL  = "SELECT " + columns + " FROM notification WHERE id = ?"
	selectRowsSQL = "SELECT " + columns + " FROM notification WHERE id IN (?" + strings.Repeat(",?", rowsPerQuery-1) + ")"
)

// rowFinder finds rows, with statements that SQLite has parsed once.
type rowFinder struct{ one, many *sql.Stmt }

func newRowFinder(ctx context.Context, db *sql.DB) (f rowFinder, err error) {
	if f.one, err = db.PrepareContext(ctx, selectRowSQL); err != nil {
		return f, err
	}
	f.many, err = db.PrepareContext(ctx, selectRowsSQL)
	return f, err
}

// inTx is the same within a transaction.
func (f rowFinder) inTx(ctx context.Context, tx *sql.Tx) rowFinder {
	return rowFinder{tx.StmtContext(ctx, f.one), tx.StmtContext(ctx, f.many)}
}

// load returns the rows of those ids that the index knows.
func (f rowFinder) load(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*row, error) {
	found := make(map[uuid.UUID]*row, len(ids))
	for len(ids) > 0 {
		stmt, args := f.one, []any{ids[0][:]}
		some := ids[:min(len(ids), rowsPerQuery)]
		if len(some) > 1 {
			stmt, args = f.many, make([]any, rowsPerQuery)
			for i := range args {
				args[i] = some[min(i, len(some)-1)][:] // the last one fills what is left
			}
		}
		ids = ids[len(some):]
		rows, err := stmt.QueryContext(ctx, args...)
		if err != nil {
			return nil, err
		}
		if err := scanAll(rows, found); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func scanAll(rows *sql.Rows, found map[uuid.UUID]*row) error {
	defer func() { _ = rows.Close() }() // rows.Err has told by then
	for rows.Next() {
		r := new(row)
		if err := r.scan(rows); err != nil {
			return err
		}
		found[r.id] = r
	}
	return rows.Err()
}
