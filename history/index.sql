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

-- Where each notification stands. Times are in milliseconds since 1970. seq and item are the place of its last event,
-- made_seq and made_item that of the event that made its state; places are those of all its events.
CREATE TABLE notification (
    id        BLOB PRIMARY KEY,
    app       TEXT    NOT NULL,
    status    TEXT    NOT NULL,
    attempt   INTEGER NOT NULL,
    first_at  INTEGER NOT NULL,
    at        INTEGER NOT NULL,
    send_at   INTEGER NOT NULL,
    made_seq  INTEGER NOT NULL,
    made_item INTEGER NOT NULL,
    seq       INTEGER NOT NULL,
    item      INTEGER NOT NULL,
    places    BLOB    NOT NULL
) WITHOUT ROWID;
CREATE INDEX notification_by_time ON notification (app, first_at);

-- The notification that last came with an Idempotency-Key.
CREATE TABLE idempotency (
    key  BLOB PRIMARY KEY,
    body BLOB    NOT NULL,
    id   BLOB    NOT NULL,
    at   INTEGER NOT NULL,
    seq  INTEGER NOT NULL
) WITHOUT ROWID;
