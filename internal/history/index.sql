-- How far the index has come (last), and where it begins: chunks below floor are gone, and the last event that is gone
-- is at floor - 1, floor_index (-1: nobody knows).
CREATE TABLE mark (
    stream      TEXT    NOT NULL,
    last        INTEGER NOT NULL,
    floor       INTEGER NOT NULL,
    floor_index INTEGER NOT NULL
);

-- The stream's chunks as they are there, so that no reader waits for the network.
CREATE TABLE chunk (
    seq  INTEGER PRIMARY KEY,
    app  TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX chunk_by_app ON chunk (app, seq);

-- Where each notification stands: the sequence of its last event, and the rest as row.go writes it.
CREATE TABLE notification (
    id   BLOB PRIMARY KEY,
    seq  INTEGER NOT NULL,
    rest BLOB    NOT NULL
) WITHOUT ROWID;

-- The notification that last came with an Idempotency-Key.
CREATE TABLE idempotency (
    key  BLOB PRIMARY KEY,
    body BLOB    NOT NULL,
    id   BLOB    NOT NULL,
    at   INTEGER NOT NULL,
    seq  INTEGER NOT NULL
) WITHOUT ROWID;
