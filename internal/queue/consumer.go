// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/sleep"
)

const (
	// The server redelivers a message after ackWait without an acknowledgement or a sign of
	// progress.
	ackWait            = 6 * time.Second
	inProgressInterval = ackWait / 4
	// The maximum delay before a message that was not finished is redelivered. It bounds how long a
	// notification in doubt waits after SettleTime.
	maxNakDelay = 30 * time.Second
	// How often to look for partitions that other gateways created.
	discoverInterval = time.Second
	// How long a pull waits for messages. A restarted server does not know the pull, so this bounds
	// the delay.
	pullTimeout = 5 * time.Second
	// The maximum number of messages in one pull, and the minimum that a consumer may hold.
	maxPull = 16
	// The wait after an error of the server or the journal.
	retryInterval = 250 * time.Millisecond
)

// consumer pulls the messages of one partition and sends their tasks. It limits the number of
// concurrent sends.
type consumer struct {
	*clusterQueue
	partition    partition
	natsConsumer natsjs.Consumer
	slots        chan struct{} // one token for each send in progress
}

// notifyPartition signals to runConsumers that a partition may have tasks.
func (q *clusterQueue) notifyPartition(p partition) {
	q.mu.Lock()
	_, exists := q.consumers[p]
	q.mu.Unlock()
	if exists {
		return
	}
	select {
	case q.discovered <- p:
	default: // the next discover finds it
	}
}

// runConsumers starts a consumer for every partition with tasks until ctx ends. It returns when all
// consumers have ended.
func (q *clusterQueue) runConsumers(ctx, sendCtx context.Context) error {
	var group errgroup.Group
	err := panics.Restart(ctx, q.cfg.Logger, "search for queued tasks", func(ctx context.Context) error {
		ticker := time.NewTicker(discoverInterval)
		defer ticker.Stop()
		q.discover(ctx, sendCtx, &group)
		for {
			select {
			case p := <-q.discovered:
				q.startConsumer(ctx, sendCtx, &group, p)
			case <-ticker.C:
				q.discover(ctx, sendCtx, &group)
			case <-ctx.Done():
				return nil
			}
		}
	})
	return errors.Join(err, group.Wait())
}

// discover starts a consumer for every partition in the streams.
func (q *clusterQueue) discover(ctx, sendCtx context.Context, group *errgroup.Group) {
	depth, err := q.depth(ctx)
	if err != nil {
		if ctx.Err() == nil {
			q.cfg.Logger.Warn("cannot list queued tasks", "err", err)
		}
		return
	}
	for p := range depth {
		q.startConsumer(ctx, sendCtx, group, p)
	}
}

// startConsumer starts a consumer for a partition unless there is one.
func (q *clusterQueue) startConsumer(ctx, sendCtx context.Context, group *errgroup.Group, p partition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.consumers[p] != nil {
		return
	}
	c := &consumer{clusterQueue: q, partition: p, slots: make(chan struct{}, q.cfg.InFlight)}
	q.consumers[p] = c
	group.Go(func() error { return c.run(ctx, sendCtx) })
}

// run pulls messages until ctx ends. It returns when all pulled messages are acknowledged or
// returned.
func (c *consumer) run(ctx, sendCtx context.Context) error {
	var processing sync.WaitGroup
	defer processing.Wait()
	messageSlots := make(chan struct{}, max(maxPull, c.cfg.InFlight/8))
	return panics.Restart(ctx, c.cfg.Logger, c.taskName(), func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := c.pull(ctx, sendCtx, messageSlots, &processing); err != nil && ctx.Err() == nil {
				c.cfg.Logger.Warn("cannot pull tasks", "app", c.partition.app, "lane", string(c.partition.lane), "err", err)
				c.natsConsumer = nil
				sleep.For(ctx, retryInterval)
			}
		}
		return nil
	})
}

// taskName names the consumer in the log of a panic.
func (c *consumer) taskName() string {
	return "queue of " + c.partition.app + ", lane " + string(c.partition.lane)
}

// guard returns the result of work, or false if it panics.
func (c *consumer) guard(work func() bool) (ok bool) {
	_ = panics.Recover(c.cfg.Logger, c.taskName(), func() error {
		ok = work()
		return nil
	})
	return ok
}

// pull fetches messages and processes each in its own goroutine. It fetches no more than there are
// free slots.
func (c *consumer) pull(ctx, sendCtx context.Context, messageSlots chan struct{}, processing *sync.WaitGroup) error {
	if err := c.ensureConsumer(ctx); err != nil {
		return err
	}
	free := acquireUpTo(ctx, messageSlots, maxPull)
	defer func() {
		for range free {
			<-messageSlots
		}
	}()
	if free == 0 {
		return nil // ctx has ended
	}
	pullCtx, stop := context.WithTimeout(ctx, pullTimeout)
	defer stop()
	batch, err := c.natsConsumer.Fetch(free, natsjs.FetchContext(pullCtx))
	if err != nil {
		return err
	}
	for msg := range batch.Messages() {
		m := c.inFlight.add(msg)
		if m == nil {
			continue
		}
		free--
		processing.Go(func() {
			defer func() { <-messageSlots }()
			defer c.inFlight.remove(m)
			c.settle(ctx, m, c.guard(func() bool { return c.processMessage(ctx, sendCtx, m) }))
		})
	}
	if err := batch.Error(); err != nil && pullCtx.Err() == nil {
		return err
	}
	return nil
}

// acquireUpTo takes up to limit tokens without waiting, but waits for the first.
func acquireUpTo(ctx context.Context, sem chan struct{}, limit int) (acquired int) {
	for acquired < limit && acquire(ctx, sem, acquired == 0) {
		acquired++
	}
	return acquired
}

// acquire takes a token. If wait is set, it waits for one until ctx ends.
func acquire(ctx context.Context, sem chan struct{}, wait bool) bool {
	select {
	case sem <- struct{}{}:
		return true
	default:
	}
	if !wait {
		return false
	}
	select {
	case sem <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// ensureConsumer creates the JetStream consumer unless it exists. Its state is in memory and may be
// lost: the journal decides what is still to be sent.
func (c *consumer) ensureConsumer(ctx context.Context) (err error) {
	if c.natsConsumer != nil {
		return nil
	}
	c.natsConsumer, err = c.js.CreateOrUpdateConsumer(ctx, c.partition.stream, natsjs.ConsumerConfig{
		Durable: c.partition.consumerName(), FilterSubject: c.partition.subject() + ".*", AckPolicy: natsjs.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: -1, MemoryStorage: true,
	})
	if err != nil {
		return fmt.Errorf("queue: consumer: %w", err)
	}
	return nil
}
