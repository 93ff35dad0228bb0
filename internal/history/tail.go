// SPDX-License-Identifier: Apache-2.0

package history

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
)

const (
	// Received messages that may wait for the index. Beyond it, tail blocks.
	maxAhead = 64
	// Messages that the server sends in advance: a few MB at most.
	pullMaxMessages = 64
	// After two heartbeats without a message, tail creates a new consumer: the server that had it
	// may have died.
	tailHeartbeat = time.Second
	// The wait after a failure.
	retryInterval = 250 * time.Millisecond
	// How often to check which messages the stream has deleted.
	retentionInterval = 10 * time.Second
)

// message is a message of the stream.
type message struct {
	seq     uint64
	app     string
	body    []byte
	headers []*eventHeader

	fromLog map[int][]byte // in a feed: the records of its app by index, instead of body
}

// items returns the items with their indexes, in order.
func (m *message) items() iter.Seq2[int, []byte] {
	if m.fromLog == nil {
		return jetstream.Items(m.body)
	}
	return func(yield func(int, []byte) bool) {
		for _, i := range slices.Sorted(maps.Keys(m.fromLog)) {
			if !yield(i, m.fromLog[i]) {
				return
			}
		}
	}
}

// follow copies the stream to the overlay and the index, until ctx ends or an error occurs.
func (h *History) follow(ctx context.Context) error {
	group, tailCtx := errgroup.WithContext(ctx)
	run := func(work func() error) {
		group.Go(func() error { return panics.Recover(h.cfg.Logger, "history: index", work) })
	}
	start := h.checkpoint // runIndexer owns h.checkpoint from here on
	messages, oldestSeqs := make(chan *message, maxAhead), make(chan uint64)
	run(func() error {
		defer close(messages)
		return h.tail(tailCtx, start, messages)
	})
	run(func() error { return h.runIndexer(ctx, messages, oldestSeqs) })
	run(func() error { return h.loadKeys(tailCtx) })
	run(func() error { return h.watchRetention(tailCtx, oldestSeqs) })
	run(func() error {
		for tailCtx.Err() == nil { // so that Status.CaughtUp is set even without queries
			if _, err := h.currentIndex(tailCtx); err == nil {
				return nil
			}
		}
		return nil
	})
	return group.Wait()
}

// watchRetention sends the first sequence of the stream at an interval. It returns an error when a
// query finds the index damaged.
func (h *History) watchRetention(ctx context.Context, oldestSeqs chan<- uint64) error {
	ticker := time.NewTicker(retentionInterval)
	defer ticker.Stop()
	for {
		if info, err := h.stream.Info(ctx); err == nil {
			h.counters.newest.Store(info.State.LastSeq)
			select {
			case oldestSeqs <- info.State.FirstSeq:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-h.damageFound:
			return errDamaged
		case <-h.trimmed:
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// recoverFollow rebuilds the index if it is damaged or outdated, and otherwise waits before the
// next follow.
func (h *History) recoverFollow(ctx context.Context, err error) {
	if isDamaged(err) || errors.Is(err, errOutdated) {
		h.cfg.Logger.Warn("rebuilding the index from the stream", "err", err)
		h.counters.indexRebuilds.Add(1)
		for err = h.rebuildIndex(ctx, err); err != nil && pause(ctx); err = h.rebuildIndex(ctx, err) {
			h.cfg.Logger.Error("cannot rebuild the index; retrying", "err", err)
		}
		return
	}
	h.cfg.Logger.Warn("cannot read the stream; retrying", "err", err)
	pause(ctx)
}

// pause waits for retryInterval and returns true, or returns false when ctx ends.
func pause(ctx context.Context) bool {
	select {
	case <-time.After(retryInterval):
		return true
	case <-ctx.Done():
		return false
	}
}

// rebuildIndex removes the database, or moves it aside if it is damaged, and opens an empty one.
// Queries wait until it has caught up.
func (h *History) rebuildIndex(ctx context.Context, cause error) error {
	old := h.index.Load()
	if err := old.close(); err != nil {
		h.cfg.Logger.Warn("cannot close the index", "err", err)
	}
	select {
	case <-h.damageFound:
	default:
	}
	discard := removeIndex
	if isDamaged(cause) {
		discard = moveAside
	}
	if err := discard(old.path); err != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	h.notifier.reset()
	return h.openIndex(ctx)
}

// tail reads the stream from the end of the index on.
func (h *History) tail(ctx context.Context, start checkpoint, messages chan<- *message) error {
	next, err := h.startSeq(ctx, start)
	if err != nil {
		return err
	}
	consumer, err := h.stream.OrderedConsumer(ctx, natsjs.OrderedConsumerConfig{
		DeliverPolicy: natsjs.DeliverByStartSequencePolicy, OptStartSeq: next,
	})
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	iterator, err := consumer.Messages(natsjs.PullMaxMessages(pullMaxMessages), natsjs.PullHeartbeat(tailHeartbeat))
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	defer iterator.Stop()
	for {
		m, err := iterator.Next(natsjs.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("history: %w", err)
		}
		if err := h.receive(ctx, m, messages); err != nil {
			return err
		}
	}
}

// startSeq returns the first sequence to read. It returns errOutdated if the index belongs to
// another stream.
func (h *History) startSeq(ctx context.Context, cp checkpoint) (next uint64, err error) {
	info, err := h.streamInfo(ctx)
	if err != nil {
		return 0, err
	}
	if streamID(info) != cp.stream {
		return 0, fmt.Errorf("%w: the stream was recreated", errOutdated)
	}
	if info.State.LastSeq < cp.lastSeq {
		return 0, fmt.Errorf("%w: it ends at %d, the stream at %d", errOutdated, cp.lastSeq, info.State.LastSeq)
	}
	if info.State.FirstSeq > cp.lastSeq+1 {
		h.overlay.skip(info.State.FirstSeq - 1)
	}
	return max(info.State.FirstSeq, cp.lastSeq+1), nil
}

// receive adds a message to the overlay and passes it to the indexer.
func (h *History) receive(ctx context.Context, m natsjs.Msg, messages chan<- *message) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	msg := h.parseMessage(meta.Sequence.Stream, m.Subject(), m.Data(), h.overlay.parse)
	h.counters.received.Add(uint64(len(msg.headers)))
	h.counters.newest.Store(msg.seq + meta.NumPending)
	h.overlay.receive(msg.seq, msg.headers)
	select {
	case messages <- msg: // even if ctx has ended: a received message is committed if there is room
		return nil
	default:
	}
	select {
	case messages <- msg:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// parseMessage parses the events of a message. It logs and skips invalid ones, and those that parse
// panics for: the index of all other events must go on.
func (h *History) parseMessage(seq uint64, subject string, body []byte, parse func(jetstream.Offset, []byte) (*eventHeader, error)) *message {
	m := &message{seq: seq, app: appOf(subject), body: body}
	for i, item := range jetstream.Items(body) {
		var hdr *eventHeader
		err := panics.Recover(h.cfg.Logger, "history: parse an event", func() (err error) {
			hdr, err = parse(jetstream.Offset{Seq: seq, Index: i}, item)
			return err
		})
		if err != nil {
			h.cfg.Logger.Error("invalid event skipped", "err", err)
			continue
		}
		m.headers = append(m.headers, hdr)
	}
	return m
}
