// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/jsonobj"
	"github.com/sluice-push/sluice/push"
)

// task is a notification in the queue. Its JSON form is on disk: later versions of the gateway must
// be able to read it.
type task struct {
	ID         string    `json:"id"`
	App        string    `json:"app"`
	AcceptedAt time.Time `json:"accepted_at"`
	KeyHash    []byte    `json:"key_hash,omitempty"`
	BodyHash   []byte    `json:"body_hash,omitempty"`
	push.TraceContext
	// Due is the time to send it; zero means immediately.
	Due time.Time `json:"due,omitzero"`
	// Reschedules counts how often the task was rescheduled. AttemptsStarted and Receipt are the
	// number of attempts and the receipt at that time.
	Reschedules     int                `json:"tries,omitempty"`
	AttemptsStarted int                `json:"begun,omitempty"`
	Receipt         *push.Receipt      `json:"receipt,omitempty"`
	Notification    *push.Notification `json:"n"`
}

func newTask(n *push.Notification) *task {
	t := &task{ID: n.ID, App: n.App, AcceptedAt: n.AcceptedAt, KeyHash: n.KeyHash, BodyHash: n.BodyHash, TraceContext: n.Trace, Notification: n}
	if n.SendAt.After(n.AcceptedAt) {
		t.Due = n.SendAt
	}
	return t
}

// encode returns the task as JSON on one line, as json.Marshal does. It is written by hand because
// it runs for every accepted notification.
func (t *task) encode() ([]byte, error) {
	w := jsonobj.Writer{Bytes: make([]byte, 0, 512)}
	w.Open("")
	w.Text("id", t.ID, "")
	w.Text("app", t.App, "")
	writeTime(&w, "accepted_at", t.AcceptedAt)
	w.Text("key_hash", base64.StdEncoding.EncodeToString(t.KeyHash), "")
	w.Text("body_hash", base64.StdEncoding.EncodeToString(t.BodyHash), "")
	w.Text("traceparent", t.TraceParent, "")
	w.Text("tracestate", t.TraceState, "")
	if !t.Due.IsZero() {
		writeTime(&w, "due", t.Due)
	}
	t.encodeProgress(&w)
	w.Name("n", "")
	var err error
	if w.Bytes, err = t.Notification.AppendJSON(w.Bytes); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	w.Close()
	return w.Bytes, nil
}

// encodeProgress writes the results of earlier attempts.
func (t *task) encodeProgress(w *jsonobj.Writer) {
	if t.Reschedules != 0 {
		w.Number("tries", t.Reschedules)
	}
	if t.AttemptsStarted != 0 {
		w.Number("begun", t.AttemptsStarted)
	}
	if t.Receipt != nil {
		w.Name("receipt", "")
		w.Bytes = t.Receipt.AppendJSON(w.Bytes)
	}
}

func writeTime(w *jsonobj.Writer, name string, at time.Time) {
	w.Name(name, "")
	w.Bytes = append(at.AppendFormat(append(w.Bytes, '"'), time.RFC3339Nano), '"')
}

// taskID returns the ID of an encoded task. encode writes it first.
func taskID(data []byte) (id string, ok bool) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"id":"`))
	text, _, closed := bytes.Cut(rest, []byte{'"'})
	return string(text), ok && closed
}

func decodeTask(data []byte) (*task, error) {
	t := new(task)
	if err := json.Unmarshal(data, t); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	if t.ID == "" || t.App == "" || t.Notification == nil {
		return nil, fmt.Errorf("queue: task without id, app or notification")
	}
	n := t.Notification
	n.ID, n.App, n.AcceptedAt, n.KeyHash, n.BodyHash, n.Trace = t.ID, t.App, t.AcceptedAt, t.KeyHash, t.BodyHash, t.TraceContext
	return t, nil
}

// partition returns the partition that holds the task.
func (t *task) partition() partition {
	p := partition{stream: tasksStreamName, lane: t.Notification.EffectiveLane(), app: t.App}
	if !t.Due.IsZero() {
		p.stream = scheduledStreamName
	}
	return p
}

// destination returns the destination that the task is appended to.
func (t *task) destination() destination {
	d := destination{partition: t.partition()}
	if !t.Due.IsZero() {
		d.due = t.Due.Truncate(time.Second).UnixNano()
	}
	return d
}

// priorAttempts returns the attempts from before the task was rescheduled.
func (t *task) priorAttempts() []push.Attempt {
	if t.Receipt == nil {
		return nil
	}
	return t.Receipt.Attempts
}

// waitingSince returns since when the task waits: since its last attempt, or since it was due.
func (t *task) waitingSince() time.Time {
	if prior := t.priorAttempts(); len(prior) > 0 {
		last := &prior[len(prior)-1]
		return last.Started.Add(last.Took)
	}
	return t.Notification.Due()
}

// newEvent returns an event of the task with this status.
func (t *task) newEvent(status push.Status, at time.Time) push.Event {
	return push.Event{
		ID: t.ID, App: t.App, At: at, Status: status, Platform: t.Notification.Platform, Lane: t.Notification.EffectiveLane(),
		KeyHash: t.KeyHash, BodyHash: t.BodyHash, TraceContext: t.TraceContext,
	}
}

// waitingEvent returns the event that the task is queued or scheduled.
func (t *task) waitingEvent(at time.Time) push.Event {
	status := push.StatusQueued
	if t.AttemptsStarted == 0 && !t.Due.IsZero() {
		status = push.StatusScheduled
	}
	e := t.newEvent(status, at)
	e.Attempt, e.SendAt, e.Tags = t.AttemptsStarted, t.Due, t.Notification.Tags
	return e
}

// endEvent returns the event that the task has ended with receipt.
func (t *task) endEvent(receipt push.Receipt) push.Event {
	e := t.newEvent(receipt.Status(), time.Now().UTC())
	e.Receipt, e.Tags = &receipt, t.Notification.Tags
	if receipt.Status() == push.StatusUnregistered {
		e.Target = &t.Notification.Target
	}
	return e
}
