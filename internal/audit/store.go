// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	_ "modernc.org/sqlite" // the driver
)

//go:embed schema.sql
var schema string

const (
	insertEventSQL  = "INSERT INTO record VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
	insertTaskSQL   = "INSERT OR IGNORE INTO record (id, seq, item, app) VALUES (?,0,0,?)"
	insertKeyUseSQL = "INSERT INTO key_use VALUES (?,?,?,?,?,?,?)"
	recordsSQL      = "SELECT * FROM record ORDER BY id, seq, item"
	// CROSS JOIN makes SQLite read the uses, of which there are fewer, and find their records.
	repeatedKeysSQL = `SELECT record.* FROM key_use AS later CROSS JOIN record USING (id, seq, item) WHERE EXISTS (
		SELECT 1 FROM key_use AS earlier WHERE earlier.key = later.key AND earlier.blocks
			AND (earlier.first_at, earlier.seq, earlier.item) < (later.first_at, later.seq, later.item)
			AND later.first_at <= earlier.last_at + ?)`
)

// store holds records in a temporary SQLite database, sorted by ID, and uses of keys, sorted by key.
// Its memory is bounded by the cache of the database.
type store struct {
	dir string
	db  *sql.DB
	tx  *sql.Tx // around everything: without it, each insert would be a transaction

	insertEvent, insertTask, insertKeyUse *sql.Stmt
}

func openStore(ctx context.Context) (*store, error) {
	dir, err := os.MkdirTemp("", "sluice-audit-")
	if err != nil {
		return nil, err
	}
	s := &store{dir: dir}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// open creates the database. It needs no journal, because close removes it.
func (s *store) open(ctx context.Context) (err error) {
	query := url.Values{"_pragma": {"page_size(8192)", "cache_size(-8192)", "journal_mode(OFF)", "synchronous(OFF)", "locking_mode(EXCLUSIVE)"}}
	path := url.URL{Path: filepath.Join(s.dir, "audit.db")}
	dsn := url.URL{Scheme: "file", Opaque: path.EscapedPath(), RawQuery: query.Encode()}
	if s.db, err = sql.Open("sqlite", dsn.String()); err != nil {
		return err
	}
	s.db.SetMaxOpenConns(1)
	if s.tx, err = s.db.BeginTx(ctx, nil); err != nil {
		return err
	}
	if _, err = s.tx.ExecContext(ctx, schema); err != nil {
		return err
	}
	for text, stmt := range map[string]**sql.Stmt{insertEventSQL: &s.insertEvent, insertTaskSQL: &s.insertTask, insertKeyUseSQL: &s.insertKeyUse} {
		if *stmt, err = s.tx.PrepareContext(ctx, text); err != nil {
			return err
		}
	}
	return nil
}

// close removes the database.
func (s *store) close() error {
	var err error
	if s.tx != nil {
		_ = s.tx.Rollback() // the result is removed
	}
	if s.db != nil {
		err = s.db.Close()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *store) addEvent(r *record) error {
	_, err := s.insertEvent.Exec(r.ID[:], int64(r.seq), r.item, r.App, r.At.UnixMilli(), string(r.Status), r.Attempt, r.reason, r.end, r.KeyHash, r.late, r.unsent, string(r.Platform))
	return err
}

// addTask adds a task, unless it is already there.
func (s *store) addTask(id uuid.UUID, app string) error {
	_, err := s.insertTask.Exec(id[:], app)
	return err
}

// addKeyUse adds a notification with an Idempotency-Key.
func (s *store) addKeyUse(n *notification) error {
	_, err := s.insertKeyUse.Exec(n.key, n.keyFrom.UnixMilli(), int64(n.first.seq), n.first.item, n.keyUntil.UnixMilli(), n.blocksKey(), n.first.ID[:])
	return err
}

// records returns all records, sorted by notification. The task of a notification comes before its
// events, which are in their order.
func (s *store) records(ctx context.Context) iter.Seq2[*record, error] {
	return s.query(ctx, recordsSQL)
}

// repeatedKeys returns the first events of the notifications whose key another one had taken at most
// ttl before.
func (s *store) repeatedKeys(ctx context.Context, ttl time.Duration) iter.Seq2[*record, error] {
	return s.query(ctx, repeatedKeysSQL, ttl.Milliseconds())
}

func (s *store) query(ctx context.Context, text string, args ...any) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		rows, err := s.tx.QueryContext(ctx, text, args...)
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = rows.Close() }() // rows.Err reports the error
		for rows.Next() {
			r, id, at := &record{}, sql.RawBytes{}, int64(0)
			err := rows.Scan(&id, &r.seq, &r.item, &r.App, &at, &r.Status, &r.Attempt, &r.reason, &r.end, &r.KeyHash, &r.late, &r.unsent, &r.Platform)
			copy(r.ID[:], id)
			r.At = time.UnixMilli(at)
			if !yield(r, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, err)
		}
	}
}
