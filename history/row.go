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

const columns = "id, app, status, attempt, first_at, at, send_at, made_seq, made_item, seq, item, places"

func (r *row) values() []any {
	return []any{
		r.id[:], r.app, string(r.state.Status), r.state.Attempt, millis(r.first), millis(r.state.At), millis(r.state.SendAt),
		int64(r.state.Place.Seq), r.state.Place.Index, int64(r.last.Seq), r.last.Index, r.places,
	}
}

func (r *row) scan(rows *sql.Rows) error {
	var id []byte
	var first, at, sendAt int64
	err := rows.Scan(&id, &r.app, &r.state.Status, &r.state.Attempt, &first, &at, &sendAt,
		&r.state.Place.Seq, &r.state.Place.Index, &r.last.Seq, &r.last.Index, &r.places)
	copy(r.id[:], id)
	r.first, r.state.At, r.state.SendAt = moment(first), moment(at), moment(sendAt)
	return err
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

// querier is a *sql.DB or a *sql.Tx.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Rows that are asked for at once.
const rowsAtOnce = 64

// load returns the rows of those ids that the index knows.
func load(ctx context.Context, from querier, ids []uuid.UUID) (map[uuid.UUID]*row, error) {
	found := make(map[uuid.UUID]*row, len(ids))
	for len(ids) > 0 {
		some := ids[:min(len(ids), rowsAtOnce)]
		ids = ids[len(some):]
		args := make([]any, len(some))
		for i := range some {
			args[i] = some[i][:]
		}
		query := "SELECT " + columns + " FROM notification WHERE id IN (?" + strings.Repeat(",?", len(some)-1) + ")"
		if err := scanAll(ctx, from, found, query, args...); err != nil {
			return nil, err
		}
	}
	return found, nil
}

func scanAll(ctx context.Context, from querier, found map[uuid.UUID]*row, query string, args ...any) error {
	rows, err := from.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
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
