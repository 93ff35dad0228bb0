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

// schemaVersion counts the forms that index.sql had. A file of another form is made anew from the stream.
const schemaVersion = 2

const (
	indexName = "index.db"
	// Connections that read. One more writes.
	maxReaders = 4
	// The codes of SQLite that say that the file is not what it was (https://www.sqlite.org/rescode.html).
	sqliteCorrupt, sqliteNotADB = 11, 26
)

// index is the local file. It holds nothing that the stream does not.
type index struct {
	path                    string
	stream                  string // whose copy it is
	writeDB, readDB         *sql.DB
	writeFinder, readFinder rowFinder   // of write and of read
	inserts                 insertStmts // of write
	maxID                   uuid.UUID   // no row has an ID above it; project's
	keyFilter               *bloomFilter
	caughtUp                atomic.Bool // it has come up with the stream once, so that what is not in it is not there
}

// checkpoint is how far an index has come.
type checkpoint struct {
	stream           string // by which a stream that was made anew is known
	lastSeq          uint64 // the last chunk in the index
	oldestSeq        uint64 // the first that it may still hold
	lastDroppedIndex int    // the last event of the chunk before floor, -1 if nobody knows
}

// errDamaged says that the index is not to be trusted.
var errDamaged = errors.New("history: the index is damaged")

// isDamaged reports whether err tells of a file that is not what it was.
func isDamaged(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code()&0xff == sqliteCorrupt || e.Code()&0xff == sqliteNotADB
	}
	return errors.Is(err, errDamaged)
}

// openIndex opens the index in dir. One of another version is thrown away, a damaged one moved aside; both come back from
// the stream.
func openIndex(ctx context.Context, dir, stream string, log *slog.Logger) (*index, checkpoint, error) {
	path := filepath.Join(dir, indexName)
	idx, at, err := tryIndex(ctx, path, stream)
	switch {
	case errors.Is(err, errOutdated):
		log.Info("history: the index is made anew from the stream", "path", path, "because", err)
		err = removeIndex(path)
	case isDamaged(err):
		log.Warn("history: the index is damaged; it is moved aside and made anew from the stream", "path", path, "aside", path+damagedSuffix, "err", err)
		err = moveAside(path)
	default:
		return idx, at, err
	}
	if err != nil {
		return nil, checkpoint{}, err
	}
	return tryIndex(ctx, path, stream)
}

// errOutdated says that the index is of another stream or of another version.
var errOutdated = errors.New("it does not fit")

func tryIndex(ctx context.Context, path, stream string) (*index, checkpoint, error) {
	idx := &index{path: path, stream: stream, keyFilter: newBloomFilter()}
	at, err := idx.open(ctx, stream)
	if err != nil {
		return nil, checkpoint{}, errors.Join(fmt.Errorf("history: %s: %w", path, err), idx.close())
	}
	return idx, at, nil
}

func (x *index) open(ctx context.Context, stream string) (at checkpoint, err error) {
	if x.writeDB, err = openDB(x.path, "immediate", "temp_store(MEMORY)", "synchronous(NORMAL)", "cache_size(-16384)",
		"wal_autocheckpoint(4096)"); err != nil {
		return at, err
	}
	x.writeDB.SetMaxOpenConns(1)
	if x.readDB, err = openDB(x.path, "deferred", "query_only(1)", "cache_size(-4096)"); err != nil {
		return at, err
	}
	x.readDB.SetMaxOpenConns(maxReaders)
	x.readDB.SetMaxIdleConns(maxReaders)
	if err := x.initSchema(ctx, stream); err != nil {
		return at, err
	}
	row := x.writeDB.QueryRowContext(ctx, "SELECT stream, last, floor, floor_index FROM mark")
	if err := row.Scan(&at.stream, &at.lastSeq, &at.oldestSeq, &at.lastDroppedIndex); err != nil {
		return at, errors.Join(errDamaged, err)
	}
	if at.stream != stream {
		return at, fmt.Errorf("%w: it was made from another stream", errOutdated)
	}
	var newest []byte
	if err := x.writeDB.QueryRowContext(ctx, "SELECT max(id) FROM notification").Scan(&newest); err != nil {
		return at, err
	}
	copy(x.maxID[:], newest)
	return at, x.prepareStatements(ctx)
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

// initSchema makes the tables in a new file, and refuses one of another version.
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
		return fmt.Errorf("%w: it has version %d, not %d", errOutdated, version, schemaVersion)
	}
	return x.createSchema(ctx, stream)
}

func (x *index) createSchema(ctx context.Context, stream string) error {
	// The size of a page has to be set first, and the journal's kind outside of a transaction. Both stay with the file.
	if _, err := x.writeDB.ExecContext(ctx, "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL"); err != nil {
		return err
	}
	tx, err := x.writeDB.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // says nothing after Commit
	if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf("PRAGMA user_version = %d;", schemaVersion)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "INSERT INTO mark VALUES (?, 0, 0, -1)", stream); err != nil {
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

// openDB opens one face of the file; it connects when it is first used.
func openDB(path, transactions string, pragmas ...string) (*sql.DB, error) {
	query := url.Values{"_txlock": {transactions}, "_pragma": append(pragmas, "busy_timeout(5000)")}
	dsn := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: query.Encode()}
	return sql.Open("sqlite", dsn.String())
}

// What SQLite keeps beside the file, and the name's end of a damaged one.
var sidecars = []string{"-wal", "-shm"}

const damagedSuffix = ".damaged"

// removeIndex removes the file and what belongs to it.
func removeIndex(path string) error {
	var err error
	for _, name := range append([]string{path}, path+sidecars[0], path+sidecars[1]) {
		if e := os.Remove(name); e != nil && !errors.Is(e, os.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// moveAside keeps the last damaged file for who wants to know why, with the log that belongs to it.
func moveAside(path string) error {
	if err := removeIndex(path + damagedSuffix); err != nil {
		return err
	}
	for _, end := range append([]string{""}, sidecars...) {
		if err := os.Rename(path+end, path+damagedSuffix+end); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
