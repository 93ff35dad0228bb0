// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/google/uuid"
	"modernc.org/sqlite"
)

//go:embed index.sql
var schema string

// schemaVersion is the version of index.sql. An index of another version is rebuilt.
const schemaVersion = 3

const (
	indexName = "index.db"
	// Connections for reads. There is one more for writes.
	maxReaders = 4
	// SQLite's codes of a damaged file (https://www.sqlite.org/rescode.html).
	sqliteCorrupt, sqliteNotADB = 11, 26
)

// index is the local SQLite database. All its data comes from the stream.
type index struct {
	path                    string
	stream                  string // ID of the stream
	writeDB, readDB         *sql.DB
	writeFinder, readFinder rowFinder   // on writeDB and readDB
	inserts                 insertStmts // on writeDB
	maxID                   uuid.UUID   // the largest ID in the index; owned by runIndexer
	keyFilter               *bloomFilter
	caughtUp                atomic.Bool // it has reached the end of the stream once, so a missing row means an unknown ID
}

// checkpoint is the range of the stream that the index covers.
type checkpoint struct {
	stream           string // ID of the stream
	lastSeq          uint64 // the last message in the index
	oldestSeq        uint64 // the first message that may be in the index
	lastDroppedIndex int    // the last event of message oldestSeq-1, which is deleted; -1 if unknown
}

// errDamaged means that the index is damaged.
var errDamaged = errors.New("history: the index is damaged")

// isDamaged reports whether err means that the index is damaged.
func isDamaged(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()&0xff == sqliteCorrupt || e.Code()&0xff == sqliteNotADB
	}
	return errors.Is(err, errDamaged)
}

// openIndex opens the index in dir. It deletes an index of another version and moves a damaged one
// aside; both are rebuilt from the stream.
func openIndex(ctx context.Context, dir, stream string, log *slog.Logger) (*index, checkpoint, error) {
	path := filepath.Join(dir, indexName)
	idx, cp, err := tryIndex(ctx, path, stream)
	switch {
	case errors.Is(err, errOutdated):
		log.Info("rebuilding the index from the stream", "path", path, "err", err)
		err = removeIndex(path)
	case isDamaged(err):
		log.Warn("index damaged; moving it aside and rebuilding it from the stream", "path", path, "moved_to", path+damagedSuffix, "err", err)
		err = moveAside(path)
	default:
		return idx, cp, err
	}
	if err != nil {
		return nil, checkpoint{}, err
	}
	return tryIndex(ctx, path, stream)
}

// errOutdated means that the index is of another stream or version.
var errOutdated = errors.New("the index is outdated")

func tryIndex(ctx context.Context, path, stream string) (*index, checkpoint, error) {
	idx := &index{path: path, stream: stream, keyFilter: newBloomFilter()}
	cp, err := idx.open(ctx, stream)
	if err != nil {
		return nil, checkpoint{}, errors.Join(fmt.Errorf("history: %s: %w", path, err), idx.close())
	}
	return idx, cp, nil
}

func (x *index) open(ctx context.Context, stream string) (cp checkpoint, err error) {
	if err := createPrivate(x.path); err != nil {
		return checkpoint{}, err
	}
	if x.writeDB, err = openDB(x.path, "immediate", "temp_store(MEMORY)", "synchronous(NORMAL)", "cache_size(-16384)",
		"wal_autocheckpoint(512)", "journal_size_limit(8388608)"); err != nil { // 4 MiB, and at most 8 MiB on the disk
		return cp, err
	}
	x.writeDB.SetMaxOpenConns(1)
	if x.readDB, err = openDB(x.path, "deferred", "query_only(1)", "cache_size(-4096)"); err != nil {
		return cp, err
	}
	x.readDB.SetMaxOpenConns(maxReaders)
	x.readDB.SetMaxIdleConns(maxReaders)
	if err := x.initSchema(ctx, stream); err != nil {
		return cp, err
	}
	row := x.writeDB.QueryRowContext(ctx, "SELECT stream, last_seq, oldest_seq, last_dropped_index FROM checkpoint")
	if err := row.Scan(&cp.stream, &cp.lastSeq, &cp.oldestSeq, &cp.lastDroppedIndex); err != nil {
		return cp, errors.Join(errDamaged, err)
	}
	if cp.stream != stream {
		return cp, fmt.Errorf("%w: it belongs to another stream", errOutdated)
	}
	var newest []byte
	if err := x.writeDB.QueryRowContext(ctx, "SELECT max(id) FROM notification").Scan(&newest); err != nil {
		return cp, err
	}
	copy(x.maxID[:], newest)
	return cp, x.prepareStatements(ctx)
}

func (x *index) prepareStatements(ctx context.Context) (err error) {
	if x.inserts, err = prepareInserts(ctx, x.writeDB); err != nil {
		return err
	}
	if x.writeFinder, err = newRowFinder(ctx, x.writeDB); err != nil {
		return err
	}
	x.readFinder, err = newRowFinder(ctx, x.readDB)
	return err
}

// initSchema creates the tables in a new file. It refuses a file of another version.
func (x *index) initSchema(ctx context.Context, stream string) error {
	var version int
	if err := x.writeDB.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version == schemaVersion {
		return nil
	}
	var tables int
	if err := x.writeDB.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables); err != nil {
		return err
	}
	if tables > 0 {
		return fmt.Errorf("%w: version %d, want %d", errOutdated, version, schemaVersion)
	}
	return x.createSchema(ctx, stream)
}

func (x *index) createSchema(ctx context.Context, stream string) error {
	// page_size must be set first, and journal_mode outside of a transaction. Both are stored in
	// the file.
	if _, err := x.writeDB.ExecContext(ctx, "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	tx, err := x.writeDB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // has no effect after Commit
	if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA user_version = %d;", schemaVersion)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO checkpoint VALUES (?, 0, 0, -1)", stream); err != nil {
		return err
	}
	return tx.Commit()
}

func (x *index) close() error {
	var err error
	for _, db := range []*sql.DB{x.readDB, x.writeDB} {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	return err
}

// openDB opens a connection pool to the file. It connects on first use.
func openDB(path, transactions string, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {transactions}, "_pragma": append(pragmas, "busy_timeout(5000)")}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}
	return sql.Open("sqlite", dsn.String())
}

// Suffixes of the files that SQLite keeps next to the database, and of a damaged database.
var sidecars = []string{"-wal", "-shm"}

const damagedSuffix = ".damaged"

// createPrivate creates the database if it does not exist, and makes it and the files next to it
// readable by their owner only. SQLite creates those with the mode of the database.
func createPrivate(path string) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	err = file.Close()
	for _, name := range []string{path, path + sidecars[0], path + sidecars[1]} {
		if e := os.Chmod(name, 0o600); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// removeIndex removes the database and the files next to it.
func removeIndex(path string) error {
	var err error
	for _, name := range append([]string{path}, path+sidecars[0], path+sidecars[1]) {
		if e := os.Remove(name); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// moveAside keeps the last damaged database for analysis, with its write-ahead log.
func moveAside(path string) error {
	if err := removeIndex(path + damagedSuffix); err != nil {
		return err
	}
	for _, suffix := range append([]string{""}, sidecars...) {
		if err := os.Rename(path+suffix, path+damagedSuffix+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
