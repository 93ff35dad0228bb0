// SPDX-License-Identifier: Apache-2.0

// Package audit reads the events and the tasks of all notifications from their streams, and finds
// notifications that are lost or ended twice and Idempotency-Keys that were used twice. It has rules
// of its own and does not use the index, so that it also checks the packages that write the streams.
package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"time"

	"github.com/go-json-experiment/json"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	logrecord "github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

const (
	defaultIdempotencyTTL = 24 * time.Hour
	maxFindings           = 1000
)

// Config says what an audit reads.
type Config struct {
	// Events is the name of the stream of events, and Queues are the names of the streams of tasks. A
	// stream that does not exist counts as empty.
	Events string
	Queues []string
	// IdempotencyTTL is the retention of Idempotency-Keys; zero means 24 hours.
	IdempotencyTTL time.Duration
}

// Report is the result of an audit.
type Report struct {
	// Events counts the events read, Notifications the notifications in the events and the queue.
	Events        uint64 `json:"events"`
	Notifications uint64 `json:"notifications"`
	// Accepted counts the notifications accepted into the queue, Waiting those that are in it now.
	Accepted uint64 `json:"accepted"`
	Waiting  uint64 `json:"waiting"`
	// Lost counts accepted notifications that have no end and are in no queue, or that ended as
	// unknown because the disk or the cluster had lost them.
	Lost uint64 `json:"lost"`
	// Twice counts notifications with two different ends.
	Twice uint64 `json:"twice"`
	// SameKey counts notifications that were or may have been delivered, or are waiting, although that
	// is also true for an earlier one with the same Idempotency-Key.
	SameKey uint64 `json:"same_key"`
	// Unannounced counts notifications that were sent from the queue but have no event that they
	// were accepted: the gateway died before it recorded one. This is harmless.
	Unannounced uint64 `json:"unannounced"`
	// NotStored counts notifications that ended because the call that accepted them was interrupted:
	// the caller got no response. This is harmless, unless there are more than calls in progress
	// when a gateway died.
	NotStored uint64 `json:"not_stored"`
	// PossiblyLost counts notifications that ended because a cluster does not have their tasks. If a
	// gateway died during the call that accepted them, this is harmless: the caller got no response.
	// Otherwise the cluster has lost an accepted notification.
	PossiblyLost uint64 `json:"possibly_lost"`
	// Interrupted counts synchronous sends without an end: the gateway died, and the caller got no
	// response.
	Interrupted uint64 `json:"interrupted"`
	// Findings lists lost, twice, same_key, unannounced, not_stored, possibly_lost and interrupted
	// notifications, at most a thousand.
	Findings []Finding `json:"findings"`
}

// Finding is a notification that does not have exactly one end, or whose Idempotency-Key was used
// before.
type Finding struct {
	Kind string `json:"kind"` // lost, twice, same_key, unannounced, not_stored, possibly_lost or interrupted
	ID   string `json:"id"`
	App  string `json:"app"`
	// Cursor is the position of its first event.
	Cursor string `json:"cursor"`
}

// Clean reports whether every accepted notification either has exactly one end or is in the queue, and
// no Idempotency-Key was used twice.
func (r *Report) Clean() bool { return r.Lost == 0 && r.Twice == 0 && r.SameKey == 0 }

// Run reads the streams and reports what it finds. It can run while gateways work, and changes
// nothing. It copies what it needs of each event into a temporary file, so that its memory does not
// depend on the number of notifications.
func Run(ctx context.Context, e *jetstream.Engine, cfg Config) (report *Report, err error) {
	cfg.IdempotencyTTL = cmp.Or(cfg.IdempotencyTTL, defaultIdempotencyTTL)
	s, err := openStore(ctx)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	a := &auditor{cfg: cfg, engine: e, js: e.JetStream(), store: s, seed: maphash.MakeSeed(), controls: controls{}}
	if err = errors.Join(a.run(ctx), s.close()); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &a.report, nil
}

// auditor is a running audit.
type auditor struct {
	cfg      Config
	engine   *jetstream.Engine
	js       natsjs.JetStream
	store    *store
	seed     maphash.Seed
	firstSeq uint64 // the first event in the stream at the start of the audit
	controls controls
	of       *broadcast // the notifications that the audit is restricted to; nil for all
	report   Report
}

// run reads the events, then the queues, then the events that were appended meanwhile. It misses no
// end, because the end of a task is appended before the task leaves its queue.
func (a *auditor) run(ctx context.Context) error {
	next, err := a.readEvents(ctx, 0, false)
	if err != nil {
		return err
	}
	for _, name := range append(a.cfg.Queues, a.cfg.Queues...) { // twice, because a task may move between the queues meanwhile
		if err := a.readQueue(ctx, name); err != nil {
			return err
		}
	}
	if _, err := a.readEvents(ctx, next, true); err != nil {
		return err
	}
	if err := a.classify(ctx); err != nil {
		return err
	}
	for repeated, err := range a.store.repeatedKeys(ctx, a.cfg.IdempotencyTTL) {
		if err != nil {
			return err
		}
		a.report.SameKey++
		a.addFinding("same_key", repeated)
	}
	return nil
}

// readEvents reads the events from a sequence on, and returns the sequence after the last one. late
// says that they were appended while the audit ran.
func (a *auditor) readEvents(ctx context.Context, from uint64, late bool) (next uint64, err error) {
	next = from
	for m, err := range messages(ctx, a.js, a.cfg.Events, from) {
		if err != nil {
			return 0, err
		}
		if next == 0 {
			a.firstSeq = m.Sequence
		}
		next = m.Sequence + 1
		items, err := a.engine.Items(m.Data)
		if err != nil {
			return 0, err
		}
		for i, item := range items {
			if !a.of.includes(item) {
				continue
			}
			text, kind, err := eventOf(item)
			if err == nil && kind == logrecord.Control {
				err = a.controls.apply(item)
				a.of.applyControl(item)
			}
			if err != nil {
				return 0, fmt.Errorf("event %d.%d: %w", m.Sequence, i, err)
			}
			if kind == logrecord.Control {
				continue
			}
			r, err := a.parseEvent(text)
			if err != nil {
				return 0, fmt.Errorf("event %d.%d: %w", m.Sequence, i, err)
			}
			r.unsent = kind == logrecord.Cancel || r.Status == push.StatusCancelled
			r.seq, r.item, r.late = m.Sequence, i, late
			a.report.Events++
			if r.Status == push.StatusSending && a.controls.hold(r.ID) { // it was not sent
				continue
			}
			if err := a.store.addEvent(r); err != nil {
				return 0, err
			}
			if kind != logrecord.Task {
				continue
			}
			if err := a.store.addTask(r.ID, r.App); err != nil {
				return 0, err
			}
		}
	}
	return next, nil
}

// readQueue reads the tasks in the stream of a queue.
func (a *auditor) readQueue(ctx context.Context, name string) error {
	for m, err := range messages(ctx, a.js, name, 0) {
		if err != nil {
			return err
		}
		for i, item := range jetstream.Items(m.Data) {
			var task record
			if err := json.Unmarshal(item, &task, anyVersion); err != nil {
				return fmt.Errorf("task %d.%d in %s: %w", m.Sequence, i, name, err)
			}
			if err := a.store.addTask(task.ID, task.App); err != nil {
				return err
			}
		}
	}
	return nil
}

// messages returns the messages of a stream, from a sequence to the current end. It reads them
// without a consumer, so it also works for a work queue and removes nothing.
func messages(ctx context.Context, js natsjs.JetStream, name string, from uint64) iter.Seq2[*natsjs.RawStreamMsg, error] {
	return func(yield func(*natsjs.RawStreamMsg, error) bool) {
		stream, err := js.Stream(ctx, name)
		if errors.Is(err, natsjs.ErrStreamNotFound) {
			return
		}
		if err != nil {
			yield(nil, err)
			return
		}
		info, err := jetstream.Info(ctx, stream)
		if err != nil {
			yield(nil, err)
			return
		}
		for next, last := from, info.State.LastSeq; next <= last; {
			m, err := stream.GetMsg(ctx, next, natsjs.WithGetMsgSubject(">"))
			if errors.Is(err, natsjs.ErrMsgNotFound) {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
			next = m.Sequence + 1
		}
	}
}

// classify judges each notification, and stores the uses of keys.
func (a *auditor) classify(ctx context.Context) error {
	var n *notification
	for r, err := range a.store.records(ctx) {
		if err != nil {
			return err
		}
		if n == nil || n.first.ID != r.ID {
			if err := a.tally(n); err != nil {
				return err
			}
			n = &notification{first: r}
		}
		n.apply(r)
	}
	return a.tally(n)
}

// tally counts a notification, unless it is nil.
func (a *auditor) tally(n *notification) error {
	if n == nil {
		return nil
	}
	a.report.Notifications++
	if n.accepted {
		a.report.Accepted++
	}
	if n.waits() {
		a.report.Waiting++
	}
	missing := n.ends == 0 && !n.queued && !n.late
	switch {
	case n.ends > 1:
		a.report.Twice++
		a.addFinding("twice", n.first)
	case n.lost, missing && n.accepted:
		a.report.Lost++
		a.addFinding("lost", n.first)
	case missing:
		a.report.Interrupted++
		a.addFinding("interrupted", n.first)
	case n.notStored:
		a.report.NotStored++
		a.addFinding("not_stored", n.first)
	case n.missing:
		a.report.PossiblyLost++
		a.addFinding("possibly_lost", n.first)
	case n.fromQueue && !n.accepted && a.firstSeq <= 1: // otherwise the event may have expired
		a.report.Unannounced++
		a.addFinding("unannounced", n.first)
	}
	if n.key == nil || !n.mayArrive() {
		return nil
	}
	return a.store.addKeyUse(n)
}

func (a *auditor) addFinding(kind string, first *record) {
	if len(a.report.Findings) < maxFindings {
		a.report.Findings = append(a.report.Findings, Finding{Kind: kind, ID: first.ID.String(), App: first.App, Cursor: first.cursor()})
	}
}
