// SPDX-License-Identifier: Apache-2.0

// Package record defines the binary records of the log: each is one event of a notification, with
// what the queue needs to continue it. It does no I/O.
package record

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/push"
)

// Kind is the kind of a record, its first byte.
type Kind byte

// The kinds. Their values are on disk.
const (
	Task       Kind = 'T' // a notification was accepted for later: queued or scheduled
	Sending    Kind = 'S' // an attempt of a task is about to be sent
	End        Kind = 'E' // a notification has ended: a task, or a synchronous send
	Reschedule Kind = 'R' // a task will be tried again
	Cancel     Kind = 'C' // a task was cancelled
	Key        Kind = 'K' // an attempt of a synchronous send with an Idempotency-Key is about to be sent
	Control    Kind = 'B' // a broadcast has another status, which decides which of its tasks may be sent
)

// Position is the offset of a record in the log.
type Position struct {
	Seq   uint64 // of its message
	Index int    // in the message
}

// Header is what is known of a record without its body.
type Header struct {
	Kind     Kind
	ID       uuid.UUID
	App      string
	At       time.Time
	Status   push.Status
	Platform push.Platform
	Lane     push.Lane
	// Attempt is the number of attempts that have started. SendAt is when the task is due; zero means
	// immediately.
	Attempt int
	SendAt  time.Time
	// KeyHash and BodyHash are those of the notification, or nil. They refer to the bytes of the record.
	KeyHash, BodyHash []byte
	// Of is the position of the task that the record belongs to. It is zero for a synchronous send, and
	// for a task unless it replaces the one at the position.
	Of Position
	// Reschedules counts how often the task was rescheduled. It is the revision of the broadcast in a record of
	// kind Control.
	Reschedules int
	// Tags are those of the notification. Records of kind Sending and Reschedule do not have them.
	Tags []string
}

// IsCopy reports whether the record is a task that was written again. Its event is known already.
func (h *Header) IsCopy() bool { return h.Kind == Task && h.Of.Seq > 0 }

// Record is a whole record.
type Record struct {
	Header
	Receipt *push.Receipt // of End, Reschedule and Cancel
	Target  *push.Target  // the unregistered target of an End
	// Notification is that of a Task.
	Notification *push.Notification
	// Trace is that of the notification, if the record is not a Task.
	Trace push.TraceContext
}

// trace returns where the trace context is.
func (r *Record) trace() *push.TraceContext {
	if r.Notification != nil {
		return &r.Notification.Trace
	}
	return &r.Trace
}

// errDamaged means that the record was not written by Append.
var errDamaged = errors.New("record: damaged")

// IsRecord reports whether data is a record, and not the JSON text of an event.
func IsRecord(data []byte) bool { return len(data) > 0 && data[0] != '{' }

// FromEvent returns the record of an event that the queue did not write.
func FromEvent(e *push.Event) (r Record, err error) {
	id, err := uuid.Parse(e.ID)
	if err != nil {
		return r, fmt.Errorf("record: %w", err)
	}
	r = Record{Receipt: e.Receipt, Target: e.Target, Trace: e.TraceContext, Header: Header{
		Kind: End, ID: id, App: e.App, At: e.At, Status: e.Status, Platform: e.Platform, Lane: e.Lane, Attempt: e.Attempt, SendAt: e.SendAt,
		KeyHash: e.KeyHash, BodyHash: e.BodyHash, Tags: e.Tags,
	}}
	switch e.Status {
	case push.StatusSending:
		r.Kind = Key
	case push.StatusQueued, push.StatusScheduled:
		r.Kind = Reschedule
	case push.StatusCancelled:
		r.Kind = Cancel
	}
	return r, nil
}

// Event returns the event that r is, without a cursor.
func (r *Record) Event() push.Event {
	e := push.Event{
		ID: r.ID.String(), App: r.App, At: r.At, Status: r.Status, Platform: r.Platform, Lane: r.Lane, SendAt: r.SendAt, Attempt: r.Attempt,
		Target: r.Target, KeyHash: r.KeyHash, BodyHash: r.BodyHash, Tags: r.Tags, TraceContext: *r.trace(),
	}
	if l, ok := push.ParseBroadcastLine(r.ID); ok {
		e.Broadcast, e.Line = uuid.UUID(l.Broadcast).String(), l.Line
	} else if r.Kind == Control {
		e.Broadcast = e.ID
	}
	if r.Kind != Reschedule { // its receipt is for the next attempt
		e.Receipt = r.Receipt
	}
	return e
}

// The fields that a record has, as bits.
const (
	hasKey = 1 << iota
	hasAttempt
	hasSendAt
	hasTask
	hasReschedules
	hasReceipt
	hasTarget
	hasTail // see tail
)

// Append appends r to b. Times are truncated to milliseconds. The error says that a part of the
// notification has no JSON form.
func (r *Record) Append(b []byte) ([]byte, error) {
	var has byte
	for i, set := range [...]bool{
		r.KeyHash != nil, r.Attempt != 0, !r.SendAt.IsZero(), r.Of != Position{}, r.Reschedules != 0, r.Receipt != nil, r.Target != nil,
		r.trace().TraceParent != "" || len(r.Tags) > 0,
	} {
		if set {
			has |= 1 << i
		}
	}
	w := writer{append(b, byte(r.Kind), has)}
	w.b = append(w.b, r.ID[:]...)
	w.number(uint64(r.At.UnixMilli()))
	w.text(r.App)
	w.enum(string(r.Status), statuses)
	w.enum(string(r.Platform), platforms)
	w.enum(string(r.Lane), lanes)
	if has&hasKey != 0 {
		w.bytes(r.KeyHash)
		w.bytes(r.BodyHash)
	}
	if has&hasAttempt != 0 {
		w.number(uint64(r.Attempt))
	}
	if has&hasSendAt != 0 {
		w.number(uint64(r.SendAt.UnixMilli()))
	}
	if has&hasTask != 0 {
		w.number(r.Of.Seq)
		w.number(uint64(r.Of.Index))
	}
	if has&hasReschedules != 0 {
		w.number(uint64(r.Reschedules))
	}
	return r.appendBody(w, has)
}

func (r *Record) appendBody(w writer, has byte) ([]byte, error) {
	if has&hasReceipt != 0 {
		w.receipt(r.Receipt, &r.Header)
	}
	var err error
	if has&hasTarget != 0 {
		err = w.json(r.Target)
	}
	if r.Kind == Task {
		err = errors.Join(err, w.notification(r.Notification, r.At))
	}
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	if has&hasTail != 0 {
		w.tail(r.trace(), r.Tags)
	}
	return w.b, nil
}

// ParseHeader returns the header of a record.
func ParseHeader(data []byte) (Header, error) {
	var p HeaderParser
	return p.Parse(data)
}

// HeaderParser parses the headers of many records. Headers of the same app share its name.
type HeaderParser struct {
	app, reason string
	body        []byte // of the last record
	has         byte
}

// Parse returns the header of a record.
func (p *HeaderParser) Parse(data []byte) (Header, error) {
	r := reader{b: data, app: p.app}
	h, has := r.header()
	p.app, p.body, p.has = h.App, r.b, has
	if r.bad {
		return Header{}, errDamaged
	}
	return h, nil
}

// Reason returns the reason in the receipt of the last record.
func (p *HeaderParser) Reason() string {
	r := reader{b: p.body}
	if p.has&hasReceipt == 0 {
		return ""
	}
	has := r.number()
	r.byte() // the verdict
	if has&receiptReason == 0 {
		return ""
	}
	if reason := r.bytes(); string(reason) != p.reason {
		p.reason = string(reason)
	}
	return p.reason
}

func (r *reader) header() (h Header, has byte) {
	h.Kind, has = Kind(r.byte()), r.byte()
	if has&hasTail != 0 {
		h.Tags = r.takeTail()
	}
	switch h.Kind {
	case Task, Sending, End, Reschedule, Cancel, Key, Control:
	default:
		r.bad = true
	}
	copy(h.ID[:], r.take(uint64(len(h.ID))))
	h.At = r.millis()
	if app := r.bytes(); string(app) == r.app {
		h.App = r.app
	} else {
		h.App = string(app)
	}
	h.Status, h.Platform, h.Lane = push.Status(r.enum(statuses)), push.Platform(r.enum(platforms)), push.Lane(r.enum(lanes))
	if has&hasKey != 0 {
		h.KeyHash, h.BodyHash = r.bytes(), r.bytes()
	}
	if has&hasAttempt != 0 {
		h.Attempt = r.int()
	}
	if has&hasSendAt != 0 {
		h.SendAt = r.millis()
	}
	if has&hasTask != 0 {
		h.Of = Position{Seq: r.number(), Index: r.int()}
	}
	if has&hasReschedules != 0 {
		h.Reschedules = r.int()
	}
	return h, has
}

// Parse returns a record. It copies what it keeps, except for the hashes.
func Parse(data []byte) (*Record, error) {
	r := reader{b: data}
	h, has := r.header()
	record := &Record{Header: h}
	if has&hasReceipt != 0 {
		record.Receipt = r.receipt(&h)
	}
	if has&hasTarget != 0 {
		record.Target = new(push.Target)
		r.json(record.Target)
	}
	if h.Kind == Task {
		record.Notification = r.notification(&h)
	}
	if has&hasTail != 0 {
		*record.trace() = r.trace()
	}
	if r.bad {
		return nil, errDamaged
	}
	return record, nil
}

// ID returns the ID of the notification that a record belongs to, and whether it belongs to a task.
func ID(data []byte) (id uuid.UUID, ofTask bool) {
	if len(data) < 2+len(id) {
		return id, true
	}
	return uuid.UUID(data[2:]), Kind(data[0]) == Task || data[1]&hasTask != 0
}

// WithoutBody returns the event of a Task without its notification, and other records unchanged, for
// an index of events.
func WithoutBody(data []byte) []byte {
	if Kind(data[0]) != Task {
		return data
	}
	r := reader{b: data}
	r.header()
	body := len(data) - len(r.tail) - len(r.b)
	stripped := append(append([]byte(nil), data[:body]...), r.tail...)
	stripped[0] = byte(Reschedule)
	stripped[1] &^= hasReceipt | hasTarget
	return stripped
}
