// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/internal/jsonobj"
	"github.com/sluice-push/sluice/push"
)

// task is a notification as the disk has it. Its JSON form outlives versions of the gateway.
type task struct {
	ID         string    `json:"id"`
	App        string    `json:"app"`
	AcceptedAt time.Time `json:"accepted_at"`
	KeyHash    []byte    `json:"key_hash,omitempty"`
	BodyHash   []byte    `json:"body_hash,omitempty"`
	// Due is when it is to be sent, where that is not at once.
	Due time.Time `json:"due,omitzero"`
	// Tries is how often it has been put back, Begun how many attempts had begun by then as the journal counts them, and
	// Receipt tells what had become of it.
	Reschedules     int                `json:"tries,omitempty"`
	AttemptsStarted int                `json:"begun,omitempty"`
	Receipt         *push.Receipt      `json:"receipt,omitempty"`
	Notification    *push.Notification `json:"n"`
}

func newTask(n *push.Notification) *task {
	t := &task{ID: n.ID, App: n.App, AcceptedAt: n.AcceptedAt, KeyHash: n.KeyHash, BodyHash: n.BodyHash, Notification: n}
	if n.SendAt.After(n.AcceptedAt) {
		t.Due = n.SendAt
	}
	return t
}

// encode returns the task's JSON form on one line: that of its tags. It is by hand because it is made for every notification
// that is accepted.
func (t *task) encode() ([]byte, error) {
	w := jsonobj.Writer{Bytes: make([]byte, 0, 512)}
	w.Open("")
	w.Text("id", t.ID, "")
	w.Text("app", t.App, "")
	writeTime(&w, "accepted_at", t.AcceptedAt)
	w.Text("key_hash", base64.StdEncoding.EncodeToString(t.KeyHash), "")
	w.Text("body_hash", base64.StdEncoding.EncodeToString(t.BodyHash), "")
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

// encodeProgress writes what has become of it already.
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

func decodeTask(text []byte) (*task, error) {
	t := new(task)
	if err := json.Unmarshal(text, t); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	if t.ID == "" || t.App == "" || t.Notification == nil {
		return nil, fmt.Errorf("queue: a task without id, app or notification")
	}
	t.Notification.ID, t.Notification.App, t.Notification.AcceptedAt, t.Notification.KeyHash, t.Notification.BodyHash = t.ID, t.App, t.AcceptedAt, t.KeyHash, t.BodyHash
	return t, nil
}

// partition is where the task waits.
func (t *task) partition() partition {
	s := partition{stream: tasksStreamName, lane: t.Notification.EffectiveLane(), app: t.App}
	if !t.Due.IsZero() {
		s.stream = scheduledStreamName
	}
	return s
}

// destination is where the task is to be put.
func (t *task) destination() destination {
	s := destination{partition: t.partition()}
	if !t.Due.IsZero() {
		s.due = t.Due.Truncate(time.Second).UnixNano()
	}
	return s
}

// priorAttempts are those of earlier tries.
func (t *task) priorAttempts() []push.Attempt {
	if t.Receipt == nil {
		return nil
	}
	return t.Receipt.Attempts
}

// newEvent is the event that the task has come to that status.
func (t *task) newEvent(status push.Status, at time.Time) push.Event {
	return push.Event{
		ID: t.ID, App: t.App, At: at, Status: status, Platform: t.Notification.Platform, Lane: t.Notification.EffectiveLane(),
		KeyHash: t.KeyHash, BodyHash: t.BodyHash,
	}
}

// waitingEvent is the event that the task waits.
func (t *task) waitingEvent(at time.Time) push.Event {
	status := push.StatusQueued
	if t.AttemptsStarted == 0 && !t.Due.IsZero() {
		status = push.StatusScheduled
	}
	e := t.newEvent(status, at)
	e.Attempt, e.SendAt = t.AttemptsStarted, t.Due
	return e
}

// endEvent is the event that the task has ended so.
func (t *task) endEvent(receipt push.Receipt) push.Event {
	e := t.newEvent(receipt.Status(), time.Now().UTC())
	e.Receipt = &receipt
	if receipt.Status() == push.StatusUnregistered {
		e.Target = &t.Notification.Target
	}
	return e
}
