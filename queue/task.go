// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/object"
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
	Tries   int                `json:"tries,omitempty"`
	Begun   int                `json:"begun,omitempty"`
	Receipt *push.Receipt      `json:"receipt,omitempty"`
	N       *push.Notification `json:"n"`
}

func newTask(n *push.Notification) *task {
	t := &task{ID: n.ID, App: n.App, AcceptedAt: n.AcceptedAt, KeyHash: n.KeyHash, BodyHash: n.BodyHash, N: n}
	if n.SendAt.After(n.AcceptedAt) {
		t.Due = n.SendAt
	}
	return t
}

// write returns the task's JSON form on one line: that of its tags. It is by hand because it is made for every notification
// that is accepted.
func (t *task) write() ([]byte, error) {
	w := object.Writer{Bytes: make([]byte, 0, 512)}
	w.Open("")
	w.Text("id", t.ID, "")
	w.Text("app", t.App, "")
	writeTime(&w, "accepted_at", t.AcceptedAt)
	w.Text("key_hash", base64.StdEncoding.EncodeToString(t.KeyHash), "")
	w.Text("body_hash", base64.StdEncoding.EncodeToString(t.BodyHash), "")
	if !t.Due.IsZero() {
		writeTime(&w, "due", t.Due)
	}
	t.writeTries(&w)
	w.Name("n", "")
	var err error
	if w.Bytes, err = t.N.AppendJSON(w.Bytes); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	w.Close()
	return w.Bytes, nil
}

// writeTries writes what has become of it already.
func (t *task) writeTries(w *object.Writer) {
	if t.Tries != 0 {
		w.Number("tries", t.Tries)
	}
	if t.Begun != 0 {
		w.Number("begun", t.Begun)
	}
	if t.Receipt != nil {
		w.Name("receipt", "")
		w.Bytes = t.Receipt.AppendJSON(w.Bytes)
	}
}

func writeTime(w *object.Writer, name string, at time.Time) {
	w.Name(name, "")
	w.Bytes = append(at.AppendFormat(append(w.Bytes, '"'), time.RFC3339Nano), '"')
}

func readTask(text []byte) (*task, error) {
	t := new(task)
	if err := json.Unmarshal(text, t); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	if t.ID == "" || t.App == "" || t.N == nil {
		return nil, fmt.Errorf("queue: a task without id, app or notification")
	}
	t.N.ID, t.N.App, t.N.AcceptedAt, t.N.KeyHash, t.N.BodyHash = t.ID, t.App, t.AcceptedAt, t.KeyHash, t.BodyHash
	return t, nil
}

// source is where the task waits.
func (t *task) source() source {
	s := source{stream: tasksName, lane: t.N.EffectiveLane(), app: t.App}
	if !t.Due.IsZero() {
		s.stream = laterName
	}
	return s
}

// shelf is where the task is to be put.
func (t *task) shelf() shelf {
	s := shelf{source: t.source()}
	if !t.Due.IsZero() {
		s.due = t.Due.Truncate(time.Second).UnixNano()
	}
	return s
}

// attempts are those of earlier tries.
func (t *task) attempts() []push.Attempt {
	if t.Receipt == nil {
		return nil
	}
	return t.Receipt.Attempts
}

// event is the event that the task has come to that status.
func (t *task) event(status push.Status, at time.Time) push.Event {
	return push.Event{
		ID: t.ID, App: t.App, At: at, Status: status, Platform: t.N.Platform, Lane: t.N.EffectiveLane(),
		KeyHash: t.KeyHash, BodyHash: t.BodyHash,
	}
}

// waits is the event that the task waits.
func (t *task) waits(at time.Time) push.Event {
	status := push.StatusQueued
	if t.Begun == 0 && !t.Due.IsZero() {
		status = push.StatusScheduled
	}
	e := t.event(status, at)
	e.Attempt, e.SendAt = t.Begun, t.Due
	return e
}

// ends is the event that the task has ended so.
func (t *task) ends(receipt push.Receipt) push.Event {
	e := t.event(receipt.Status(), time.Now().UTC())
	e.Receipt = &receipt
	if receipt.Status() == push.StatusUnregistered {
		e.Target = &t.N.Target
	}
	return e
}
