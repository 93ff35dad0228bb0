// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/push"
)

// maxRun is how many tasks are sent together. More than this save nothing more.
const maxRun = 64

// run holds tasks of one flow that are sent together. The attempts of those that the sender
// starts together are recorded with one write, and so are the results that arrive together.
type run struct {
	*Queue
	ctx   context.Context
	flow  *flow
	tasks []*sentTask
	// signal is the highest one of the results so far. Queue.mu protects it.
	signal signal
}

// sentTask is a task that is being sent.
type sentTask struct {
	*task
	id      uuid.UUID
	at      jetstream.Offset
	before  int  // attempts when it was delivered
	base    int  // attempts before the current call of the sender
	inDoubt bool // a process that has ended may have sent it
	// mayHaveArrived is set if the result of an earlier attempt is unknown.
	mayHaveArrived bool
	done           bool  // its end or reschedule was added to the log, or nothing must be added
	err            error // why the last attempt was not sent, or a panic
}

// startRuns sends ready tasks of a flow, as many as Config.InFlight allows. The caller holds q.mu.
func (q *Queue) startRuns(fl *flow) {
	for q.sendCtx != nil && !q.isDraining() {
		tasks := q.table.nextRun(fl, min(fl.pause.limit(), q.cfg.InFlight-fl.sending))
		if len(tasks) == 0 {
			return
		}
		fl.sending += len(tasks)
		probe := fl.pause.length > 0
		fl.pause.probing = probe
		q.sends.Go(func() { q.send(q.sendCtx, fl, tasks, probe) })
	}
}

// release ends the sending of so many tasks of a flow. Others take their places.
func (q *Queue) release(fl *flow, count int) {
	if count == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	fl.sending -= count
	q.startRuns(fl)
	q.table.dropIdle(fl)
}

// send sends tasks of a flow. probe is set if they are the first ones after a pause.
func (q *Queue) send(ctx context.Context, fl *flow, deliveries []delivery, probe bool) {
	r := &run{Queue: q, ctx: ctx, flow: fl}
	_ = panics.Restart(ctx, q.cfg.Logger, "read of queued notifications", func(ctx context.Context) error {
		for ; len(deliveries) > 0; deliveries = deliveries[1:] {
			t := q.load(ctx, &deliveries[0])
			if t == nil {
				q.release(fl, 1)
				continue
			}
			r.tasks = append(r.tasks, t)
		}
		return nil
	})
	q.release(fl, len(deliveries)) // those that were not read, after a panic
	r.process()
	if probe {
		q.endProbe(fl, r.signal)
	}
}

// process sends the tasks until each has ended or is rescheduled, or until the context ends.
func (r *run) process() {
	name := "queue of " + r.flow.key.app
	for {
		err := panics.Recover(r.cfg.Logger, name, func() error {
			r.endInDoubt()
			r.sendAll()
			return nil
		})
		r.removeDone() // their places are released
		for _, t := range r.tasks {
			_, panicked := errors.AsType[*panics.Error](t.err)
			if panicked || err != nil {
				_ = panics.Restart(r.ctx, r.cfg.Logger, name, func(context.Context) error { return r.finishPanicked(t) })
			}
			t.done = panicked || err != nil || errors.Is(t.err, errCancelled) || errors.Is(t.err, jetstream.ErrClosed)
		}
		r.release(r.flow, r.removeDone())
		if len(r.tasks) == 0 {
			return
		}
		if !sleep.For(r.ctx, retryInterval) { // the attempts of the others could not be recorded
			r.release(r.flow, len(r.tasks))
			return
		}
	}
}

// removeDone removes the tasks that are done, and returns how many.
func (r *run) removeDone() (count int) {
	before := len(r.tasks)
	r.tasks = slices.DeleteFunc(r.tasks, func(t *sentTask) bool { return t.done })
	return before - len(r.tasks)
}

// endInDoubt ends the tasks whose attempt by an earlier process must not be repeated.
func (r *run) endInDoubt() {
	var results []result
	for _, t := range r.tasks {
		if n := t.Notification; t.inDoubt && !(n.MayRetryUnknown() && n.MayRetry(t.AttemptsStarted)) {
			receipt := inDoubtReceipt(t.task)
			results = append(results, result{t, &receipt})
		}
	}
	r.finish(results)
	for _, t := range r.tasks {
		t.mayHaveArrived, t.inDoubt = t.inDoubt || hasUnknown(t.priorAttempts()), false
	}
	r.release(r.flow, r.removeDone())
}

func hasUnknown(attempts []push.Attempt) bool {
	return slices.ContainsFunc(attempts, func(a push.Attempt) bool { return a.Verdict == push.Unknown })
}

// sendAll sends the tasks, and returns when the sender does. A task that is not done has an error then.
func (r *run) sendAll() {
	if len(r.tasks) == 0 {
		return
	}
	ns, calls, pointers := make([]push.Notification, len(r.tasks)), make([]push.Call, len(r.tasks)), make([]*push.Call, len(r.tasks))
	for i, t := range r.tasks {
		n := &ns[i]
		*n, t.base, t.err = *t.Notification, t.AttemptsStarted, nil
		n.Retry, n.Warnings = remainingAttempts(n.Retry, t.AttemptsStarted), nil
		c := &calls[i]
		*c = push.Call{Notification: n, Index: i, CanQueue: true, QueuedSince: t.waitingSince(), MayHaveArrived: t.mayHaveArrived, BeforeRun: r.beforeRun, BeforeAttempt: func(attempt int) error {
			return r.beforeAttempt(t, t.base+attempt)
		}}
		pointers[i] = c
	}
	ctx, stop := context.WithTimeout(r.ctx, r.cfg.SendTimeout)
	defer stop()
	r.cfg.Sender.SendAll(ctx, pointers, r.ended)
}

// beforeRun implements push.Call.BeforeRun.
func (r *run) beforeRun(calls []*push.Call) (errs []error) {
	tasks := make([]*sentTask, len(calls))
	for i, c := range calls {
		tasks[i] = r.tasks[c.Index]
	}
	r.recordAttempts(tasks, func(t *sentTask) int { return t.base + 1 })
	for i, t := range tasks {
		if t.err != nil && errs == nil {
			errs = make([]error, len(tasks))
		}
		if t.err != nil {
			errs[i] = t.err
		}
	}
	return errs
}

// beforeAttempt implements push.Call.BeforeAttempt.
func (r *run) beforeAttempt(t *sentTask, attempt int) error {
	r.recordAttempts([]*sentTask{t}, func(*sentTask) int { return attempt })
	return t.err
}

// recordAttempts records that attempts at tasks start, and sets the errors of those that must not start:
// errCancelled if another record came first in the log: that of a cancellation, of an attempt by another
// gateway, or of a broadcast that pauses.
func (r *run) recordAttempts(tasks []*sentTask, number func(*sentTask) int) {
	buffer, records, now := make([]byte, 0, 64*len(tasks)), make([]jetstream.Record, 0, len(tasks)), time.Now()
	r.mu.Lock()
	for _, t := range tasks {
		if t.err = nil; !r.table.mayStart(t.at, t.AttemptsStarted) || r.table.isHeld(t.id) {
			t.err = errCancelled
		}
	}
	r.mu.Unlock()
	for _, t := range tasks {
		if t.err != nil {
			continue
		}
		entry := t.newRecord(record.Sending, push.StatusSending, now)
		entry.Attempt = number(t)
		start := len(buffer)
		if buffer, t.err = entry.Append(buffer); t.err == nil {
			records = append(records, jetstream.Record{Data: buffer[start:]})
		}
	}
	offsets, err := r.cfg.Log.Append(r.ctx, records...)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range tasks {
		switch {
		case t.err != nil:
			continue
		case err != nil:
			t.err = fmt.Errorf("queue: %w", err)
			continue
		case !r.table.isSent(t.at, offsets[0]):
			t.err = errCancelled
		default:
			t.AttemptsStarted = number(t)
		}
		offsets = offsets[1:]
	}
}

// ended gets calls that have ended from the sender. The places of their tasks are free when the results
// are in the log, so that at most Config.InFlight tasks are in doubt after a crash.
func (r *run) ended(calls []*push.Call) {
	results := make([]result, 0, len(calls))
	for _, c := range calls {
		if t := r.tasks[c.Index]; t.err == nil {
			c.Receipt.Attempts = mergeAttempts(t.priorAttempts(), c.Receipt.Attempts)
			results = append(results, result{t, &c.Receipt})
		}
	}
	err := panics.Recover(r.cfg.Logger, "queue of "+r.flow.key.app, func() error {
		r.finish(results)
		return nil
	})
	if err == nil {
		r.release(r.flow, len(results))
		return
	}
	for _, result := range results {
		result.err = err
	}
}

// result is the receipt of a task.
type result struct {
	*sentTask
	receipt *push.Receipt
}

// finish ends or reschedules tasks according to their receipts. It does not wait for the disk.
func (r *run) finish(results []result) {
	buffer, records, now := make([]byte, 0, 192*len(results)), make([]jetstream.Record, 0, len(results)), time.Now()
	for _, t := range results {
		if t.receipt.Verdict == push.Abandoned { // the context has ended; an attempt that had started is in doubt
			continue
		}
		start := len(buffer)
		entry := r.resultOf(t, now)
		if entry.Kind == record.Cancel && !r.waits(t.sentTask) { // it is cancelled, or another gateway has started an attempt
			continue
		}
		var err error
		if buffer, err = entry.Append(buffer); err != nil {
			r.cfg.Logger.Error("cannot record the result of an attempt", "app", t.App, "err", err)
			continue
		}
		records = append(records, jetstream.Record{Data: buffer[start:]})
	}
	if err := r.cfg.Log.AppendAsync(context.WithoutCancel(r.ctx), records...); err != nil { // the log is closed, so the tasks are in doubt
		r.cfg.Logger.Error("cannot record the results of attempts", "app", r.flow.key.app, "tasks", len(records), "err", err)
	}
	for _, t := range results {
		t.done = true
	}
	r.noteResults(results)
}

// waits reports whether no other record came before an attempt of t.
func (r *run) waits(t *sentTask) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.table.mayStart(t.at, t.AttemptsStarted)
}

// resultOf returns the record that a task has ended, or that it is rescheduled. An end without an attempt
// is of kind Cancel: it has no effect if another gateway has started one.
func (r *run) resultOf(t result, now time.Time) record.Record {
	at, retry := r.cfg.retryAt(t.task, t.receipt, t.AttemptsStarted > t.before)
	if retry {
		entry := t.newRecord(record.Reschedule, push.StatusQueued, now)
		entry.Attempt, entry.SendAt, entry.Reschedules, entry.Receipt = t.AttemptsStarted, at, t.Reschedules+1, t.receipt
		return entry
	}
	entry := t.newRecord(record.End, t.receipt.Status(), now)
	entry.Receipt, entry.KeyHash, entry.BodyHash, entry.Tags, entry.Trace = t.receipt, t.KeyHash, t.BodyHash, t.Notification.Tags, t.Notification.Trace
	if t.AttemptsStarted == t.before && !t.inDoubt {
		entry.Kind = record.Cancel
	}
	if entry.Status == push.StatusUnregistered || t.receipt.Replaced != nil {
		entry.Target = &t.Notification.Target
	}
	return entry
}

// newRecord returns a record of t.
func (t *sentTask) newRecord(kind record.Kind, status push.Status, now time.Time) record.Record {
	n := t.Notification
	return record.Record{Header: record.Header{
		Kind: kind, ID: t.id, App: n.App, At: now, Status: status, Platform: n.Platform, Lane: n.EffectiveLane(), Of: record.Position(t.at),
	}}
}

// finishPanicked ends or reschedules t after a panic, which counts as an attempt with an unknown
// outcome, also if it occurred before the attempt was recorded. So a panic that occurs each time ends t.
func (r *run) finishPanicked(t *sentTask) error {
	if t.AttemptsStarted == t.before {
		if err := r.beforeAttempt(t, t.before+1); err != nil {
			return err
		}
	}
	panicked := push.Outcome{Verdict: push.Unknown, Reason: reasonPanic}
	receipt := push.Receipt{ID: t.ID, Outcome: panicked}
	receipt.Attempts = mergeAttempts(t.priorAttempts(), []push.Attempt{{Started: time.Now().UTC(), Outcome: panicked}})
	r.finish([]result{{t, &receipt}})
	return nil
}
