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

// row is the state of a notification in the index.
type row struct {
	id             uuid.UUID
	app            string
	state          State
	firstAt        time.Time        // time of its first known event
	lastOffset     jetstream.Offset // of its last event
	encodedOffsets []byte           // of all its events
}

// apply adds the next event.
func (r *row) apply(hdr *eventHeader) {
	if r.firstAt.IsZero() {
		r.app, r.firstAt = hdr.app, hdr.at
	}
	r.state.apply(hdr)
	r.lastOffset = hdr.offset
	r.encodedOffsets = binary.AppendUvarint(binary.AppendUvarint(r.encodedOffsets, hdr.offset.Seq), uint64(hdr.offset.Index))
}

// offsets returns the offsets of all events.
func (r *row) offsets() iter.Seq[jetstream.Offset] {
	return func(yield func(jetstream.Offset) bool) {
		for left := r.encodedOffsets; len(left) > 0; {
			seq, n := binary.Uvarint(left)
			index, m := binary.Uvarint(left[max(n, 0):])
			if n <= 0 || m <= 0 || !yield(jetstream.Offset{Seq: seq, Index: int(index)}) {
				return
			}
			left = left[n+m:]
		}
	}
}

const columns = "id, seq, data"

func (r *row) args() []any { return []any{r.id[:], int64(r.lastOffset.Seq), r.encode()} }

// encode returns all fields that are not queried as one value, because each column costs as much as
// this one.
func (r *row) encode() []byte {
	b := make([]byte, 0, 64+len(r.encodedOffsets))
	for _, s := range [...]string{r.app, string(r.state.Status)} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	for _, v := range [...]int64{
		int64(r.state.Attempt), toMillis(r.firstAt), toMillis(r.state.At), toMillis(r.state.SendAt),
		int64(r.state.Offset.Seq), int64(r.state.Offset.Index), int64(r.lastOffset.Index),
	} {
		b = binary.AppendVarint(b, v)
	}
	return append(b, r.encodedOffsets...)
}

// decode decodes the value of encode.
func (r *row) decode(data []byte) error {
	d := decoder{rest: data}
	r.app, r.state.Status = d.text(), push.Status(d.text())
	r.state.Attempt = int(d.number())
	r.firstAt, r.state.At, r.state.SendAt = fromMillis(d.number()), fromMillis(d.number()), fromMillis(d.number())
	r.state.Offset = jetstream.Offset{Seq: uint64(d.number()), Index: int(d.number())}
	r.lastOffset.Index, r.encodedOffsets = int(d.number()), d.rest
	return d.err
}

// decoder reads values one by one. After an error it returns zero values.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) number() int64 {
	number, n := binary.Varint(d.rest)
	d.skip(n)
	return number
}

func (d *decoder) text() string {
	length, n := binary.Uvarint(d.rest)
	d.skip(n)
	if length > uint64(len(d.rest)) {
		d.skip(0)
		return ""
	}
	s := string(d.rest[:length])
	d.rest = d.rest[length:]
	return s
}

// skip advances by n bytes. n is not positive if there was no valid value.
func (d *decoder) skip(n int) {
	if n <= 0 {
		d.rest, d.err = nil, errDamaged
		return
	}
	d.rest = d.rest[n:]
}

func (r *row) scan(rows *sql.Rows) error {
	var id, data []byte
	if err := rows.Scan(&id, &r.lastOffset.Seq, &data); err != nil {
		return err
	}
	copy(r.id[:], id)
	return r.decode(data)
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

// Rows in one multi-row query.
const rowsPerQuery = 64

var (
	selectRowSQL  = "SELECT " + columns + " FROM notification WHERE id = ?"
	selectRowsSQL = "SELECT " + columns + " FROM notification WHERE id IN (?" + strings.Repeat(",?", rowsPerQuery-1) + ")"
)

// rowFinder finds rows with prepared statements.
type rowFinder struct{ one, many *sql.Stmt }

func newRowFinder(ctx context.Context, db *sql.DB) (f rowFinder, err error) {
	if f.one, err = db.PrepareContext(ctx, selectRowSQL); err != nil {
		return f, err
	}
	f.many, err = db.PrepareContext(ctx, selectRowsSQL)
	return f, err
}

// inTx returns a finder for a transaction.
func (f rowFinder) inTx(ctx context.Context, tx *sql.Tx) rowFinder {
	return rowFinder{tx.StmtContext(ctx, f.one), tx.StmtContext(ctx, f.many)}
}

// load returns the rows of the IDs that are in the index.
func (f rowFinder) load(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*row, error) {
	found := make(map[uuid.UUID]*row, len(ids))
	for len(ids) > 0 {
		stmt, args := f.one, []any{ids[0][:]}
		batch := ids[:min(len(ids), rowsPerQuery)]
		if len(batch) > 1 {
			stmt, args = f.many, make([]any, rowsPerQuery)
			for i := range args {
				args[i] = batch[min(i, len(batch)-1)][:] // pads the list with its last ID
			}
		}
		ids = ids[len(batch):]
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
	defer func() { _ = rows.Close() }() // rows.Err reports the error
	for rows.Next() {
		r := new(row)
		if err := r.scan(rows); err != nil {
			return err
		}
		found[r.id] = r
	}
	return rows.Err()
}
