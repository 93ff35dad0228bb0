-- The events, and the tasks in the queues, which have seq 0. A notification is a range of rows.
CREATE TABLE record (
	id       BLOB NOT NULL,
	seq      INTEGER NOT NULL,
	item     INTEGER NOT NULL,
	app      TEXT NOT NULL,
	at       INTEGER NOT NULL DEFAULT 0, -- in milliseconds
	status   TEXT NOT NULL DEFAULT '',
	attempt  INTEGER NOT NULL DEFAULT 0,
	reason   TEXT NOT NULL DEFAULT '',
	"end"    INTEGER NOT NULL DEFAULT 0,
	key_hash BLOB,
	late     INTEGER NOT NULL DEFAULT FALSE,
	unsent   INTEGER NOT NULL DEFAULT FALSE, -- an end without an attempt
	platform TEXT NOT NULL DEFAULT '',
	PRIMARY KEY (id, seq, item)
) WITHOUT ROWID;

-- The notifications with an Idempotency-Key that were delivered, may have been, or wait.
CREATE TABLE key_use (
	key      BLOB NOT NULL,
	first_at INTEGER NOT NULL, -- of the first event with the key
	seq      INTEGER NOT NULL, -- of the first event
	item     INTEGER NOT NULL,
	last_at  INTEGER NOT NULL, -- of the last event with the key
	blocks   INTEGER NOT NULL, -- no other notification may be sent with the key
	id       BLOB NOT NULL,
	PRIMARY KEY (key, first_at, seq, item)
) WITHOUT ROWID;
