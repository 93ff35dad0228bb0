// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
)

const (
	// Chunks that the stream may be ahead of the index in memory; beyond, the tail waits for the index.
	maxAhead = 64
	// Messages that the engine sends without being asked again: a few MB at the most.
	pullMaxMessages = 64
	// How long to wait after a failure before the stream is followed again.
	retryInterval = 250 * time.Millisecond
	// How often to look what the stream keeps no more.
	retentionInterval = 10 * time.Second
)

// message is one message of the stream.
type message struct {
	seq     uint64
	app     string
	body    []byte
	headers []*eventHeader
}

// follow brings what the stream tells into the overlay and then into the index, until ctx ends or something fails.
func (h *History) follow(ctx context.Context) error {
	house, tailing := errgroup.WithContext(ctx)
	from := h.checkpoint // which is project's from here on
	chunks, firsts := make(chan *message, maxAhead), make(chan uint64)
	house.Go(func() error {
		defer close(chunks)
		return h.tail(tailing, from, chunks)
	})
	house.Go(func() error { return h.runIndexer(ctx, chunks, firsts) })
	house.Go(func() error { return h.loadKeys(tailing) })
	house.Go(func() error { return h.watchRetention(tailing, firsts) })
	house.Go(func() error {
		_, _ = h.currentIndex(tailing) // so that Status tells when it has caught up, also if nobody asks
		return nil
	})
	return house.Wait()
}

// watchRetention tells from time to time where the stream begins now, and ends with what a reader met in the index.
func (h *History) watchRetention(ctx context.Context, firsts chan<- uint64) error {
	look := time.NewTicker(retentionInterval)
	defer look.Stop()
	for {
		if info, err := h.stream.Info(ctx); err == nil {
			h.counters.newest.Store(info.State.LastSeq)
			select {
			case firsts <- info.State.FirstSeq:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-h.damageFound:
			return errDamaged
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// recoverFollow makes the index anew where that is what failed, and waits a moment otherwise.
func (h *History) recoverFollow(ctx context.Context, err error) {
	if isDamaged(err) || errors.Is(err, errOutdated) {
		h.cfg.Logger.Warn("history: the index is made anew from the stream", "because", err)
		h.counters.rebuilt.Add(1)
		for err = h.rebuildIndex(ctx, err); err != nil && pause(ctx); err = h.rebuildIndex(ctx, err) {
			h.cfg.Logger.Error("history: the index cannot be made anew; trying again", "err", err)
		}
		return
	}
	h.cfg.Logger.Warn("history: the stream is not being followed; trying again", "err", err)
	pause(ctx)
}

// pause waits a moment, and reports whether there is a next one.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(retryInterval):
		return true
	case <-ctx.Done():
		return false
	}
}

// rebuildIndex takes the file out of the way and opens a new one. Readers wait until that has caught up.
func (h *History) rebuildIndex(ctx context.Context, because error) error {
	old := h.index.Load()
	if err := old.close(); err != nil {
		h.cfg.Logger.Warn("history: closing the index", "err", err)
	}
	select {
	case <-h.damageFound:
	default:
	}
	away := removeIndex
	if isDamaged(because) {
		away = moveAside
	}
	if err := away(old.path); err != nil {
		return fmt.Errorf("%w: %w", because, err)
	}
	h.notifier.reset()
	return h.openIndex(ctx)
}

// tail hears the stream from where the index ended.
func (h *History) tail(ctx context.Context, from checkpoint, chunks chan<- *message) error {
	next, err := h.startSeq(ctx, from)
	if err != nil {
		return err
	}
	consumer, err := h.stream.OrderedConsumer(ctx, natsjs.OrderedConsumerConfig{
		DeliverPolicy: natsjs.DeliverByStartSequencePolicy, OptStartSeq: next,
	})
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	messages, err := consumer.Messages(natsjs.PullMaxMessages(pullMaxMessages))
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(natsjs.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("history: %w", err)
		}
		if err := h.receive(ctx, m, chunks); err != nil {
			return err
		}
	}
}

// startSeq returns the first sequence to hear. A stream that has not what the index has is another one.
func (h *History) startSeq(ctx context.Context, from checkpoint) (next uint64, err error) {
	info, err := h.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("history: %w", err)
	}
	if streamID(info) != from.stream {
		return 0, fmt.Errorf("%w: the stream was made anew", errOutdated)
	}
	if info.State.LastSeq < from.lastSeq {
		return 0, fmt.Errorf("%w: it ends at %d, and the stream at %d", errOutdated, from.lastSeq, info.State.LastSeq)
	}
	if info.State.FirstSeq > from.lastSeq+1 {
		h.overlay.skip(info.State.FirstSeq - 1)
	}
	return max(info.State.FirstSeq, from.lastSeq+1), nil
}

// receive takes one message in.
func (h *History) receive(ctx context.Context, m natsjs.Msg, chunks chan<- *message) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	c := h.parseMessage(meta.Sequence.Stream, m.Subject(), m.Data(), h.overlay.parse)
	h.counters.received.Add(uint64(len(c.headers)))
	h.counters.newest.Store(c.seq + meta.NumPending)
	h.overlay.receive(c.seq, c.headers)
	select {
	case chunks <- c: // also when ctx has just ended: what was told is committed, as long as there is room
		return nil
	default:
	}
	select {
	case chunks <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// parseMessage takes a message apart by parse. An item that is no event is passed over: it must not stop the others.
func (h *History) parseMessage(seq uint64, subject string, body []byte, parse func(jetstream.Offset, []byte) (*eventHeader, error)) *message {
	c := &message{seq: seq, app: appOf(subject), body: body}
	for i, item := range jetstream.Items(body) {
		s, err := parse(jetstream.Offset{Seq: seq, Index: i}, item)
		if err != nil {
			h.cfg.Logger.Error("history: an event is passed over", "err", err)
			continue
		}
		c.headers = append(c.headers, s)
	}
	return c
}
