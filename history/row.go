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

	"github.com/sluice-push/sluice/engine"
	"github.com/sluice-push/sluice/push"
)

// row is what the index holds of a notification.
type row struct {
	id     uuid.UUID
	app    string
	state  State
	first  time.Time    // of its first event that is known
	last   engine.Place // of its last event
	places []byte       // of all its events
}

// take goes on with the next step.
func (r *row) take(s *step) {
	if r.first.IsZero() {
		r.app, r.first = s.app, s.at
	}
	r.state.take(s)
	r.last = s.place
	r.places = binary.AppendUvarint(binary.AppendUvarint(r.places, s.place.Seq), uint64(s.place.Index))
}

// all returns the places of the events.
func (r *row) all() iter.Seq[engine.Place] {
	return func(yield func(engine.Place) bool) {
		for rest := r.places; len(rest) > 0; {
			seq, n := binary.Uvarint(rest)
			index, m := binary.Uvarint(rest[max(n, 0):])
			if n <= 0 || m <= 0 || !yield(engine.Place{Seq: seq, Index: int(index)}) {
				return
			}
			rest = rest[n+m:]
		}
	}
}

const columns = "id, seq, rest"

func (r *row) values() []any { return []any{r.id[:], int64(r.last.Seq), r.rest()} }

// rest is all that the index asks SQLite nothing about, in one value: each column would cost as much as that.
func (r *row) rest() []byte {
	b := make([]byte, 0, 64+len(r.places))
	for _, word := range [...]string{r.app, string(r.state.Status)} {
		b = append(binary.AppendUvarint(b, uint64(len(word))), word...)
	}
	for _, number := range [...]int64{
		int64(r.state.Attempt), millis(r.first), millis(r.state.At), millis(r.state.SendAt),
		int64(r.state.Place.Seq), int64(r.state.Place.Index), int64(r.last.Index),
	} {
		b = binary.AppendVarint(b, number)
	}
	return append(b, r.places...)
}

// read reads what rest wrote.
func (r *row) read(rest []byte) error {
	in := values{left: rest}
	r.app, r.state.Status = in.word(), push.Status(in.word())
	r.state.Attempt = int(in.number())
	r.first, r.state.At, r.state.SendAt = moment(in.number()), moment(in.number()), moment(in.number())
	r.state.Place = engine.Place{Seq: uint64(in.number()), Index: int(in.number())}
	r.last.Index, r.places = int(in.number()), in.left
	return in.err
}

// values are read one by one from what is left. Once it makes no sense, they are empty.
type values struct {
	left []byte
	err  error
}

func (v *values) number() int64 {
	number, n := binary.Varint(v.left)
	v.skip(n)
	return number
}

func (v *values) word() string {
	length, n := binary.Uvarint(v.left)
	v.skip(n)
	if length > uint64(len(v.left)) {
		v.skip(0)
		return ""
	}
	word := string(v.left[:length])
	v.left = v.left[length:]
	return word
}

// skip goes on behind n bytes; none are a value that is not there.
func (v *values) skip(n int) {
	if n <= 0 {
		v.left, v.err = nil, errDamaged
		return
	}
	v.left = v.left[n:]
}

func (r *row) scan(rows *sql.Rows) error {
	var id, rest []byte
	if err := rows.Scan(&id, &r.last.Seq, &rest); err != nil {
		return err
	}
	copy(r.id[:], id)
	return r.read(rest)
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// Rows that are asked for at once.
const rowsAtOnce = 64

var (
	getRow  = "SELECT " + columns + " FROM notification WHERE id = ?"
	getRows = "SELECT " + columns + " FROM notification WHERE id IN (?" + strings.Repeat(",?", rowsAtOnce-1) + ")"
)

// finder finds rows, with statements that SQLite has parsed once.
type finder struct{ one, many *sql.Stmt }

func newFinder(ctx context.Context, db *sql.DB) (f finder, err error) {
	if f.one, err = db.PrepareContext(ctx, getRow); err != nil {
		return f, err
	}
	f.many, err = db.PrepareContext(ctx, getRows)
	return f, err
}

// in is the same within a transaction.
func (f finder) in(ctx context.Context, tx *sql.Tx) finder {
	return finder{tx.StmtContext(ctx, f.one), tx.StmtContext(ctx, f.many)}
}

// load returns the rows of those ids that the index knows.
func (f finder) load(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]*row, error) {
	found := make(map[uuid.UUID]*row, len(ids))
	for len(ids) > 0 {
		stmt, args := f.one, []any{ids[0][:]}
		some := ids[:min(len(ids), rowsAtOnce)]
		if len(some) > 1 {
			stmt, args = f.many, make([]any, rowsAtOnce)
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
