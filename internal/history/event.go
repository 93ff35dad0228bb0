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
	"github.com/sluice-push/sluice/push"
)

// eventHeader is what the index needs of an event. The whole event is its text.
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
	text     []byte
}

// storedEvent is an event as the stream keeps it, but for what the index does not ask for.
type storedEvent struct {
	ID       uuid.UUID   `json:"id"`
	App      string      `json:"app"`
	At       time.Time   `json:"at"`
	Status   push.Status `json:"status"`
	Attempt  int         `json:"attempt"`
	SendAt   time.Time   `json:"send_at"`
	KeyHash  []byte      `json:"key_hash"`
	BodyHash []byte      `json:"body_hash"`
}

func newEventHeader(place jetstream.Offset, text []byte) (*eventHeader, error) {
	var k storedEvent
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, fmt.Errorf("history: the event at %s: %w", formatCursor(place), err)
	}
	return &eventHeader{
		id: k.ID, app: k.App, offset: place, status: k.Status, attempt: k.Attempt, at: k.At.UTC(), sendAt: k.SendAt.UTC(),
		keyHash: k.KeyHash, bodyHash: k.BodyHash, text: text,
	}, nil
}

// parseID returns the ID with which an event's text begins.
func parseID(text []byte) (uuid.UUID, bool) {
	const name, length = `{"id":"`, 36
	if len(text) < len(name)+length || string(text[:len(name)]) != name {
		return uuid.UUID{}, false
	}
	id, err := uuid.ParseBytes(text[len(name):][:length])
	return id, err == nil
}

// encodeEvent returns the event's text for the stream and its step, which has no place yet.
func encodeEvent(e push.Event) (*eventHeader, error) {
	id, err := uuid.Parse(e.ID)
	if err != nil || e.App == "" || e.Status == "" {
		return nil, errors.New("history: an event needs a UUID, an app and a status")
	}
	e.At, e.SendAt = e.At.UTC().Truncate(time.Millisecond), e.SendAt.UTC().Truncate(time.Millisecond)
	if e.Receipt != nil && e.Receipt.Index != nil { // its place in a batch means nothing here
		r := *e.Receipt
		r.Index = nil
		e.Receipt = &r
	}
	text, err := e.AppendJSON(make([]byte, 0, 256))
	if err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return &eventHeader{
		id: id, app: e.App, status: e.Status, attempt: e.Attempt, at: e.At, sendAt: e.SendAt,
		keyHash: e.KeyHash, bodyHash: e.BodyHash, text: text,
	}, nil
}

func encodeEvents(events []push.Event) ([]*eventHeader, error) {
	steps := make([]*eventHeader, len(events))
	for i, e := range events {
		var err error
		if steps[i], err = encodeEvent(e); err != nil {
			return nil, err
		}
	}
	return steps, nil
}

// event reads the whole event back.
func (s *eventHeader) event() (push.Event, error) {
	var e push.Event
	if err := json.Unmarshal(s.text, &e); err != nil {
		return e, fmt.Errorf("history: the event at %s: %w", formatCursor(s.offset), err)
	}
	e.Cursor = formatCursor(s.offset)
	return e, nil
}

// sameEvent reports whether both steps tell the same, wherever they stand.
func (s *eventHeader) sameEvent(other *eventHeader) bool { return string(s.text) == string(other.text) }

// formatCursor spells a place as feeds do; one without a place has none.
func formatCursor(p jetstream.Offset) string {
	if p.Seq == 0 {
		return ""
	}
	return strconv.FormatUint(p.Seq, 10) + "." + strconv.Itoa(p.Index)
}

// parseCursor reads a cursor.
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

// subjectOf is where the events of an app stand. A dot would part the subject.
func subjectOf(app string) string { return subjectPrefix + strings.ReplaceAll(app, ".", "%") }

// appOf is the app of a subject. No app's name holds a percent sign.
func appOf(subject string) string {
	return strings.ReplaceAll(strings.TrimPrefix(subject, subjectPrefix), "%", ".")
}
