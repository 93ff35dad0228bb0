// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/atomicfile"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

const (
	// Notifications of waiting tasks that stay in memory. Others are read from the log again.
	maxDecoded = 8192
	// Tasks that become due at a time, before others can change the state.
	maxRelease = 1024
)

// logQueue stores tasks in the log of an embedded engine. Each record of a task is also the event in
// the history, and a table in memory has the state of all tasks.
type logQueue struct {
	cfg        Config
	dueChanged chan struct{} // receives a value when a task waits for its due time

	prepared      chan struct{} // closed when the tasks have been compared with the journal, if necessary
	draining      chan struct{} // closed by Drain
	closeDraining func()

	checkpoints checkpoints  // owned by observe, except for toSave
	interrupted []string     // IDs of synchronous sends of earlier processes
	rewriting   sync.RWMutex // held while tasks are written again; Cancel must not miss a claimed one

	mu         sync.Mutex
	unresolved map[string][]func() // to call when notifications are stored, by ID, of calls of Accept without a result
	table      *table
	reserved   [2]int64 // bytes of records that Accept is writing: due, and scheduled
	accepted   int64    // tasks among them
	sendCtx    context.Context
	sends      sync.WaitGroup // of runs
}

// openLogQueue reads the state of the tasks: the last checkpoint, and the log after it.
func openLogQueue(ctx context.Context, cfg Config) (*logQueue, error) {
	q := &logQueue{
		cfg: cfg, dueChanged: make(chan struct{}, 1), unresolved: map[string][]func(){}, draining: make(chan struct{}), prepared: make(chan struct{}),
		checkpoints: checkpoints{name: cfg.Checkpoint, log: cfg.Log.ID(), toSave: make(chan []byte, 1)},
	}
	q.closeDraining = sync.OnceFunc(func() { close(q.draining) })
	var err error
	if q.table, err = readTable(ctx, &cfg); err != nil {
		return nil, err
	}
	q.table.resume()
	for id := range q.table.calls {
		q.interrupted = append(q.interrupted, id.String())
	}
	cfg.Log.Observe(q.observe)
	cfg.Log.Keep(q)
	return q, nil
}

// observe applies a stored message.
func (q *logQueue) observe(m *jetstream.Message) {
	if q.apply(m) {
		q.resolveStored(m)
	}
}

// apply is observe with the lock. It reports whether AfterResolved waits for a notification.
func (q *logQueue) apply(m *jetstream.Message) (unresolved bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	scheduled := len(q.table.later)
	for _, fl := range q.table.apply(m) {
		q.startRuns(fl)
	}
	q.checkpoints.add(q.table, m)
	if len(q.table.later) > scheduled {
		select {
		case q.dueChanged <- struct{}{}:
		default:
		}
	}
	return len(q.unresolved) > 0
}

// Drain implements backend.
func (q *logQueue) Drain() {
	q.mu.Lock() // of startRuns: none starts later
	defer q.mu.Unlock()
	q.closeDraining()
}

// Run implements backend.
func (q *logQueue) Run(ctx context.Context) error {
	if !q.prepare(ctx) {
		return nil
	}
	close(q.prepared)
	sendCtx, cancelSends := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelSends()
	q.mu.Lock()
	q.sendCtx = sendCtx
	q.table.resume() // those that were moved
	for _, fl := range q.table.flows {
		q.startRuns(fl)
	}
	q.mu.Unlock()
	var saving sync.WaitGroup
	saving.Go(func() { q.saveCheckpoints(ctx) })
	q.runSchedule(ctx)
	q.Drain() // if ctx has ended
	ended := make(chan struct{})
	go func() {
		q.sends.Wait()
		close(ended)
	}()
	timer := time.NewTimer(q.cfg.Grace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		q.cfg.Logger.Warn("sends cancelled at the end of the grace period (raise drain.grace)", "grace", q.cfg.Grace.String())
		cancelSends()
		<-ended
	}
	<-ctx.Done()
	saving.Wait()
	q.mu.Lock()
	data := q.checkpoints.next(q.table)
	q.mu.Unlock()
	if data == nil || !q.saveCheckpoint(data) {
		return nil
	}
	// Tasks that are in doubt because of damage have ended, or are in the checkpoint. Without this, the
	// next start compares again.
	if err := q.cfg.Engine.ForgetDamage(); err != nil {
		q.cfg.Logger.Warn("cannot remove the mark of damage", "err", err)
	}
	return nil
}

// prepare does what must be done before a task is sent. It returns false if ctx ends.
func (q *logQueue) prepare(ctx context.Context) bool {
	return retryUntilDone(ctx, q.cfg.Logger, "cannot move the tasks of an earlier version; retrying", func() error { return q.migrate(ctx) }) &&
		(q.cfg.Engine.Damage() == 0 ||
			retryUntilDone(ctx, q.cfg.Logger, "cannot compare the history with the queue; retrying", func() error { return q.compare(ctx) })) &&
		retryUntilDone(ctx, q.cfg.Logger, "cannot end interrupted sends; retrying", func() error { return q.cfg.endAllMissing(ctx, q.interrupted) })
}

// saveCheckpoints writes checkpoints until ctx ends.
func (q *logQueue) saveCheckpoints(ctx context.Context) {
	for {
		select {
		case data := <-q.checkpoints.toSave:
			q.saveCheckpoint(data)
		case <-ctx.Done():
			return
		}
	}
}

func (q *logQueue) saveCheckpoint(data []byte) (saved bool) {
	err := atomicfile.Write(q.cfg.Checkpoint, data)
	if err != nil {
		q.cfg.Logger.Warn("cannot write the checkpoint of the queue", "err", err)
	}
	return err == nil
}

// runSchedule starts to send tasks that become due, until ctx ends or the queue drains.
func (q *logQueue) runSchedule(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-q.dueChanged:
		case <-timer.C:
		case <-q.draining:
			return
		case <-ctx.Done():
			return
		}
		if next := q.releaseDue(); !next.IsZero() {
			timer.Reset(max(0, time.Until(next)))
		}
	}
}

func (q *logQueue) releaseDue() (next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	woken, next := q.table.releaseDue(time.Now(), maxRelease)
	for _, fl := range woken {
		q.startRuns(fl)
	}
	return next
}

func (q *logQueue) isDraining() bool {
	select {
	case <-q.draining:
		return true
	default:
		return false
	}
}

// load returns the task of h. It returns nil if ctx ends, or if the task is damaged: then it does not wait
// any more.
func (q *logQueue) load(ctx context.Context, h *delivery) *sentTask {
	var t *task
	loaded := retryUntilDone(ctx, q.cfg.Logger, "cannot read a task; retrying", func() (err error) {
		t, err = q.read(ctx, h)
		if isDamaged(err) {
			q.cfg.Logger.Error("damaged task dropped", "seq", h.task.Seq, "index", h.task.Index)
			q.mu.Lock()
			defer q.mu.Unlock()
			if f := q.table.find(h.task); f != nil {
				q.table.close(f, h.task.Index)
			}
			t, err = nil, nil
		}
		return err
	})
	if !loaded || t == nil {
		return nil
	}
	t.AttemptsStarted, t.Reschedules = h.progress.attempts, h.progress.reschedules
	id := uuid.MustParse(t.ID) // appendTask has checked it
	return &sentTask{task: t, id: id, at: h.task, before: t.AttemptsStarted, inDoubt: h.inDoubt, claimed: h.inDoubt}
}

var errDamagedTask = errors.New("queue: damaged task")

// isDamaged reports whether err means that a record cannot be read any more.
func isDamaged(err error) bool {
	return errors.Is(err, jetstream.ErrDeleted) || errors.Is(err, errDamagedTask)
}

func (q *logQueue) read(ctx context.Context, h *delivery) (*task, error) {
	n := h.notification
	if n == nil {
		r, err := q.readRecord(ctx, h.task)
		if err != nil {
			return nil, err
		}
		if n = r.Notification; n == nil {
			return nil, errDamagedTask
		}
	}
	t := newTask(n)
	if at := h.progress.rescheduled; at.Seq > 0 {
		r, err := q.readRecord(ctx, at)
		if err != nil && !isDamaged(err) { // without it, the receipt lacks attempts
			return nil, err
		}
		if err == nil {
			t.Receipt = r.Receipt
		}
	}
	return t, nil
}

func (q *logQueue) readRecord(ctx context.Context, at jetstream.Offset) (*record.Record, error) {
	m, err := q.cfg.Log.Read(ctx, at.Seq)
	if err != nil {
		return nil, err
	}
	if at.Index >= len(m.Records) || !record.IsRecord(m.Records[at.Index].Data) {
		return nil, errDamagedTask
	}
	r, err := record.Parse(m.Records[at.Index].Data)
	if err != nil {
		return nil, errDamagedTask
	}
	return r, nil
}

// Cancel implements backend.
func (q *logQueue) Cancel(ctx context.Context, app, id string) (push.Receipt, error) {
	receipt, err := q.cfg.Journal.Receipt(ctx, app, id)
	if err != nil || !isWaiting(receipt.Status()) {
		return receipt, err
	}
	if err := q.waitPrepared(ctx); err != nil {
		return push.Receipt{}, err
	}
	q.rewriting.RLock()
	defer q.rewriting.RUnlock()
	task, err := q.find(ctx, id)
	if err != nil {
		return push.Receipt{}, err
	}
	stored, err := q.readRecord(ctx, task)
	if isDamaged(err) { // then the end has no tags
		stored, err = new(record.Record), nil
	}
	if err != nil {
		return push.Receipt{}, err
	}
	q.mu.Lock()
	claimed := q.table.claim(task, false)
	ended := q.table.find(task) == nil
	q.mu.Unlock()
	if ended {
		return q.cfg.Journal.Receipt(ctx, app, id)
	}
	if !claimed {
		receipt.State = push.StatusSending // or it is being cancelled by another call
		return receipt, nil
	}
	key, err := uuid.Parse(id)
	if err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	cancelled := push.Receipt{ID: id, State: push.StatusCancelled, Attempts: receipt.Attempts}
	r := record.Record{Receipt: &cancelled, Header: record.Header{
		Kind: record.Cancel, ID: key, App: app, At: time.Now(), Status: push.StatusCancelled, Platform: stored.Platform, Lane: stored.Lane, Of: record.Position(task),
		Tags: stored.Tags,
	}}
	data, err := r.Append(nil)
	if err == nil {
		_, err = q.cfg.Log.Append(ctx, jetstream.Record{Data: data})
	}
	if err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	return cancelled, nil
}

// find returns the offset of the task of a waiting notification, the last one if it was written again.
// The error is jetstream.ErrDeleted if its record is damaged.
func (q *logQueue) find(ctx context.Context, id string) (jetstream.Offset, error) {
	states, err := q.cfg.Journal.States(ctx, []string{id})
	if err != nil {
		return jetstream.Offset{}, fmt.Errorf("queue: %w", err)
	}
	task, err := q.taskAt(ctx, states[id].Offset)
	if err == nil && q.isOpen(task) || err != nil && !isDamaged(err) {
		return task, err
	}
	events, err := q.cfg.Journal.Events(ctx, id)
	if err != nil {
		return jetstream.Offset{}, fmt.Errorf("queue: %w", err)
	}
	for _, e := range slices.Backward(events) {
		var at jetstream.Offset
		if _, err := fmt.Sscanf(e.Cursor, "%d.%d", &at.Seq, &at.Index); err != nil {
			continue
		}
		if task, err = q.taskAt(ctx, at); err == nil || !isDamaged(err) {
			return task, err
		}
	}
	return jetstream.Offset{}, jetstream.ErrDeleted
}

func (q *logQueue) isOpen(task jetstream.Offset) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.table.find(task) != nil
}

// taskAt returns the offset of the task to which the record at an offset belongs.
func (q *logQueue) taskAt(ctx context.Context, at jetstream.Offset) (jetstream.Offset, error) {
	r, err := q.readRecord(ctx, at)
	switch {
	case err != nil:
		return jetstream.Offset{}, err
	case r.Kind == record.Task:
		return at, nil
	case r.Of.Seq == 0:
		return jetstream.Offset{}, errDamagedTask
	default:
		return jetstream.Offset(r.Of), nil
	}
}

// waitPrepared waits until all tasks are in the log, and not damaged.
func (q *logQueue) waitPrepared(ctx context.Context) error {
	select {
	case <-q.prepared:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("queue: %w", ctx.Err())
	}
}

// Confirm implements backend. A notification that the journal knows has a task, unless it is damaged or
// of an earlier version.
func (q *logQueue) Confirm(ctx context.Context, id string) (waits bool, err error) {
	if err := q.waitPrepared(ctx); err != nil {
		return false, err
	}
	states, err := q.cfg.Journal.States(ctx, []string{id})
	if err != nil {
		return false, fmt.Errorf("queue: %w", err)
	}
	return isWaiting(states[id].Status), nil
}

// Status implements backend.
func (q *logQueue) Status(ctx context.Context) (Status, error) {
	s, oldest := q.status()
	if oldest.Seq == 0 {
		return s, nil
	}
	r, err := q.readRecord(ctx, oldest)
	switch {
	case err == nil:
		s.Oldest = r.At
	case !isDamaged(err):
		return s, err
	}
	return s, nil
}

// status returns the status without Oldest, and the first task in the message of the oldest due one.
func (q *logQueue) status() (s Status, oldest jetstream.Offset) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s = Status{MaxBytes: q.cfg.MaxBytes, Bytes: uint64(q.table.bytes), LaterBytes: uint64(q.table.laterBytes)}
	for key, fl := range q.table.flows {
		if fl.depth > 0 {
			s.Waiting = append(s.Waiting, Depth{App: key.app, Lane: key.lane, Tasks: fl.depth})
		}
	}
	slices.SortFunc(s.Waiting, func(a, b Depth) int { return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Lane, b.Lane)) })
	return s, q.table.oldestDue()
}

// OldestTask implements backend. The log keeps the messages with tasks itself.
func (q *logQueue) OldestTask(context.Context) (time.Time, error) { return time.Time{}, nil }
