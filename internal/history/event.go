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
	unsent   bool // the end of a notification without an attempt, which has no effect while there is one
	control  bool // the event of a broadcast, and not of a notification
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
			keyHash: h.KeyHash, bodyHash: h.BodyHash, tags: h.Tags, unsent: h.Kind == record.Cancel, control: h.Kind == record.Control, text: text,
		}, nil
	}
	var stored storedEvent
	if err := json.Unmarshal(text, &stored); err != nil {
		return nil, fmt.Errorf("history: event %s: %w", formatCursor(offset), err)
	}
	return &eventHeader{
		id: stored.ID, app: stored.App, offset: offset, status: stored.Status, attempt: stored.Attempt, at: stored.At.UTC(), sendAt: stored.SendAt.UTC(),
		keyHash: stored.KeyHash, bodyHash: stored.BodyHash, tags: stored.Tags, unsent: stored.Status == push.StatusCancelled, text: text,
	}, nil
}

// errInvalidEvent means that an event lacks a field.
var errInvalidEvent = errors.New("history: invalid event: it needs a UUID, an app and a status")

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
