// SPDX-License-Identifier: Apache-2.0

package history

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// eventHeader holds the fields of an event that the index needs, and the JSON text of the event.
type eventHeader struct {
	id       uuid.UUID
	app      string
	offset   jetstream.Offset
	status   push.Status
	attempt  int
	at       time.Time
	sendAt   time.Time
	keyHash  []byte
	bodyHash []byte
	tags     []string
	text     []byte
}

// storedEvent decodes the fields of an eventHeader from JSON.
type storedEvent struct {
	ID       uuid.UUID   `json:"id"`
	App      string      `json:"app"`
	At       time.Time   `json:"at"`
	Status   push.Status `json:"status"`
	Attempt  int         `json:"attempt"`
	SendAt   time.Time   `json:"send_at"`
	KeyHash  []byte      `json:"key_hash"`
	BodyHash []byte      `json:"body_hash"`
	Tags     []string    `json:"tags"`
}

func newEventHeader(offset jetstream.Offset, text []byte) (*eventHeader, error) {
	if record.IsRecord(text) {
		h, err := record.ParseHeader(text)
		if err != nil {
			return nil, fmt.Errorf("history: event %s: %w", formatCursor(offset), err)
		}
		return &eventHeader{
			id: h.ID, app: h.App, offset: offset, status: h.Status, attempt: h.Attempt, at: h.At, sendAt: h.SendAt,
			keyHash: h.KeyHash, bodyHash: h.BodyHash, tags: h.Tags, text: text,
		}, nil
	}
	var stored storedEvent
	if err := json.Unmarshal(text, &stored); err != nil {
		return nil, fmt.Errorf("history: event %s: %w", formatCursor(offset), err)
	}
	return &eventHeader{
		id: stored.ID, app: stored.App, offset: offset, status: stored.Status, attempt: stored.Attempt, at: stored.At.UTC(), sendAt: stored.SendAt.UTC(),
		keyHash: stored.KeyHash, bodyHash: stored.BodyHash, tags: stored.Tags, text: text,
	}, nil
}

// parseID returns the ID at the start of an event's text.
func parseID(text []byte) (uuid.UUID, bool) {
	const name, length = `{"id":"`, 36
	if len(text) < len(name)+length || string(text[:len(name)]) != name {
		return uuid.UUID{}, false
	}
	id, err := uuid.ParseBytes(text[len(name):][:length])
	return id, err == nil
}

// errInvalidEvent means that an event lacks a field.
var errInvalidEvent = errors.New("history: invalid event: it needs a UUID, an app and a status")

// encodeEvents encodes events as JSON. The offsets of the results are zero.
func encodeEvents(events []push.Event) ([]*eventHeader, error) {
	headers := make([]*eventHeader, len(events))
	for i, e := range events {
		id, err := uuid.Parse(e.ID)
		if err != nil || e.App == "" || e.Status == "" {
			return nil, errInvalidEvent
		}
		e.At, e.SendAt = e.At.UTC().Truncate(time.Millisecond), e.SendAt.UTC().Truncate(time.Millisecond)
		if e.Receipt != nil && e.Receipt.Index != nil { // the index in a batch is not part of the history
			r := *e.Receipt
			r.Index = nil
			e.Receipt = &r
		}
		text, err := e.AppendJSON(make([]byte, 0, 256))
		if err != nil {
			return nil, fmt.Errorf("history: %w", err)
		}
		headers[i] = &eventHeader{
			id: id, app: e.App, status: e.Status, attempt: e.Attempt, at: e.At, sendAt: e.SendAt,
			keyHash: e.KeyHash, bodyHash: e.BodyHash, tags: e.Tags, text: text,
		}
	}
	return headers, nil
}

// event decodes the whole event.
func (h *eventHeader) event() (e push.Event, err error) {
	if record.IsRecord(h.text) {
		var r *record.Record
		if r, err = record.Parse(h.text); err == nil {
			e = r.Event()
		}
	} else {
		err = json.Unmarshal(h.text, &e)
	}
	if err != nil {
		return push.Event{}, fmt.Errorf("history: event %s: %w", formatCursor(h.offset), err)
	}
	e.Cursor = formatCursor(h.offset)
	return e, nil
}

// sameEvent reports whether both headers are of the same event, regardless of their offsets.
func (h *eventHeader) sameEvent(other *eventHeader) bool { return string(h.text) == string(other.text) }

// formatCursor returns the cursor of an offset, empty for the zero offset.
func formatCursor(o jetstream.Offset) string {
	if o.Seq == 0 {
		return ""
	}
	return strconv.FormatUint(o.Seq, 10) + "." + strconv.Itoa(o.Index)
}

// parseCursor returns the offset of a cursor.
func parseCursor(cursor string) (jetstream.Offset, error) {
	seq, index, whole := strings.Cut(cursor, ".")
	s, err := strconv.ParseUint(seq, 10, 63)
	i, err2 := strconv.ParseUint(index, 10, 31)
	if !whole || err != nil || err2 != nil {
		return jetstream.Offset{}, fmt.Errorf("%w: %q", push.ErrInvalidCursor, cursor)
	}
	return jetstream.Offset{Seq: s, Index: int(i)}, nil
}

const subjectPrefix = "sluice.event."

// subjectOf returns the subject of an app's events. It replaces dots by percent signs, which app
// names cannot contain.
func subjectOf(app string) string { return subjectPrefix + strings.ReplaceAll(app, ".", "%") }

// appOf returns the app of a subject.
func appOf(subject string) string {
	return strings.ReplaceAll(strings.TrimPrefix(subject, subjectPrefix), "%", ".")
}
