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

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// Sender delivers a notification and returns its final receipt. It must be safe for concurrent use.
type Sender interface {
	Send(ctx context.Context, n *push.Notification) push.Receipt
	// Check returns a *push.FieldError if n is invalid.
	Check(n *push.Notification) error
}

// Journal is a totally ordered log of events. Its order decides between concurrent changes of a
// notification, for instance between a cancellation and an attempt. The queue appends an event
// before it acts on it.
type Journal interface {
	// Append writes events and returns the offset of the last one when all are on disk.
	Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error)
	// AppendAsync writes events without waiting for the disk. A crash may lose them.
	AppendAsync(ctx context.Context, events ...push.Event) error
	// WaitForSeq waits until States includes all events up to seq. WaitCaughtUp waits until States
	// includes all events that were in the journal at the time of the call.
	WaitForSeq(ctx context.Context, seq uint64) error
	WaitCaughtUp(ctx context.Context) error
	// States returns the states of notifications. An unknown one is missing or has an empty Status.
	States(ctx context.Context, ids []string) (map[string]State, error)
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
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Queue is a persistent queue of notifications. It is safe for concurrent use. Accept blocks unless
// Run is running.
type Queue struct {
	cfg           Config
	js            natsjs.JetStream
	tasks         *streamHandle     // tasks to send immediately
	scheduled     *streamHandle     // tasks to send at a later time
	requeue       *jetstream.Writer // to scheduled; may use the disk reserve, because its tasks are already accepted
	inFlight      inFlightSet
	loader        *stateLoader
	caughtUp      atomic.Bool // the journal includes all events from before the start
	scheduledSize cachedSize

	draining      chan struct{} // closed by Drain
	closeDraining func()

	mu         sync.Mutex
	consumers  map[partition]*consumer
	discovered chan partition // partitions with tasks that may have no consumer
}

// Open creates or opens the queue's streams. It starts no goroutines.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	if cfg.Engine == nil || cfg.Sender == nil || cfg.Journal == nil {
		return nil, errors.New("queue: Engine, Sender and Journal are required")
	}
	q := &Queue{
		cfg: cfg.withDefaults(), js: cfg.Engine.JetStream(), consumers: map[partition]*consumer{}, discovered: make(chan partition, 64), draining: make(chan struct{}),
		loader: newStateLoader(cfg.Journal),
	}
	q.closeDraining = sync.OnceFunc(func() { close(q.draining) })
	var err error
	if q.tasks, err = newStreamHandle(ctx, cfg.Engine, tasksStreamConfig(q.cfg.MaxBytes), mapTaskSubject); err != nil {
		return nil, err
	}
	if q.scheduled, err = newStreamHandle(ctx, cfg.Engine, scheduledStreamConfig(), mapScheduledSubject); err != nil {
		return nil, err
	}
	q.requeue = cfg.Engine.Writer(scheduledStreamName, false)
	q.requeue.MapSubject = mapScheduledSubject
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
	var writers, background errgroup.Group
	for _, w := range []*jetstream.Writer{q.tasks.writer, q.scheduled.writer, q.requeue} {
		writers.Go(func() error { return w.Run(writeCtx) })
	}
	pullCtx, stopPulling := context.WithCancel(ctx)
	defer stopPulling()
	sendCtx, cancelSends := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelSends()
	drained := make(chan struct{})
	background.Go(func() error { q.sendInProgress(drained); return nil })
	background.Go(func() error { q.loader.run(sendCtx, drained); return nil })
	background.Go(func() error { q.enforceGrace(ctx, drained, stopPulling, cancelSends); return nil })
	err := q.runConsumers(pullCtx, sendCtx)
	close(drained)
	err = errors.Join(err, background.Wait())
	<-ctx.Done() // Accept works until then
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
