// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// Classes of tasks, whose bytes are limited separately.
const (
	dueClass = iota
	laterClass
)

// acceptTimeout bounds one call of Accept. It is far below the default of Config.SettleTime.
const acceptTimeout = time.Minute

// reasonTooFarAhead refuses a SendAt beyond Config.MaxDelay.
const reasonTooFarAhead = "TooFarAhead"

// perTask is what a task writes until its end: the events of an attempt and of the end, and their share of
// the index. Keys and further attempts need more than the average of 1.3 KiB.
const perTask = 2 << 10

// Accept stores notifications and returns one error for each, nil if it is on disk. Their ID, App
// and AcceptedAt must be set. A *push.FieldError means that the notification is invalid,
// push.ErrQueueFull that the queue is full: neither is stored. After any other error the
// notification may or may not be stored: Confirm finds out.
//
// The record of a task is also the event that it is accepted and has its
// Idempotency-Key, so a crash leaves all of them or none.
func (q *Queue) Accept(ctx context.Context, ns []*push.Notification) []error {
	ctx, cancel := context.WithTimeout(ctx, acceptTimeout)
	defer cancel()
	errs := make([]error, len(ns))
	now := time.Now()
	var records [2][]jetstream.Record
	var index [2][]int
	buffer := make([]byte, 0, 256*len(ns))
	for i, n := range ns {
		start, class := len(buffer), dueClass
		if n.SendAt.After(n.AcceptedAt) {
			class = laterClass
		}
		var err error
		if buffer, err = q.appendTask(buffer, n, now); err != nil {
			buffer, errs[i] = buffer[:start], err
			continue
		}
		records[class] = append(records[class], jetstream.Record{Data: buffer[start:], Tag: n})
		index[class] = append(index[class], i)
	}
	var all []jetstream.Record
	var stored []int
	for class := range records {
		release, err := q.reserve(class, records[class])
		if err != nil {
			for _, i := range index[class] {
				errs[i] = err
			}
			continue
		}
		defer release()
		all, stored = append(all, records[class]...), append(stored, index[class]...)
	}
	if len(all) == 0 {
		return errs
	}
	_, err := q.cfg.Log.Append(ctx, all...)
	if err == nil {
		return errs
	}
	var pending []*push.Notification
	for _, i := range stored {
		errs[i] = fmt.Errorf("queue: %w", err)
		pending = append(pending, ns[i])
	}
	if !errors.Is(err, jetstream.ErrNotAdded) {
		q.resolveLater(ctx, pending)
	}
	return errs
}

// appendTask appends the record of n, if n can be accepted.
func (q *Queue) appendTask(b []byte, n *push.Notification, now time.Time) ([]byte, error) {
	if err := q.cfg.check(n); err != nil {
		return b, err
	}
	id, err := uuid.Parse(n.ID)
	if err != nil {
		return b, fmt.Errorf("queue: %w", err)
	}
	r := record.Record{Notification: n, Header: record.Header{
		Kind: record.Task, ID: id, App: n.App, At: now, Status: push.StatusQueued, Platform: n.Platform, Lane: n.EffectiveLane(),
		KeyHash: n.KeyHash, BodyHash: n.BodyHash, Tags: n.Tags,
	}}
	if n.SendAt.After(n.AcceptedAt) {
		r.Status, r.SendAt = push.StatusScheduled, n.SendAt
	}
	return r.Append(b)
}

// check returns why n cannot be accepted, or nil.
func (c *Config) check(n *push.Notification) error {
	if err := c.Sender.Check(n); err != nil {
		return err
	}
	if c.MaxDelay > 0 && n.SendAt.Sub(n.AcceptedAt) > c.MaxDelay {
		return &push.FieldError{Field: "send_at", Reason: reasonTooFarAhead,
			Allowed: fmt.Sprintf("at most %s ahead, the retention of the history (history.max_age)", c.MaxDelay)}
	}
	return nil
}

// reserve reserves space for records until they are stored.
func (q *Queue) reserve(class int, records []jetstream.Record) (release func(), err error) {
	if len(records) == 0 {
		return func() {}, nil
	}
	var bytes int64
	for _, r := range records {
		bytes += int64(len(r.Data))
	}
	count := int64(len(records))
	if err := q.admit(count); errors.Is(err, jetstream.ErrFull) {
		return nil, fmt.Errorf("%w: %w", push.ErrQueueFull, err)
	} else if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	used := [...]int64{q.table.bytes, q.table.laterBytes}[class] + q.reserved[class]
	if used+bytes > q.cfg.MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes wait, and at most %d may", push.ErrQueueFull, used, q.cfg.MaxBytes)
	}
	q.reserved[class] += bytes
	q.accepted += count
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.reserved[class] -= bytes
		q.accepted -= count
	}, nil
}

// Ready returns why no notification can be accepted now, or nil.
func (q *Queue) Ready() error { return q.admit(0) }

// admit returns why so many more tasks cannot be accepted now, or nil.
func (q *Queue) admit(count int64) error {
	q.mu.Lock()
	tasks := int64(q.table.tasks) + q.accepted + count
	q.mu.Unlock()
	if err := q.cfg.Log.Err(); err != nil {
		return err
	}
	return q.cfg.Engine.Admit(tasks * perTask)
}

// AfterResolved calls f when it is known whether a notification that was passed to Accept is stored:
// later if a write got no response, and otherwise before it returns. It does not call f if the
// process ends before that.
func (q *Queue) AfterResolved(id string, f func()) {
	q.mu.Lock()
	then, ok := q.unresolved[id]
	if ok {
		q.unresolved[id] = append(then, f)
	}
	q.mu.Unlock()
	if !ok {
		f()
	}
}

// resolveLater makes AfterResolved wait until the notifications are stored: they are added to the log.
func (q *Queue) resolveLater(ctx context.Context, ns []*push.Notification) {
	ids := make([]string, len(ns))
	q.mu.Lock()
	for i, n := range ns {
		ids[i] = n.ID
		q.unresolved[n.ID] = nil
	}
	q.mu.Unlock()
	states, _ := q.cfg.Journal.States(context.WithoutCancel(ctx), ids) // an error must not free a key
	for id := range states {                                           // stored before, so observe did not see it
		q.resolve(id)
	}
}

// resolve calls the functions of AfterResolved for a notification that is stored.
func (q *Queue) resolve(id string) {
	q.mu.Lock()
	then := q.unresolved[id]
	delete(q.unresolved, id)
	q.mu.Unlock()
	for _, f := range then {
		f()
	}
}

// resolveStored calls resolve for the notifications in a stored message.
func (q *Queue) resolveStored(m *jetstream.Message) {
	for _, r := range m.Records {
		if n, ok := r.Tag.(*push.Notification); ok {
			q.resolve(n.ID)
		}
	}
}
