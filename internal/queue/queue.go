// SPDX-License-Identifier: Apache-2.0

// Package queue keeps notifications on disk from the moment they are accepted until they have ended, and hands them to
// delivery when their time has come. It knows no provider, decides about no attempt, and remembers nothing that has ended:
// that is for its journal.
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

// Sender carries a notification to its end. Send is called from many goroutines at once.
type Sender interface {
	Send(ctx context.Context, n *push.Notification) push.Receipt
	// Check tells what is wrong with n, as a *push.FieldError.
	Check(n *push.Notification) error
}

// Journal is the memory of what has become of notifications: one stream of events in one order. The queue does nothing to
// the world before the journal has it, and believes what it says.
type Journal interface {
	// Append writes events and returns the place of the last one when they are on disk.
	Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error)
	// Note writes events that nobody waits for. A crash may forget them.
	AppendAsync(ctx context.Context, events ...push.Event) error
	// Reach waits until States knows everything up to seq; Caught, until it knows what there was when it was called.
	WaitForSeq(ctx context.Context, seq uint64) error
	WaitCaughtUp(ctx context.Context) error
	// States tells where notifications stand. One that it does not know is missing, or has no Status.
	States(ctx context.Context, ids []string) (map[string]State, error)
	// Receipt tells how a notification of an app stands; push.ErrNotFound if the app has none of that ID.
	Receipt(ctx context.Context, app, id string) (push.Receipt, error)
}

// State is where the journal's events leave a notification, taken in their order: the first end stays; what is being sent
// cannot be cancelled; an attempt with a number that another has had does not count; one that waits again says how many
// attempts it has had, and without that only tells late that it was accepted.
type State struct {
	Status  push.Status
	Attempt int              // how many have begun
	Offset  jetstream.Offset // of the event that made it so
}

// Config says what a queue is to do. Engine, Sender and Journal are required.
type Config struct {
	Engine  *jetstream.Engine
	Sender  Sender
	Journal Journal
	// MaxBytes bounds what waits on disk, and separately what is scheduled; beyond, nothing is accepted. Zero is 4 GiB.
	MaxBytes int64
	// MaxDelay is how far ahead SendAt may lie; zero bounds nothing. Set it to what the journal keeps: of what waits for
	// longer nobody could tell how it stands.
	MaxDelay time.Duration
	// InFlight is how many notifications of one app and lane are in the Sender's hands at a time; zero is 512.
	InFlight int
	// RetryFor is how long after it was due a notification without TTL is tried; zero is 24 hours.
	RetryFor time.Duration
	// SendTime is how long the Sender may take over a notification before it is put back; zero is 25 seconds.
	SendTimeout time.Duration
	// Grace is how long what is in the Sender's hands may take when Run's context has ended; zero is 30 seconds.
	Grace time.Duration
	// Logger gets what an operator should know; nil discards it.
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

// Queue is made by Open and works while Run runs. Any number of goroutines may use it.
type Queue struct {
	cfg           Config
	js            natsjs.JetStream
	tasks         *streamHandle     // what is to be sent now
	scheduled     *streamHandle     // what is to be sent at a time
	requeue       *jetstream.Writer // to later, for what was accepted before and must not be refused
	inFlight      inFlightSet
	loader        *stateLoader
	caughtUp      atomic.Bool // the journal has told us all that there was when we began
	scheduledSize cachedSize  // of later

	draining      chan struct{} // closed by Drain
	closeDraining func()

	mu         sync.Mutex
	consumers  map[partition]*consumer
	discovered chan partition // sources that have something, and may have no flow
}

// Open makes or finds the queue's streams. It starts nothing.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	if cfg.Engine == nil || cfg.Sender == nil || cfg.Journal == nil {
		return nil, errors.New("queue: needs an engine, a sender and a journal")
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

// deleteStaleConsumers deletes those of an earlier process, for what it had in its hands would be kept from us until they give
// it up. In a cluster others live by them.
func (q *Queue) deleteStaleConsumers(ctx context.Context) error {
	if !q.cfg.Engine.Embedded() {
		return nil
	}
	for _, k := range []*streamHandle{q.tasks, q.scheduled} {
		names := k.stream.ConsumerNames(ctx)
		for name := range names.Name() {
			if err := k.stream.DeleteConsumer(ctx, name); err != nil {
				return fmt.Errorf("queue: %w", err)
			}
		}
		if err := names.Err(); err != nil {
			return fmt.Errorf("queue: %w", err)
		}
	}
	return nil
}

// Drain has the queue begin to send nothing more, for good: what waits, and what it accepts from then on, stays on disk.
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

// Run works the queue until ctx ends. Then it drains: it lets what is in the Sender's hands end for at most Grace, counted
// from Drain, puts the rest back, writes what is still being accepted, and returns.
func (q *Queue) Run(ctx context.Context) error {
	writing, written := context.WithCancel(context.WithoutCancel(ctx))
	defer written()
	var writers, house errgroup.Group
	for _, w := range []*jetstream.Writer{q.tasks.writer, q.scheduled.writer, q.requeue} {
		writers.Go(func() error { return w.Run(writing) })
	}
	taking, enough := context.WithCancel(ctx)
	defer enough()
	sending, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	drained := make(chan struct{})
	house.Go(func() error { q.sendInProgress(drained); return nil })
	house.Go(func() error { q.loader.run(sending, drained); return nil })
	house.Go(func() error { q.enforceGrace(ctx, drained, enough, cut); return nil })
	err := q.runConsumers(taking, sending)
	close(drained)
	err = errors.Join(err, house.Wait())
	<-ctx.Done() // until then it accepts
	written()
	return errors.Join(err, writers.Wait())
}

// enforceGrace ends the taking when the drain begins, and cuts off what is being sent when Grace is over.
func (q *Queue) enforceGrace(ctx context.Context, drained <-chan struct{}, enough, cut func()) {
	select {
	case <-q.draining:
	case <-ctx.Done():
	}
	enough()
	timer := time.NewTimer(q.cfg.Grace)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		q.cfg.Logger.Warn("queue: cut off what is still being sent (raise drain.grace)", "grace", q.cfg.Grace)
		cut()
	}
}
