// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// The tasks of a broadcast are ordinary ones, with three additions, which all gateways derive from the
// log. A tally says what happened to each line. A second task for the same line is ignored, also after the
// first has ended. And attempts start only while the last control record of the broadcast allows it.

// tallyOf returns the line of a notification of a broadcast that has a control record, and its tally, or
// nil.
func (t *table) tallyOf(id uuid.UUID) (push.BroadcastLine, *tally.Tally) {
	if len(t.tallies) == 0 {
		return push.BroadcastLine{}, nil
	}
	l, ok := push.ParseBroadcastLine(id)
	if !ok {
		return l, nil
	}
	return l, t.tallies[l.Broadcast]
}

// isHeld reports whether no attempt at a notification may start at present.
func (t *table) isHeld(id uuid.UUID) bool {
	l, b := t.tallyOf(id)
	return b != nil && !b.Allows(tally.PhaseOf(l))
}

// enqueueLine adds the task at an offset to the tally of its broadcast. It returns false if the line has a
// task already: then the new one must not be sent.
func (t *table) enqueueLine(h *record.Header, at jetstream.Offset) bool {
	l, b := t.tallyOf(h.ID)
	switch {
	case b == nil:
	case h.IsCopy():
		b.Move(l, tally.Position(at))
	default:
		return b.Enqueue(l, h.Platform, tally.Position(at))
	}
	return true
}

// endLine adds the end of a notification to the tally of its broadcast. The parser has just parsed its
// header.
func (t *table) endLine(h *record.Header) {
	if l, b := t.tallyOf(h.ID); b != nil {
		b.End(l, h.Platform, h.Status, t.parser.Reason())
	}
}

// applyControl applies a control record in a message. It returns the flows that have more ready tasks.
func (t *table) applyControl(data []byte, seq uint64) (woken []*flow) {
	h, err := t.parser.Parse(data)
	if err != nil {
		return nil
	}
	b, revision := t.tallies[h.ID], uint64(h.Reschedules)
	switch {
	case h.Status == tally.Started && b == nil:
		t.tallies[h.ID] = tally.New(seq)
		return nil
	case h.Status == tally.Deleted:
		delete(t.tallies, h.ID)
		return nil
	case b == nil, h.Status == tally.Started, revision < b.Revision: // deleted, repeated, or a later one came first
		return nil
	}
	b.Status, b.Revision = h.Status, revision
	for _, phase := range [...]tally.Phase{tally.Send, tally.Recall} {
		if b.Allows(phase) {
			woken = t.deliverOpen(b, phase, woken)
		}
	}
	return woken
}

// deliverOpen makes the tasks ready that were held. Those that a run has delivered meanwhile can be
// delivered twice: their first attempt is valid only once.
func (t *table) deliverOpen(b *tally.Tally, phase tally.Phase, woken []*flow) []*flow {
	tasks := b.OpenTasks(phase)
	slices.SortFunc(tasks, func(a, b tally.Position) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Index, b.Index)) })
	for _, task := range tasks {
		at := jetstream.Offset(task)
		f := t.find(at)
		if f == nil || f.has(isLater, at.Index) || f.has(isSending, at.Index) && !t.isDead(t.started[at].writer) {
			continue
		}
		t.setReady(f, at.Index, true)
		if f.writer == nil {
			woken = t.deliverDue(f, at, woken)
		} else {
			t.overdue = append(t.overdue, at) // see setPeers
		}
	}
	return woken
}

// oldestTally returns the first message that a broadcast needs, so that its tally can be made again from
// the log, or seq if that is before it.
func (t *table) oldestTally(seq uint64) uint64 {
	for _, b := range t.tallies {
		if !b.IsFinal() {
			seq = min(seq, b.Since)
		}
	}
	return seq
}

// appendTallies appends the tallies to a checkpoint.
func (t *table) appendTallies(b []byte) []byte {
	text, err := json.Marshal(t.tallies)
	if err != nil { // a bitmap cannot fail to be written to memory
		panic(err)
	}
	return append(b, text...)
}

// Control appends a control record of a broadcast, and returns when it is applied: no attempt that it does
// not allow starts later, at any gateway. It has no effect after one with a higher revision. The first one
// must be tally.Started, with any revision.
func (q *Queue) Control(ctx context.Context, app string, broadcast uuid.UUID, status push.Status, revision uint64) error {
	r := record.Record{Header: record.Header{Kind: record.Control, ID: broadcast, App: app, At: time.Now(), Status: status, Reschedules: int(revision)}}
	data, err := r.Append(nil)
	if err == nil {
		_, err = q.cfg.Log.Append(ctx, jetstream.Record{Data: data})
	}
	if err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// Tally returns a copy of the tally of a broadcast, or nil if it has none.
func (q *Queue) Tally(broadcast uuid.UUID) *tally.Tally {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b := q.table.tallies[broadcast]; b != nil {
		return b.Clone()
	}
	return nil
}

// ReadTally calls f with the tally of a broadcast, which is nil if it has none. f must not keep it, and must
// return quickly.
func (q *Queue) ReadTally(broadcast uuid.UUID, f func(*tally.Tally)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f(q.table.tallies[broadcast])
}

// CatchUp waits until the state has all records that are in the log at the time of the call.
func (q *Queue) CatchUp(ctx context.Context) error {
	if err := q.waitPrepared(ctx); err != nil {
		return err
	}
	if err := q.cfg.Log.CatchUp(ctx); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

// endTogether is how many notifications of a broadcast are ended with one write.
const endTogether = 500

// EndOpen ends the notifications of a broadcast that wait, with the outcome, or as cancelled if that is
// nil. Those that may have reached the device end as unknown. It leaves those that are being sent, and
// returns how many. The broadcast must not allow attempts.
func (q *Queue) EndOpen(ctx context.Context, broadcast uuid.UUID, phase tally.Phase, outcome *push.Outcome) (left int, err error) {
	if err := q.waitPrepared(ctx); err != nil {
		return 0, err
	}
	var tasks []tally.Position
	q.ReadTally(broadcast, func(b *tally.Tally) {
		if b != nil && !b.Allows(phase) {
			tasks = b.OpenTasks(phase)
		}
	})
	slices.SortFunc(tasks, func(a, b tally.Position) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Index, b.Index)) })
	for group := range slices.Chunk(tasks, endTogether) {
		if err := q.endWaiting(ctx, group, outcome); err != nil {
			return 0, err
		}
	}
	q.ReadTally(broadcast, func(b *tally.Tally) {
		if b != nil {
			left = b.Open(phase)
		}
	})
	return left, nil
}

// endWaiting ends tasks that no gateway is sending.
func (q *Queue) endWaiting(ctx context.Context, tasks []tally.Position, outcome *push.Outcome) error {
	return q.changeWaiting(ctx, tasks, func(t *task, w *waitingTask) record.Record { return endOf(t, w, outcome) })
}

// Postpone makes lines of a broadcast that wait in the queue wait until a time, unless they wait longer
// already. It leaves those that are being sent.
func (q *Queue) Postpone(ctx context.Context, broadcast uuid.UUID, lines *roaring.Bitmap, until time.Time) error {
	if err := q.waitPrepared(ctx); err != nil {
		return err
	}
	var tasks []tally.Position
	q.ReadTally(broadcast, func(b *tally.Tally) {
		for line := lines.Iterator(); b != nil && line.HasNext(); {
			task, open := b.Task(push.BroadcastLine{Broadcast: broadcast, Line: line.Next()})
			if open && q.table.mayPostpone(jetstream.Offset(task), until) {
				tasks = append(tasks, task)
			}
		}
	})
	for group := range slices.Chunk(tasks, endTogether) {
		err := q.changeWaiting(ctx, group, func(t *task, w *waitingTask) record.Record {
			r := w.newRecord(t, record.Reschedule, push.StatusQueued)
			r.Attempt, r.Reschedules, r.SendAt, r.Receipt = w.before.attempts, w.before.reschedules+1, until, t.Receipt
			return r
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// mayPostpone reports whether a task is not being sent, and does not wait until a time already.
func (t *table) mayPostpone(at jetstream.Offset, until time.Time) bool {
	f := t.find(at)
	return f != nil && !f.has(isSending, at.Index) && !(f.has(isLater, at.Index) && t.started[at].due >= dueTime(until))
}

// waitingTask is a task that waits, and the record that changes it.
type waitingTask struct {
	at      jetstream.Offset
	before  progress
	inDoubt bool
	id      uuid.UUID
	data    []byte
}

// changeWaiting appends a record for each task that no gateway is sending.
func (q *Queue) changeWaiting(ctx context.Context, tasks []tally.Position, change func(*task, *waitingTask) record.Record) error {
	var waiting []waitingTask
	for _, task := range tasks {
		at := jetstream.Offset(task)
		q.mu.Lock()
		f, p := q.table.find(at), q.table.started[at]
		inDoubt := f != nil && f.has(isSending, at.Index)
		busy := f == nil || inDoubt && !q.table.isDead(p.writer)
		q.mu.Unlock()
		if busy {
			continue
		}
		t, err := q.read(ctx, &delivery{task: at, progress: p})
		if isDamaged(err) { // it ends as lost
			continue
		}
		if err != nil {
			return err
		}
		w := waitingTask{at: at, before: p, inDoubt: inDoubt}
		if w.id, err = uuid.Parse(t.ID); err != nil {
			continue
		}
		r := change(t, &w)
		if w.data, err = r.Append(nil); err != nil {
			return err
		}
		waiting = append(waiting, w)
	}
	if len(waiting) == 0 {
		return nil
	}
	if !q.cfg.Engine.Embedded() {
		records := make([]jetstream.Record, len(waiting))
		for i, w := range waiting {
			records[i].Data = w.data
		}
		_, err := q.cfg.Log.Append(ctx, records...)
		return err
	}
	return q.cfg.Log.Exclusive(ctx, func() (records []jetstream.Record) {
		q.mu.Lock()
		defer q.mu.Unlock()
		for _, w := range waiting {
			if f := q.table.find(w.at); f != nil && q.table.started[w.at] == w.before && f.has(isSending, w.at.Index) == w.inDoubt {
				records = append(records, jetstream.Record{Data: w.data})
			}
		}
		return records
	})
}

// newRecord returns a record of a task.
func (w *waitingTask) newRecord(t *task, kind record.Kind, status push.Status) record.Record {
	n := t.Notification
	return record.Record{Header: record.Header{
		Kind: kind, ID: w.id, App: n.App, At: time.Now(), Status: status, Platform: n.Platform, Lane: n.EffectiveLane(), Of: record.Position(w.at),
	}}
}

// endOf returns the end of a task. It is of kind Cancel, which has no effect while there is an attempt,
// unless the notification may have reached the device.
func endOf(t *task, w *waitingTask, outcome *push.Outcome) record.Record {
	receipt := push.Receipt{ID: t.ID, State: push.StatusCancelled, Attempts: t.priorAttempts()}
	if outcome != nil {
		receipt.State, receipt.Outcome = "", *outcome
	}
	kind := record.Cancel
	unknown := slices.IndexFunc(receipt.Attempts, func(a push.Attempt) bool { return a.Verdict == push.Unknown })
	switch {
	case w.inDoubt:
		kind, receipt = record.End, inDoubtReceipt(t)
	case unknown >= 0:
		kind, receipt.State, receipt.Outcome = record.End, "", receipt.Attempts[unknown].Outcome
	}
	r := w.newRecord(t, kind, receipt.Status())
	r.Receipt, r.Tags = &receipt, t.Notification.Tags
	return r
}
