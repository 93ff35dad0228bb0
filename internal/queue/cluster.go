// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
)

// clusterQueue stores tasks in work queues of JetStream, from which any gateway can take them.
type clusterQueue struct {
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

// openClusterQueue creates or opens the queue's streams.
func openClusterQueue(ctx context.Context, cfg Config) (*clusterQueue, error) {
	q := &clusterQueue{
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
func (q *clusterQueue) deleteStaleConsumers(ctx context.Context) error {
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
func (q *clusterQueue) Drain() { q.closeDraining() }

// isDraining reports whether Drain was called.
func (q *clusterQueue) isDraining() bool {
	select {
	case <-q.draining:
		return true
	default:
		return false
	}
}

// Run sends tasks until ctx ends. Then it drains: it lets sends in progress end for at most Grace,
// counted from Drain, returns the other tasks to the stream, and completes pending writes.
func (q *clusterQueue) Run(ctx context.Context) error {
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
func (q *clusterQueue) enforceGrace(ctx context.Context, drained <-chan struct{}, stopPulling, cancelSends func()) {
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
