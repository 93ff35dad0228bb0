// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/engine"
)

const (
	// Chunks that the stream may be ahead of the index in memory; beyond, the tail waits for the index.
	ahead = 64
	// Messages that the engine sends without being asked again: a few MB at the most.
	pullAtOnce = 64
	// How long to wait after a failure before the stream is followed again.
	followAgain = 250 * time.Millisecond
	// How often to look what the stream keeps no more.
	lookAgain = 10 * time.Second
)

// chunk is one message of the stream.
type chunk struct {
	seq   uint64
	app   string
	body  []byte
	steps []*step
}

// follow brings what the stream tells into the overlay and then into the index, until ctx ends or something fails.
func (h *History) follow(ctx context.Context) error {
	house, tailing := errgroup.WithContext(ctx)
	from := h.mark // which is project's from here on
	chunks, firsts := make(chan *chunk, ahead), make(chan uint64)
	house.Go(func() error {
		defer close(chunks)
		return h.tail(tailing, from, chunks)
	})
	house.Go(func() error { return h.project(ctx, chunks, firsts) })
	house.Go(func() error { return h.recall(tailing) })
	house.Go(func() error { return h.watch(tailing, firsts) })
	house.Go(func() error {
		_, _ = h.current(tailing) // so that Status tells when it has caught up, also if nobody asks
		return nil
	})
	return house.Wait()
}

// watch tells from time to time where the stream begins now, and ends with what a reader met in the index.
func (h *History) watch(ctx context.Context, firsts chan<- uint64) error {
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		if info, err := h.stream.Info(ctx); err == nil {
			h.counts.newest.Store(info.State.LastSeq)
			select {
			case firsts <- info.State.FirstSeq:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-h.hurt:
			return errDamaged
		case <-look.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// recover makes the index anew where that is what failed, and waits a moment otherwise.
func (h *History) recover(ctx context.Context, err error) {
	if damaged(err) || errors.Is(err, errOutdated) {
		h.cfg.Logger.Warn("history: the index is made anew from the stream", "because", err)
		h.counts.rebuilt.Add(1)
		for err = h.remake(ctx, err); err != nil && pause(ctx); err = h.remake(ctx, err) {
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
	case <-time.After(followAgain):
		return true
	case <-ctx.Done():
		return false
	}
}

// remake takes the file out of the way and opens a new one. Readers wait until that has caught up.
func (h *History) remake(ctx context.Context, because error) error {
	old := h.index.Load()
	if err := old.close(); err != nil {
		h.cfg.Logger.Warn("history: closing the index", "err", err)
	}
	select {
	case <-h.hurt:
	default:
	}
	away := removeIndex
	if damaged(because) {
		away = moveAside
	}
	if err := away(old.path); err != nil {
		return fmt.Errorf("%w: %w", because, err)
	}
	h.tide.ebb()
	return h.openIndex(ctx)
}

// tail hears the stream from where the index ended.
func (h *History) tail(ctx context.Context, from mark, chunks chan<- *chunk) error {
	next, err := h.begin(ctx, from)
	if err != nil {
		return err
	}
	consumer, err := h.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: next,
	})
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(pullAtOnce))
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("history: %w", err)
		}
		if err := h.hear(ctx, m, chunks); err != nil {
			return err
		}
	}
}

// begin returns the first sequence to hear. A stream that has not what the index has is another one.
func (h *History) begin(ctx context.Context, from mark) (next uint64, err error) {
	info, err := h.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("history: %w", err)
	}
	if identity(info) != from.stream {
		return 0, fmt.Errorf("%w: the stream was made anew", errOutdated)
	}
	if info.State.LastSeq < from.last {
		return 0, fmt.Errorf("%w: it ends at %d, and the stream at %d", errOutdated, from.last, info.State.LastSeq)
	}
	if info.State.FirstSeq > from.last+1 {
		h.overlay.skip(info.State.FirstSeq - 1)
	}
	return max(info.State.FirstSeq, from.last+1), nil
}

// hear takes one message in.
func (h *History) hear(ctx context.Context, m jetstream.Msg, chunks chan<- *chunk) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	c := h.read(meta.Sequence.Stream, m.Subject(), m.Data(), h.overlay.own)
	h.counts.told.Add(uint64(len(c.steps)))
	h.counts.newest.Store(c.seq + meta.NumPending)
	h.overlay.tell(c.seq, c.steps)
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

// read takes a message apart by parse. An item that is no event is passed over: it must not stop the others.
func (h *History) read(seq uint64, subject string, body []byte, parse func(engine.Place, []byte) (*step, error)) *chunk {
	c := &chunk{seq: seq, app: appOf(subject), body: body}
	for i, item := range engine.Items(body) {
		s, err := parse(engine.Place{Seq: seq, Index: i}, item)
		if err != nil {
			h.cfg.Logger.Error("history: an event is passed over", "err", err)
			continue
		}
		c.steps = append(c.steps, s)
	}
	return c
}
