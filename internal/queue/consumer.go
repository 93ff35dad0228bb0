// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"context"
	"fmt"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

const (
	// A chunk that shows no sign of life for so long is given to another gateway.
	ackWait            = 6 * time.Second
	inProgressInterval = ackWait / 4
	// How often the streams are looked at for sources that others have begun.
	discoverInterval = time.Second
	// How long one pull waits for chunks: so long nobody notices that the engine was opened anew and knows no pull of ours.
	pullTimeout = 5 * time.Second
	// Chunks that a flow holds at most, and the most that it asks for at a time.
	maxPull = 16
	// How long a flow rests after an error of the engine's, or of the journal's.
	retryInterval = 250 * time.Millisecond
)

// consumer takes the chunks of one source and has their tasks sent, so many at a time.
type consumer struct {
	*Queue
	partition    partition
	natsConsumer natsjs.Consumer
	slots        chan struct{} // one for each task that is in the Sender's hands
}

// notifyPartition tells the queue that there may be something at s.
func (q *Queue) notifyPartition(s partition) {
	q.mu.Lock()
	_, known := q.consumers[s]
	q.mu.Unlock()
	if known {
		return
	}
	select {
	case q.discovered <- s:
	default: // the next look will find it
	}
}

// runConsumers makes a flow for every source that has something, until ctx ends, and returns when all flows have ended.
func (q *Queue) runConsumers(ctx, sending context.Context) error {
	var flows errgroup.Group
	look := time.NewTicker(discoverInterval)
	defer look.Stop()
	q.discover(ctx, sending, &flows)
	for {
		select {
		case s := <-q.discovered:
			q.startConsumer(ctx, sending, &flows, s)
		case <-look.C:
			q.discover(ctx, sending, &flows)
		case <-ctx.Done():
			return flows.Wait()
		}
	}
}

// discover begins a flow for every source in the streams.
func (q *Queue) discover(ctx, sending context.Context, flows *errgroup.Group) {
	depth, err := q.depth(ctx)
	if err != nil {
		if ctx.Err() == nil {
			q.cfg.Logger.Warn("queue: cannot see what waits", "err", err)
		}
		return
	}
	for s := range depth {
		q.startConsumer(ctx, sending, flows, s)
	}
}

// startConsumer begins a flow for s, unless there is one.
func (q *Queue) startConsumer(ctx, sending context.Context, flows *errgroup.Group, s partition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.consumers[s] != nil {
		return
	}
	f := &consumer{Queue: q, partition: s, slots: make(chan struct{}, q.cfg.InFlight)}
	q.consumers[s] = f
	flows.Go(func() error { return f.run(ctx, sending) })
}

// run takes chunks until ctx ends, and returns when all that it took have been let go of.
func (f *consumer) run(ctx, sending context.Context) error {
	var chunks sync.WaitGroup
	defer chunks.Wait()
	room := make(chan struct{}, max(maxPull, f.cfg.InFlight/8))
	for ctx.Err() == nil {
		if err := f.pull(ctx, sending, room, &chunks); err != nil && ctx.Err() == nil {
			f.cfg.Logger.Warn("queue: cannot take from the engine", "app", f.partition.app, "lane", string(f.partition.lane), "err", err)
			f.natsConsumer = nil
			sleep(ctx, retryInterval)
		}
	}
	return nil
}

// pull asks for some chunks and has each worked on as it comes. It never holds more than there is room for.
func (f *consumer) pull(ctx, sending context.Context, room chan struct{}, chunks *sync.WaitGroup) error {
	if err := f.ensureConsumer(ctx); err != nil {
		return err
	}
	free := acquireUpTo(ctx, room, maxPull)
	defer func() {
		for range free {
			<-room
		}
	}()
	if free == 0 {
		return nil // ctx has ended
	}
	pulling, stop := context.WithTimeout(ctx, pullTimeout)
	defer stop()
	batch, err := f.natsConsumer.Fetch(free, natsjs.FetchContext(pulling))
	if err != nil {
		return err
	}
	for msg := range batch.Messages() {
		h := f.inFlight.add(msg)
		if h == nil {
			continue
		}
		free--
		chunks.Go(func() {
			defer func() { <-room }()
			defer f.inFlight.remove(h)
			f.processMessage(ctx, sending, h)
		})
	}
	if err := batch.Error(); err != nil && pulling.Err() == nil {
		return err
	}
	return nil
}

// acquireUpTo takes as many places as there are, up to most; if there is none, it waits for one.
func acquireUpTo(ctx context.Context, room chan struct{}, most int) (taken int) {
	for taken < most && acquire(ctx, room, taken == 0) {
		taken++
	}
	return taken
}

// acquire takes a place, and waits for it if asked to.
func acquire(ctx context.Context, room chan struct{}, wait bool) bool {
	select {
	case room <- struct{}{}:
		return true
	default:
	}
	if !wait {
		return false
	}
	select {
	case room <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// ensureConsumer finds or makes the flow's consumer. It lives in the engine's memory: what it knows is worth nothing to another
// process, for what has not ended is looked up in the journal.
func (f *consumer) ensureConsumer(ctx context.Context) (err error) {
	if f.natsConsumer != nil {
		return nil
	}
	f.natsConsumer, err = f.js.CreateOrUpdateConsumer(ctx, f.partition.stream, natsjs.ConsumerConfig{
		Durable: f.partition.consumerName(), FilterSubject: f.partition.subject() + ".*", AckPolicy: natsjs.AckExplicitPolicy,
		AckWait: ackWait, MaxAckPending: -1, MemoryStorage: true,
	})
	if err != nil {
		return fmt.Errorf("queue: consumer: %w", err)
	}
	return nil
}

// sleep waits a while.
func sleep(ctx context.Context, wait time.Duration) bool {
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
