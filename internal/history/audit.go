// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"os"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Report is what an audit found.
type Report struct {
	// Events is how many were read; Notifications, of how many they tell, or the queue.
	Events        uint64 `json:"events"`
	Notifications uint64 `json:"notifications"`
	// Accepted were to be kept until their end; Waiting of them are in the queue now.
	Accepted uint64 `json:"accepted"`
	Waiting  uint64 `json:"waiting"`
	// Lost were accepted, have no end and are in no queue.
	Lost uint64 `json:"lost"`
	// Twice have two ends that tell different things.
	Twice uint64 `json:"twice"`
	// Unannounced were sent from the queue, though no event tells that they were accepted: a crash came between. That
	// harms nobody.
	Unannounced uint64 `json:"unannounced"`
	// Interrupted were being sent while their caller waited, and have no end: the gateway died. Nothing was promised.
	Interrupted uint64 `json:"interrupted"`
	// Findings names those of the last four kinds, at most a thousand.
	Findings []Finding `json:"findings"`
}

// Finding is one notification that has not exactly one end.
type Finding struct {
	Kind string `json:"kind"` // lost, twice, unannounced or interrupted
	ID   string `json:"id"`
	App  string `json:"app"`
	// Cursor is the place of its first event.
	Cursor string `json:"cursor"`
}

// Clean reports whether every accepted notification has exactly one end, or waits.
func (r *Report) Clean() bool { return r.Lost == 0 && r.Twice == 0 }

const maxFindings = 1000

// Audit reads the events and the queues (the streams' names; those that do not exist are empty), and proves that every
// accepted notification has exactly one end or is in a queue, or tells which have not. It asks no index, and may run beside
// gateways that work. What it needs to remember it keeps in a temporary folder: 48 bytes for each event.
func Audit(ctx context.Context, e *jetstream.Engine, queues ...string) (*Report, error) {
	dir, err := os.MkdirTemp("", "sluice-audit-")
	if err != nil {
		return nil, fmt.Errorf("history: audit: %w", err)
	}
	a := &auditor{engine: e, apps: map[string]uint32{}, seed: maphash.MakeSeed()}
	defer func() { _ = os.RemoveAll(dir) }() // the system's own cleaning does it otherwise
	if a.partitions, err = newPartitions(dir); err != nil {
		return nil, fmt.Errorf("history: audit: %w", err)
	}
	report, err := a.run(ctx, queues)
	if err = errors.Join(err, a.partitions.close()); err != nil {
		return nil, fmt.Errorf("history: audit: %w", err)
	}
	return report, nil
}

// auditor is one that runs.
type auditor struct {
	engine     *jetstream.Engine
	partitions *partitions
	apps       map[string]uint32
	appNames   []string
	seed       maphash.Seed
	firstSeq   uint64 // of the events when it began
	report     Report
}

// run reads the events, then the queues, then the events that came in between: one that left the queue meanwhile has told
// why before it left.
func (a *auditor) run(ctx context.Context, queues []string) (*Report, error) {
	first, next, err := a.readEvents(ctx, 0, false)
	if err != nil {
		return nil, err
	}
	a.firstSeq = first
	for _, name := range append(queues, queues...) { // twice: one may go from the second to the first behind our back
		if err := a.readQueue(ctx, name); err != nil {
			return nil, err
		}
	}
	if _, _, err := a.readEvents(ctx, next, true); err != nil {
		return nil, err
	}
	for records, err := range a.partitions.all() {
		if err != nil {
			return nil, err
		}
		a.classify(records)
	}
	return &a.report, nil
}

// auditEvent is what the audit reads of an event.
type auditEvent struct {
	ID      uuid.UUID       `json:"id"`
	App     string          `json:"app"`
	Status  push.Status     `json:"status"`
	Attempt uint32          `json:"attempt"`
	KeyHash []byte          `json:"key_hash"`
	Receipt json.RawMessage `json:"receipt"`
}

// readEvents shelves the events from a sequence on, and returns the first that there is and the next to come.
func (a *auditor) readEvents(ctx context.Context, from uint64, late bool) (first, next uint64, err error) {
	next = from
	for m, err := range messages(ctx, a.engine.JetStream(), Stream, from) {
		if err != nil {
			return 0, 0, err
		}
		if first == 0 {
			first = m.Sequence
		}
		next = m.Sequence + 1
		for i, item := range jetstream.Items(m.Data) {
			var t auditEvent
			if err := json.Unmarshal(item, &t); err != nil {
				return 0, 0, fmt.Errorf("the event at %d.%d: %w", m.Sequence, i, err)
			}
			a.report.Events++
			if err := a.partitions.add(a.newRecord(&t, jetstream.Offset{Seq: m.Sequence, Index: i}, late)); err != nil {
				return 0, 0, err
			}
		}
	}
	return first, next, nil
}

func (a *auditor) newRecord(t *auditEvent, at jetstream.Offset, late bool) auditRecord {
	r := auditRecord{ID: t.ID, Seq: at.Seq, Index: uint32(at.Index), App: a.appIndex(t.App), Attempt: t.Attempt, Kind: kindOf(t.Status)}
	if late {
		r.Flags |= flagLate
	}
	if t.KeyHash != nil {
		r.Flags |= flagKeyed
	}
	if r.Kind == kindEnded {
		r.End = maphash.Bytes(a.seed, t.Receipt) ^ maphash.String(a.seed, string(t.Status))
	}
	return r
}

func (a *auditor) appIndex(name string) uint32 {
	n, ok := a.apps[name]
	if !ok {
		n = uint32(len(a.appNames))
		a.apps[name], a.appNames = n, append(a.appNames, name)
	}
	return n
}

// readQueue shelves what waits in a queue's stream.
func (a *auditor) readQueue(ctx context.Context, name string) error {
	for m, err := range messages(ctx, a.engine.JetStream(), name, 0) {
		if err != nil {
			return err
		}
		for i, item := range jetstream.Items(m.Data) {
			var t auditEvent
			if err := json.Unmarshal(item, &t); err != nil {
				return fmt.Errorf("the task %d of %d in %s: %w", i, m.Sequence, name, err)
			}
			if err := a.partitions.add(auditRecord{ID: t.ID, App: a.appIndex(t.App), Kind: kindQueued}); err != nil {
				return err
			}
		}
	}
	return nil
}

// messages returns what is in a stream from a sequence on, up to what is its last now. It takes nothing out and needs no
// consumer, of which a work queue has its own.
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
		for next, last := from, stream.CachedInfo().State.LastSeq; next <= last; {
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

// classify looks at the notifications of one shelf.
func (a *auditor) classify(records []auditRecord) {
	all := map[uuid.UUID]*auditState{}
	for i := range records {
		r := &records[i]
		f, ok := all[r.ID]
		if !ok {
			f = &auditState{first: r}
			all[r.ID] = f
		}
		f.apply(r)
	}
	a.report.Notifications += uint64(len(all))
	for _, f := range all {
		a.tally(f)
	}
}

func (a *auditor) tally(f *auditState) {
	if f.accepted {
		a.report.Accepted++
	}
	if f.queued && f.ends == 0 {
		a.report.Waiting++
	}
	switch {
	case f.ends > 1:
		a.report.Twice++
		a.addFinding("twice", f)
	case f.ends == 0 && !f.queued && !f.late && f.accepted:
		a.report.Lost++
		a.addFinding("lost", f)
	case f.ends == 0 && !f.queued && !f.late:
		a.report.Interrupted++
		a.addFinding("interrupted", f)
	case f.fromQueue && !f.accepted && a.firstSeq <= 1: // or what told of it may be kept no more
		a.report.Unannounced++
		a.addFinding("unannounced", f)
	}
}

func (a *auditor) addFinding(kind string, f *auditState) {
	if len(a.report.Findings) < maxFindings {
		a.report.Findings = append(a.report.Findings, Finding{
			Kind: kind, ID: f.first.ID.String(), App: a.appNames[f.first.App],
			Cursor: formatCursor(jetstream.Offset{Seq: f.first.Seq, Index: int(f.first.Index)}),
		})
	}
}
