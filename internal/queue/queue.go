// SPDX-License-Identifier: Apache-2.0

// Package queue stores accepted notifications on disk until they have ended, and passes them to a
// Sender when they are due. It keeps no record of what has ended: that is the Journal's task.
package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/atomicfile"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// Sender delivers notifications. It must be safe for concurrent use.
type Sender interface {
	// Send returns the final receipt.
	Send(ctx context.Context, c *push.Call) *push.Receipt
	// SendAll sends calls of one app, platform and lane, and returns when all have ended. ended gets
	// calls that have ended. It is called by several goroutines and must not keep the slice.
	SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call))
	// Check returns a *push.FieldError if n is invalid.
	Check(n *push.Notification) error
}

// Journal finds the events in the log by notification.
type Journal interface {
	// Append writes events and returns the offset of the last one when all are on disk.
	Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error)
	// States returns the states of notifications. An unknown one is missing or has an empty Status.
	States(ctx context.Context, ids []string) (map[string]State, error)
	// Unfinished returns the IDs of the notifications that have a state other than an end and damaged
	// records, from an event up to seq, in ascending order.
	Unfinished(ctx context.Context, seq uint64) ([]uuid.UUID, error)
	// Events returns the events of a notification in order.
	Events(ctx context.Context, id string) ([]push.Event, error)
	// Receipt returns the receipt of an app's notification; push.ErrNotFound if there is none.
	Receipt(ctx context.Context, app, id string) (push.Receipt, error)
}

// State is the result of a notification's events, applied in the order of the log. The first end is
// final. A notification that is being sent cannot be cancelled. An attempt is ignored if its number
// is not above that of the previous one. A queued or scheduled event changes a known state only if
// it reports the current number of attempts.
type State struct {
	Status  push.Status
	Attempt int              // number of attempts started
	Offset  jetstream.Offset // of the event that led to this state
}

// Log is the log of the tasks and of all other events, as jetstream.Log.
type Log interface {
	// Append returns the offsets of the records when all are on disk. After an error they will be
	// stored, unless it is ErrNotAdded. AppendAsync does not wait for the disk. Exclusive calls build and
	// appends the records that it returns, so that no other record is stored in between.
	Append(ctx context.Context, records ...jetstream.Record) ([]jetstream.Offset, error)
	AppendAsync(ctx context.Context, records ...jetstream.Record) error
	Exclusive(ctx context.Context, build func() []jetstream.Record) error
	// Read returns a message, and ReadFrom all messages from one on.
	Read(ctx context.Context, seq uint64) (*jetstream.Message, error)
	ReadFrom(ctx context.Context, seq uint64, f func(*jetstream.Message) error) error
	// ID identifies the log, and LastSeq its last message. CatchUp waits until the observers have got all
	// messages. Err returns why the log cannot be used any more, or nil.
	ID() string
	LastSeq() uint64
	CatchUp(ctx context.Context) error
	Err() error
	// Writer identifies this process in the messages that it writes. IsOwn reports whether a writer is this
	// process or an earlier one of the same gateway.
	Writer() string
	IsOwn(writer string) bool
	// Observe calls f for each message that is stored later. Keep keeps the messages that k needs from
	// being deleted.
	Observe(f func(*jetstream.Message))
	Keep(k jetstream.Keeper)
}

// Config configures a queue. Engine, Log, Sender and Journal are required.
type Config struct {
	Engine *jetstream.Engine
	// Log holds the tasks. The journal must read its records as events.
	Log Log
	// Checkpoint is a file for the state of the tasks in the log, so that a restart does not read the
	// whole log. It may be deleted while no queue is open. Empty means no checkpoints.
	Checkpoint string
	Sender     Sender
	Journal    Journal
	// MaxBytes bounds the due tasks on disk, and separately the scheduled ones. Accept refuses
	// more. Zero means 4 GiB.
	MaxBytes int64
	// MaxDelay bounds how far SendAt may be in the future; zero means no bound. Set it to the
	// retention of the journal: the state of a notification that waits longer is lost.
	MaxDelay time.Duration
	// InFlight limits the concurrent sends of an app, platform and lane; zero means 512. A gateway of a
	// cluster helps another one with these if that one has more due tasks than this.
	InFlight int
	// RetryFor is how long after its due time a notification without a TTL is retried; zero means
	// 24 hours.
	RetryFor time.Duration
	// SendTimeout bounds one call of Sender.Send. Zero means 25 seconds.
	SendTimeout time.Duration
	// LostAfter is how long a gateway of a cluster must not be heard until others send its tasks; zero
	// means six seconds.
	LostAfter time.Duration
	// SettleTime is how long a gateway of a cluster must not be heard until its attempts without a result
	// are in doubt. It must be longer than a send takes, and less than half of the time for which a killed
	// gateway keeps a claimed Idempotency-Key, so that no other request uses the key before the
	// notification has ended. Zero means two minutes. The attempts of earlier processes of the same gateway
	// are in doubt at its start.
	SettleTime time.Duration
	// Grace is how long sends in progress may take during a drain; zero means 30 seconds.
	Grace time.Duration
	// Logger receives log records; nil discards them.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.MaxBytes = cmp.Or(c.MaxBytes, 4<<30)
	c.InFlight = cmp.Or(c.InFlight, 512)
	c.RetryFor = cmp.Or(c.RetryFor, 24*time.Hour)
	c.SendTimeout = cmp.Or(c.SendTimeout, 25*time.Second)
	c.Grace = cmp.Or(c.Grace, 30*time.Second)
	c.LostAfter = cmp.Or(c.LostAfter, 6*time.Second)
	c.SettleTime = cmp.Or(c.SettleTime, 2*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Queue is a persistent queue of notifications. Each record of a task in the log is also the event in
// the history, and a table in memory has the state of all tasks. Gateways of a cluster have the same
// table: each can start and cancel every task, and the order of the log decides between them. A Queue is
// safe for concurrent use. Accept blocks unless Run is running.
type Queue struct {
	cfg        Config
	dueChanged chan struct{} // receives a value when a task waits for its due time

	prepared      chan struct{} // closed when the tasks have been compared with the journal, if necessary
	draining      chan struct{} // closed by Drain
	closeDraining func()

	checkpoints checkpoints // owned by observe, except for toSave

	mu         sync.Mutex
	unresolved map[string][]func() // to call when notifications are stored, by ID, of calls of Accept without a result
	table      *table
	reserved   [2]int64 // bytes of records that Accept is writing: due, and scheduled
	accepted   int64    // tasks among them
	sendCtx    context.Context
	sends      sync.WaitGroup // of runs
}

const (
	// Notifications of waiting tasks that stay in memory. Others are read from the log again.
	maxDecoded = 8192
	// Tasks that become due at a time, before others can change the state.
	maxRelease = 1024
)

// Open reads the state of the tasks: the last checkpoint, and the log after it. It starts no goroutines.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	if cfg.Engine == nil || cfg.Log == nil || cfg.Sender == nil || cfg.Journal == nil {
		return nil, errors.New("queue: Engine, Log, Sender and Journal are required")
	}
	cfg = cfg.withDefaults()
	q := &Queue{
		cfg: cfg, dueChanged: make(chan struct{}, 1), unresolved: map[string][]func(){}, draining: make(chan struct{}), prepared: make(chan struct{}),
		checkpoints: checkpoints{name: cfg.Checkpoint, log: cfg.Log.ID(), toSave: make(chan []byte, 1)},
	}
	q.closeDraining = sync.OnceFunc(func() { close(q.draining) })
	if !cfg.Engine.Embedded() {
		if err := q.refuseEarlierTasks(ctx); err != nil {
			return nil, err
		}
	}
	var err error
	if q.table, err = readTable(ctx, &cfg); err != nil {
		return nil, err
	}
	cfg.Log.Observe(q.observe)
	cfg.Log.Keep(q)
	return q, nil
}

// observe applies a stored message.
func (q *Queue) observe(m *jetstream.Message) {
	if q.apply(m) {
		q.resolveStored(m)
	}
}

// apply is observe with the lock. It reports whether AfterResolved waits for a notification.
func (q *Queue) apply(m *jetstream.Message) (unresolved bool) {
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

// Drain stops the sending of further tasks permanently. Tasks that wait or are accepted later stay on
// disk.
func (q *Queue) Drain() {
	q.mu.Lock() // of startRuns: none starts later
	defer q.mu.Unlock()
	q.closeDraining()
}

// Run sends tasks until ctx ends. Then it drains: it lets sends in progress end for at most Grace,
// counted from Drain, keeps the other tasks, and completes pending writes.
func (q *Queue) Run(ctx context.Context) error {
	if !q.prepare(ctx) {
		return nil
	}
	close(q.prepared)
	sendCtx, cancelSends := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelSends()
	q.mu.Lock()
	q.sendCtx = sendCtx
	q.table.resume()
	for _, fl := range q.table.flows {
		q.startRuns(fl)
	}
	q.mu.Unlock()
	var background sync.WaitGroup
	background.Go(func() { q.saveCheckpoints(ctx) })
	if !q.cfg.Engine.Embedded() {
		background.Go(func() {
			_ = panics.Restart(ctx, q.cfg.Logger, "takeover of tasks", q.runPeers) // ends with ctx
		})
	}
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
	background.Wait()
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
func (q *Queue) prepare(ctx context.Context) bool {
	return retryUntilDone(ctx, q.cfg.Logger, "cannot read the log; retrying", func() error { return q.cfg.Log.CatchUp(ctx) }) &&
		retryUntilDone(ctx, q.cfg.Logger, "cannot move the tasks of an earlier version; retrying", func() error { return q.migrate(ctx) }) &&
		(q.cfg.Engine.Damage() == 0 ||
			retryUntilDone(ctx, q.cfg.Logger, "cannot compare the history with the queue; retrying", func() error { return q.compare(ctx) })) &&
		retryUntilDone(ctx, q.cfg.Logger, "cannot end interrupted sends; retrying", func() error {
			q.mu.Lock()
			interrupted := q.table.interrupted()
			q.mu.Unlock()
			return q.cfg.endAllMissing(ctx, interrupted)
		})
}

// saveCheckpoints writes checkpoints until ctx ends.
func (q *Queue) saveCheckpoints(ctx context.Context) {
	for {
		select {
		case data := <-q.checkpoints.toSave:
			q.saveCheckpoint(data)
		case <-ctx.Done():
			return
		}
	}
}

func (q *Queue) saveCheckpoint(data []byte) (saved bool) {
	err := atomicfile.Write(q.cfg.Checkpoint, data)
	if err != nil {
		q.cfg.Logger.Warn("cannot write the checkpoint of the queue", "err", err)
	}
	return err == nil
}

// runSchedule starts to send tasks that become due, until ctx ends or the queue drains.
func (q *Queue) runSchedule(ctx context.Context) {
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

func (q *Queue) releaseDue() (next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	woken, next := q.table.releaseDue(time.Now(), maxRelease)
	for _, fl := range woken {
		q.startRuns(fl)
	}
	return next
}

func (q *Queue) isDraining() bool {
	select {
	case <-q.draining:
		return true
	default:
		return false
	}
}

// load returns the task of h. It returns nil if ctx ends, or if the task is damaged: then it does not wait
// any more.
func (q *Queue) load(ctx context.Context, h *delivery) *sentTask {
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
	return &sentTask{task: t, id: id, at: h.task, before: t.AttemptsStarted, inDoubt: h.inDoubt}
}

var errDamagedTask = errors.New("queue: damaged task")

// isDamaged reports whether err means that a record cannot be read any more.
func isDamaged(err error) bool {
	return errors.Is(err, jetstream.ErrDeleted) || errors.Is(err, errDamagedTask)
}

func (q *Queue) read(ctx context.Context, h *delivery) (*task, error) {
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

func (q *Queue) readRecord(ctx context.Context, at jetstream.Offset) (*record.Record, error) {
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

// Cancel cancels a notification that is queued or scheduled, and returns its receipt. The receipt
// is not cancelled if another record, such as an attempt, came first. The error is push.ErrNotFound
// if the app has no such notification; after any other error it may or may not be cancelled.
func (q *Queue) Cancel(ctx context.Context, app, id string) (push.Receipt, error) {
	receipt, err := q.cfg.Journal.Receipt(ctx, app, id)
	if errors.Is(err, push.ErrNotFound) { // another gateway may have accepted it recently
		if err := q.cfg.Log.CatchUp(ctx); err != nil {
			return push.Receipt{}, fmt.Errorf("queue: %w", err)
		}
		receipt, err = q.cfg.Journal.Receipt(ctx, app, id)
	}
	if err != nil || !isWaiting(receipt.Status()) {
		return receipt, err
	}
	if err := q.waitPrepared(ctx); err != nil {
		return push.Receipt{}, err
	}
	key, err := uuid.Parse(id)
	if err != nil {
		return push.Receipt{}, fmt.Errorf("queue: %w", err)
	}
	for last := (jetstream.Offset{}); ; {
		task, err := q.find(ctx, id)
		if err != nil {
			return push.Receipt{}, err
		}
		if task == last || !q.isOpen(task) { // otherwise it was written again before the cancellation
			return q.cfg.Journal.Receipt(ctx, app, id)
		}
		last = task
		stored, err := q.readRecord(ctx, task)
		if isDamaged(err) { // then the end has no tags
			stored, err = new(record.Record), nil
		}
		if err != nil {
			return push.Receipt{}, err
		}
		cancelled := push.Receipt{ID: id, State: push.StatusCancelled, Attempts: receipt.Attempts}
		r := record.Record{Receipt: &cancelled, Header: record.Header{
			Kind: record.Cancel, ID: key, App: app, At: time.Now(), Status: push.StatusCancelled, Platform: stored.Platform, Lane: stored.Lane, Of: record.Position(task), Tags: stored.Tags,
		}}
		data, err := r.Append(nil)
		if err == nil {
			err = q.appendCancel(ctx, task, data)
		}
		if err != nil {
			return push.Receipt{}, fmt.Errorf("queue: %w", err)
		}
		if receipt, err = q.cfg.Journal.Receipt(ctx, app, id); err != nil || !isWaiting(receipt.Status()) {
			return receipt, err
		}
	}
}

// appendCancel appends the record of a cancellation. With an embedded engine it does so only if the task waits.
// In a cluster, which may write all the time, the order of the log decides.
func (q *Queue) appendCancel(ctx context.Context, task jetstream.Offset, data []byte) error {
	if !q.cfg.Engine.Embedded() {
		_, err := q.cfg.Log.Append(ctx, jetstream.Record{Data: data})
		return err
	}
	return q.cfg.Log.Exclusive(ctx, func() []jetstream.Record {
		q.mu.Lock()
		defer q.mu.Unlock()
		if f := q.table.find(task); f == nil || f.has(isSending, task.Index) {
			return nil
		}
		return []jetstream.Record{{Data: data}}
	})
}

// find returns the offset of the task of a waiting notification, the last one if it was written again.
// The error is jetstream.ErrDeleted if its record is damaged.
func (q *Queue) find(ctx context.Context, id string) (jetstream.Offset, error) {
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

func (q *Queue) isOpen(task jetstream.Offset) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.table.find(task) != nil
}

// taskAt returns the offset of the task to which the record at an offset belongs.
func (q *Queue) taskAt(ctx context.Context, at jetstream.Offset) (jetstream.Offset, error) {
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
func (q *Queue) waitPrepared(ctx context.Context) error {
	select {
	case <-q.prepared:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("queue: %w", ctx.Err())
	}
}

// Confirm waits until it is known whether a waiting notification will be sent, and returns false if
// it no longer waits: it was sent or cancelled meanwhile, or its task was damaged. A notification that the
// journal knows has a task, unless it is damaged or of an earlier version.
func (q *Queue) Confirm(ctx context.Context, id string) (waits bool, err error) {
	if err := q.waitPrepared(ctx); err != nil {
		return false, err
	}
	states, err := q.cfg.Journal.States(ctx, []string{id})
	if err != nil {
		return false, fmt.Errorf("queue: %w", err)
	}
	return isWaiting(states[id].Status), nil
}

// Status reads the current status.
func (q *Queue) Status(ctx context.Context) (Status, error) {
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
func (q *Queue) status() (s Status, oldest jetstream.Offset) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s = Status{MaxBytes: q.cfg.MaxBytes, Bytes: uint64(q.table.bytes), LaterBytes: uint64(q.table.laterBytes)}
	waiting := map[Depth]int{} // by Depth without Tasks
	for key, fl := range q.table.flows {
		if fl.depth > 0 {
			waiting[Depth{App: key.app, Lane: key.lane}] += fl.depth
		}
	}
	for d, tasks := range waiting {
		d.Tasks = tasks
		s.Waiting = append(s.Waiting, d)
	}
	slices.SortFunc(s.Waiting, func(a, b Depth) int { return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Lane, b.Lane)) })
	return s, q.table.oldestDue()
}
