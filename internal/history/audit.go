// SPDX-License-Identifier: Apache-2.0

package history

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

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
	// SameKey counts notifications that were delivered or are waiting although an earlier one with the
	// same Idempotency-Key was or is.
	SameKey uint64 `json:"same_key"`
	// Unannounced counts notifications that were sent from the queue but have no event that they
	// were accepted: the gateway died before it recorded one. This is harmless.
	Unannounced uint64 `json:"unannounced"`
	// NotStored counts notifications that ended because the call that accepted them was interrupted:
	// the caller got no response. This is harmless, unless there are more than calls in progress
	// when a gateway died.
	NotStored uint64 `json:"not_stored"`
	// Interrupted counts synchronous sends without an end: the gateway died, and the caller got no
	// response.
	Interrupted uint64 `json:"interrupted"`
	// Findings lists lost, twice, same_key, unannounced, not_stored and interrupted notifications, at
	// most a thousand.
	Findings []Finding `json:"findings"`
}

// Finding is a notification that does not have exactly one end.
type Finding struct {
	Kind string `json:"kind"` // lost, twice, same_key, unannounced, not_stored or interrupted
	ID   string `json:"id"`
	App  string `json:"app"`
	// Cursor is the position of its first event.
	Cursor string `json:"cursor"`
}

// Clean reports whether every accepted notification either has exactly one end or is in the queue, and
// every Idempotency-Key has at most one notification that was delivered or waits.
func (r *Report) Clean() bool { return r.Lost == 0 && r.Twice == 0 && r.SameKey == 0 }

const maxFindings = 1000

// Audit reads the events and the streams of the queues, and reports the notifications that neither
// have exactly one end nor are in a queue, and Idempotency-Keys with several notifications within
// their retention (zero means 24 hours). A stream that does not exist counts as empty. Audit does not
// use the index, and can run while gateways work. It needs 64 bytes of temporary disk space for each
// event, and as much for each key.
func Audit(ctx context.Context, e *jetstream.Engine, idempotencyTTL time.Duration, queues ...string) (*Report, error) {
	setDefault(&idempotencyTTL, defaultIdempotencyTTL)
	dir, err := os.MkdirTemp("", "sluice-audit-")
	if err != nil {
		return nil, fmt.Errorf("history: audit: %w", err)
	}
	a := &auditor{engine: e, keyTTL: idempotencyTTL.Milliseconds(), apps: map[string]uint32{}, seed: maphash.MakeSeed()}
	defer func() { _ = os.RemoveAll(dir) }() // if it fails, the directory is left to the system's cleanup
	if a.records, err = newPartitions[auditRecord](dir, "id", 256); err != nil {
		return nil, fmt.Errorf("history: audit: %w", err)
	}
	if a.keys, err = newPartitions[keyUse](dir, "key", 64); err != nil {
		return nil, fmt.Errorf("history: audit: %w", errors.Join(err, a.records.close()))
	}
	report, err := a.run(ctx, queues)
	if err = errors.Join(err, a.records.close(), a.keys.close()); err != nil {
		return nil, fmt.Errorf("history: audit: %w", err)
	}
	return report, nil
}

// auditor is a running audit.
type auditor struct {
	engine   *jetstream.Engine
	keyTTL   int64                    // in milliseconds
	records  *partitions[auditRecord] // by ID
	keys     *partitions[keyUse]      // by key
	apps     map[string]uint32
	appNames []string
	seed     maphash.Seed
	firstSeq uint64 // the first event in the stream at the start of the audit
	report   Report
}

// run reads the events, then the queues, then the events that were appended meanwhile. It misses no
// end, because the end of a task is appended before the task leaves its queue.
func (a *auditor) run(ctx context.Context, queues []string) (*Report, error) {
	first, next, err := a.readEvents(ctx, 0, false)
	if err != nil {
		return nil, err
	}
	a.firstSeq = first
	for _, name := range append(queues, queues...) { // twice, because a task may move between the queues meanwhile
		if err := a.readQueue(ctx, name); err != nil {
			return nil, err
		}
	}
	if _, _, err := a.readEvents(ctx, next, true); err != nil {
		return nil, err
	}
	for records, err := range a.records.all() {
		if err != nil {
			return nil, err
		}
		if err := a.classify(records); err != nil {
			return nil, err
		}
	}
	for uses, err := range a.keys.all() {
		if err != nil {
			return nil, err
		}
		a.compareKeys(uses)
	}
	return &a.report, nil
}

// auditEvent holds the fields that an audit needs from an event or a task.
type auditEvent struct {
	ID      uuid.UUID       `json:"id"`
	App     string          `json:"app"`
	At      time.Time       `json:"at"`
	Status  push.Status     `json:"status"`
	Attempt uint32          `json:"attempt"`
	KeyHash []byte          `json:"key_hash"`
	Receipt json.RawMessage `json:"receipt"`
}

// readEvents reads the events from a sequence on. It returns the first sequence read and the one
// after the last.
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
			var e auditEvent
			if err := json.Unmarshal(item, &e); err != nil {
				return 0, 0, fmt.Errorf("event %d.%d: %w", m.Sequence, i, err)
			}
			a.report.Events++
			if err := a.addRecord(a.newRecord(&e, jetstream.Offset{Seq: m.Sequence, Index: i}, late)); err != nil {
				return 0, 0, err
			}
		}
	}
	return first, next, nil
}

func (a *auditor) newRecord(e *auditEvent, offset jetstream.Offset, late bool) auditRecord {
	r := auditRecord{
		ID: e.ID, Seq: offset.Seq, Index: uint32(offset.Index), App: a.appIndex(e.App), At: toMillis(e.At), Attempt: e.Attempt, Kind: kindOf(e.Status),
	}
	if late {
		r.Flags |= flagLate
	}
	if e.KeyHash != nil {
		r.Key = max(1, maphash.Bytes(a.seed, e.KeyHash))
	}
	if r.Kind == kindEnded {
		r.End = maphash.Bytes(a.seed, e.Receipt) ^ maphash.String(a.seed, string(e.Status))
	}
	switch e.Status {
	case push.StatusAccepted:
		r.Flags |= flagDelivered
	case push.StatusUnknown, push.StatusCancelled:
		var receipt struct {
			Reason string `json:"reason"`
		}
		_ = json.Unmarshal(e.Receipt, &receipt) // without a reason it is neither lost nor not stored
		switch receipt.Reason {
		case push.ReasonTaskLost:
			r.Flags |= flagLost
		case push.ReasonNotStored:
			r.Flags |= flagNotStored
		}
		if r.Kind == kindEnded { // two copies of a task can be in doubt, with different earlier attempts
			r.End = maphash.String(a.seed, string(e.Status)+receipt.Reason)
		}
	}
	return r
}

// addRecord stores a record. The last bytes of a UUID are random.
func (a *auditor) addRecord(r auditRecord) error {
	return a.records.add(binary.LittleEndian.Uint64(r.ID[8:])>>56, r)
}

func (a *auditor) appIndex(name string) uint32 {
	n, ok := a.apps[name]
	if !ok {
		n = uint32(len(a.appNames))
		a.apps[name], a.appNames = n, append(a.appNames, name)
	}
	return n
}

// readQueue reads the tasks in the stream of a queue.
func (a *auditor) readQueue(ctx context.Context, name string) error {
	for m, err := range messages(ctx, a.engine.JetStream(), name, 0) {
		if err != nil {
			return err
		}
		for i, item := range jetstream.Items(m.Data) {
			var e auditEvent
			if err := json.Unmarshal(item, &e); err != nil {
				return fmt.Errorf("task %d.%d in %s: %w", m.Sequence, i, name, err)
			}
			if err := a.addRecord(auditRecord{ID: e.ID, App: a.appIndex(e.App), Kind: kindQueued}); err != nil {
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

// classify counts the notifications of one partition.
func (a *auditor) classify(records []auditRecord) error {
	states := map[uuid.UUID]*auditState{}
	for i := range records {
		r := &records[i]
		s, ok := states[r.ID]
		if !ok {
			s = &auditState{first: r}
			states[r.ID] = s
		}
		s.apply(r)
	}
	a.report.Notifications += uint64(len(states))
	for _, s := range states {
		a.tally(s)
		if s.key == 0 || !s.delivered && !(s.queued && s.ends == 0) {
			continue
		}
		use := keyUse{Key: s.key, ID: s.first.ID, From: s.keyFrom, Until: s.keyUntil, Seq: s.first.Seq, Index: s.first.Index, App: s.first.App}
		if err := a.keys.add(s.key, use); err != nil {
			return err
		}
	}
	return nil
}

// compareKeys counts the notifications of one partition that have the key of an earlier one.
func (a *auditor) compareKeys(uses []keyUse) {
	slices.SortFunc(uses, func(p, q keyUse) int {
		return cmp.Or(cmp.Compare(p.Key, q.Key), cmp.Compare(p.From, q.From), cmp.Compare(p.Seq, q.Seq))
	})
	for i := range max(len(uses)-1, 0) {
		if earlier, u := &uses[i], &uses[i+1]; u.Key == earlier.Key && u.From <= earlier.Until+a.keyTTL {
			a.report.SameKey++
			a.addFinding("same_key", u.ID, u.App, jetstream.Offset{Seq: u.Seq, Index: int(u.Index)})
		}
	}
}

func (a *auditor) tally(s *auditState) {
	if s.accepted {
		a.report.Accepted++
	}
	if s.queued && s.ends == 0 {
		a.report.Waiting++
	}
	switch {
	case s.ends > 1:
		a.report.Twice++
		a.addNotification("twice", s)
	case s.lost, s.ends == 0 && !s.queued && !s.late && s.accepted:
		a.report.Lost++
		a.addNotification("lost", s)
	case s.ends == 0 && !s.queued && !s.late:
		a.report.Interrupted++
		a.addNotification("interrupted", s)
	case s.notStored:
		a.report.NotStored++
		a.addNotification("not_stored", s)
	case s.fromQueue && !s.accepted && a.firstSeq <= 1: // otherwise the event may have expired
		a.report.Unannounced++
		a.addNotification("unannounced", s)
	}
}

func (a *auditor) addNotification(kind string, s *auditState) {
	a.addFinding(kind, s.first.ID, s.first.App, jetstream.Offset{Seq: s.first.Seq, Index: int(s.first.Index)})
}

func (a *auditor) addFinding(kind string, id uuid.UUID, app uint32, at jetstream.Offset) {
	if len(a.report.Findings) < maxFindings {
		a.report.Findings = append(a.report.Findings, Finding{Kind: kind, ID: id.String(), App: a.appNames[app], Cursor: formatCursor(at)})
	}
}
