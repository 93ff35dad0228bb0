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
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/push"
)

// Sender delivers a notification and returns its final receipt. It must be safe for concurrent use.
type Sender interface {
	Send(ctx context.Context, c *push.Call) *push.Receipt
	// Check returns a *push.FieldError if n is invalid.
	Check(n *push.Notification) error
}

// Journal is a totally ordered log of events. Its order decides between concurrent changes of a
// notification, for instance between a cancellation and an attempt. The queue appends an event
// before it acts on it.
type Journal interface {
	// Append writes events and returns the offset of the last one when all are on disk.
	Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error)
	// LastSeq returns the sequence of the last event in the journal. It works before Run.
	LastSeq(ctx context.Context) (uint64, error)
	// WaitForSeq waits until States includes all events up to seq. WaitCaughtUp waits until States
	// includes all events that were in the journal at the time of the call.
	WaitForSeq(ctx context.Context, seq uint64) error
	WaitCaughtUp(ctx context.Context) error
	// States returns the states of notifications. An unknown one is missing or has an empty Status.
	States(ctx context.Context, ids []string) (map[string]State, error)
	// Unfinished returns the IDs of the notifications that have a state other than an end, from an
	// event up to seq, in ascending order. Some may have ended meanwhile.
	Unfinished(ctx context.Context, seq uint64) ([]uuid.UUID, error)
	// Events returns the events of a notification in order.
	Events(ctx context.Context, id string) ([]push.Event, error)
	// Receipt returns the receipt of an app's notification; push.ErrNotFound if there is none.
	Receipt(ctx context.Context, app, id string) (push.Receipt, error)
}

// State is the result of a notification's events, applied in the journal's order. The first end is
// final. A notification that is being sent cannot be cancelled. An attempt is ignored if its number
// is not above that of the previous one. A queued or scheduled event changes a known state only if
// it reports the current number of attempts.
type State struct {
	Status  push.Status
	Attempt int              // number of attempts started
	Offset  jetstream.Offset // of the event that led to this state
}

// Config configures a queue. Engine, Sender and Journal are required.
type Config struct {
	Engine  *jetstream.Engine
	Sender  Sender
	Journal Journal
	// MaxBytes bounds the due tasks on disk, and separately the scheduled ones. Accept refuses
	// more. Zero means 4 GiB.
	MaxBytes int64
	// MaxDelay bounds how far SendAt may be in the future; zero means no bound. Set it to the
	// retention of the journal: the state of a notification that waits longer is lost.
	MaxDelay time.Duration
	// InFlight limits the concurrent sends of an app and lane; zero means 512.
	InFlight int
	// RetryFor is how long after its due time a notification without a TTL is retried; zero means
	// 24 hours.
	RetryFor time.Duration
	// SendTimeout bounds one call of Sender.Send. Zero means 25 seconds.
	SendTimeout time.Duration
	// SettleTime is how long an event must be in the journal before its task is expected in the queue,
	// or the end of its attempt in the journal: a gateway may be in the middle of Accept or of a send.
	// It must be longer than both take, and less than half of the time for which a killed gateway keeps
	// a claimed Idempotency-Key, so that no other request uses the key before the notification has
	// ended. Zero means two minutes. With an embedded engine it is used only after damage: at the start,
	// all other processes have ended.
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
	c.SettleTime = cmp.Or(c.SettleTime, 2*time.Minute)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Queue is a persistent queue of notifications. It is safe for concurrent use. Accept blocks unless
// Run is running.
type Queue struct {
	cfg        Config
	js         natsjs.JetStream
	tasks      *streamHandle // tasks to send immediately
	scheduled  *streamHandle // tasks to send at a later time
	inFlight   inFlightSet
	processing processing
	loader     *stateLoader
	caughtUp   atomic.Bool // the journal includes all events from before the start

	openedSeq    uint64              // the last event of the journal when the queue was opened
	settledSeq   atomic.Uint64       // every task of the events up to here is stored or missing
	recoveredSeq atomic.Uint64       // recover has checked the events up to here
	recovering   *semaphore.Weighted // held during recover
	toResolve    chan *acceptance

	seenTasks, seenBytes atomic.Int64  // for averageSize
	stopped              chan struct{} // closed when nothing is resolved any more

	draining      chan struct{} // closed by Drain
	closeDraining func()

	mu         sync.Mutex
	unresolved map[string]*acceptance // by ID of the notification
	consumers  map[partition]*consumer
	discovered chan partition // partitions with tasks that may have no consumer
}

// Open creates or opens the queue's streams. It starts no goroutines.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	if cfg.Engine == nil || cfg.Sender == nil || cfg.Journal == nil {
		return nil, errors.New("queue: Engine, Sender and Journal are required")
	}
	cfg = cfg.withDefaults()
	q := &Queue{
		cfg: cfg, js: cfg.Engine.JetStream(), consumers: map[partition]*consumer{}, discovered: make(chan partition, 64), draining: make(chan struct{}),
		loader: newStateLoader(cfg.Journal, cfg.Logger), recovering: semaphore.NewWeighted(1),
		unresolved: map[string]*acceptance{}, toResolve: make(chan *acceptance), stopped: make(chan struct{}),
	}
	q.closeDraining = sync.OnceFunc(func() { close(q.draining) })
	var err error
	if q.tasks, err = newStreamHandle(ctx, cfg.Engine, tasksStreamConfig(q.cfg.MaxBytes), mapTaskSubject); err != nil {
		return nil, err
	}
	if q.scheduled, err = newStreamHandle(ctx, cfg.Engine, scheduledStreamConfig(), mapScheduledSubject); err != nil {
		return nil, err
	}
	if q.openedSeq, err = cfg.Journal.LastSeq(ctx); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	if cfg.Engine.Embedded() { // all other processes have ended
		q.settledSeq.Store(q.openedSeq)
	}
	if err := q.deleteStaleConsumers(ctx); err != nil {
		return nil, err
	}
	return q, nil
}

// deleteStaleConsumers deletes the consumers of an earlier process, so that its unacknowledged
// messages are redelivered immediately. In a cluster it does nothing, because other gateways share
// the consumers.
func (q *Queue) deleteStaleConsumers(ctx context.Context) error {
	if !q.cfg.Engine.Embedded() {
		return nil
	}
	for _, s := range []*streamHandle{q.tasks, q.scheduled} {
		names := s.stream.ConsumerNames(ctx)
		for name := range names.Name() {
			if err := s.stream.DeleteConsumer(ctx, name); err != nil {
				return fmt.Errorf("queue: %w", err)
			}
		}
		if err := names.Err(); err != nil {
			return fmt.Errorf("queue: %w", err)
		}
	}
	return nil
}

// Drain stops the sending of further tasks permanently. Tasks that wait or are accepted later stay
// on disk.
func (q *Queue) Drain() { q.closeDraining() }

// isDraining reports whether Drain was called.
func (q *Queue) isDraining() bool {
	select {
	case <-q.draining:
		return true
	default:
		return false
	}
}

// Run sends tasks until ctx ends. Then it drains: it lets sends in progress end for at most Grace,
// counted from Drain, returns the other tasks to the stream, and completes pending writes.
func (q *Queue) Run(ctx context.Context) error {
	writeCtx, stopWriting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWriting()
	var writers, background, accepting errgroup.Group
	accepting.Go(func() error { return q.runResolvers(ctx) })
	accepting.Go(func() error {
		return panics.Restart(ctx, q.cfg.Logger, "comparison of the history with the queue", q.runRecovery)
	})
	for _, w := range []*jetstream.Writer{q.tasks.writer, q.scheduled.writer} {
		writers.Go(func() error { return w.Run(writeCtx) })
	}
	pullCtx, stopPulling := context.WithCancel(ctx)
	defer stopPulling()
	sendCtx, cancelSends := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelSends()
	drained := make(chan struct{})
	background.Go(func() error {
		return panics.Restart(sendCtx, q.cfg.Logger, "acknowledgement timers of the queue", func(context.Context) error {
			q.sendInProgress(drained)
			return nil
		})
	})
	background.Go(func() error { q.loader.run(sendCtx, drained); return nil })
	background.Go(func() error { q.enforceGrace(ctx, drained, stopPulling, cancelSends); return nil })
	err := q.runConsumers(pullCtx, sendCtx)
	close(drained)
	err = errors.Join(err, background.Wait())
	err = errors.Join(err, accepting.Wait()) // until ctx ends, because Accept works until then
	stopWriting()
	return errors.Join(err, writers.Wait())
}

// enforceGrace stops the pulling when the drain begins, and cancels sends in progress after Grace.
func (q *Queue) enforceGrace(ctx context.Context, drained <-chan struct{}, stopPulling, cancelSends func()) {
	select {
	case <-q.draining:
	case <-ctx.Done():
	}
	stopPulling()
	timer := time.NewTimer(q.cfg.Grace)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		q.cfg.Logger.Warn("sends cancelled at the end of the grace period (raise drain.grace)", "grace", q.cfg.Grace.String())
		cancelSends()
	}
}
