-- The range of the stream that is in this index: last_seq is the last message. Messages before
-- oldest_seq are deleted, and last_dropped_index is the index of the last event in message
-- oldest_seq - 1 (-1: unknown).
CREATE TABLE checkpoint (
    stream             TEXT    NOT NULL,
    last_seq           INTEGER NOT NULL,
    oldest_seq         INTEGER NOT NULL,
    last_dropped_index INTEGER NOT NULL
);

-- Copies of the stream's messages, so that queries do not access the network.
CREATE TABLE message (
    seq  INTEGER PRIMARY KEY,
    app  TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX message_by_app ON message (app, seq);

-- The state of each notification: the sequence of its last event, and the other fields as encoded
-- by row.go.
CREATE TABLE notification (
    id   BLOB PRIMARY KEY,
    seq  INTEGER NOT NULL,
    data BLOB    NOT NULL
) WITHOUT ROWID;

-- The notification that last used an Idempotency-Key, with the hashes of key and body.
CREATE TABLE idempotency (
    key  BLOB PRIMARY KEY,
    body BLOB    NOT NULL,
    id   BLOB    NOT NULL,
    at   INTEGER NOT NULL,
    seq  INTEGER NOT NULL
) WITHOUT ROWID;
