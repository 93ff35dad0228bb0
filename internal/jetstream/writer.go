// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/sluice-push/sluice/internal/panics"
)

// Offset is the position of an item: the sequence of its message in the stream, and its index in
// the message. Offsets of one stream are ordered.
type Offset struct {
	Seq   uint64
	Index int
}

// Before reports whether o is before other.
func (o Offset) Before(other Offset) bool {
	return o.Seq < other.Seq || o.Seq == other.Seq && o.Index < other.Index
}

// Writer writes items to a stream in batches. Items of one subject that arrive while the server is
// busy share a batch; an idle writer publishes an item immediately. Append blocks unless Run is
// running. A Writer is safe for concurrent use.
type Writer struct {
	// MapSubject, if not nil, returns the subject and headers under which a batch is published,
	// from the subject of Append and the number of items. Set it before the first Append.
	MapSubject func(subject string, items int) (string, nats.Header)
	// MaxItems limits the number of items in a batch; zero means 100. Larger batches need fewer
	// syncs. Set it before the first Append.
	MaxItems int

	engine *Engine
	stream string

	wake chan struct{} // receives a value when a batch is pending or a write has ended

	mu           sync.Mutex
	open         map[string]*batch // the last pending batch of each subject
	busy         map[string]bool   // subjects with a batch in flight; used with a cluster only
	pending      []*batch          // in the order of creation
	pendingBytes int
	spaceFreed   chan struct{} // closed when pendingBytes decreases; nil if no Append waits
	closed       bool
}

const (
	// Batches in flight: the server prepares the next ones while the disk syncs one.
	maxInFlight = 4
	// Bytes of pending items above which Append blocks.
	maxPendingBytes = 8 << 20
	// How long writes to a cluster without a leader are retried: one election takes up to nine
	// seconds, and this allows for two.
	electionTimeout = 20 * time.Second
	retryInterval   = 250 * time.Millisecond
)

// Writer returns a writer to the stream. It ignores Config.Reserve: see Engine.Admit.
func (e *Engine) Writer(stream string) *Writer {
	return &Writer{engine: e, stream: stream, wake: make(chan struct{}, 1), open: map[string]*batch{}, busy: map[string]bool{}}
}

// Append writes one item, a JSON text without line breaks, and returns its offset when it is synced
// to disk, in a cluster by a majority. Sequential calls keep their order in the stream. After an
// error, including that of ctx, the item may or may not be stored, unless the error is ErrFull.
func (w *Writer) Append(ctx context.Context, subject string, item []byte) (Offset, error) {
	offsets, err := w.AppendAll(ctx, subject, [][]byte{item})
	if err != nil {
		return Offset{}, err
	}
	return offsets[0], nil
}

// AppendAll writes items in order, in as few batches as possible, and returns when all are synced
// to disk. After an error, items with a nonzero Seq in their offset are stored. The others may or
// may not be stored; with ErrFull they are not.
func (w *Writer) AppendAll(ctx context.Context, subject string, items [][]byte) ([]Offset, error) {
	offsets := make([]Offset, len(items))
	if err := w.validate(items); err != nil {
		return offsets, err
	}
	slots, worst := w.enqueue(ctx, subject, items)
	for i, s := range slots {
		select {
		case <-s.batch.done:
		case <-ctx.Done():
			return offsets, ctx.Err()
		}
		offsets[i], worst = Offset{s.batch.seq, s.index}, moreSevere(worst, s.batch.err)
	}
	return offsets, worst
}

// moreSevere returns the error that leaves more unknown: any other error wins over ErrFull.
func moreSevere(a, b error) error {
	if b == nil || a != nil && !errors.Is(a, ErrFull) {
		return a
	}
	return b
}

// validate rejects items that cannot be written before they are queued.
func (w *Writer) validate(items [][]byte) error {
	for _, item := range items {
		if len(item) > maxPayload/2 {
			return ErrTooLarge
		}
		if bytes.IndexByte(item, '\n') >= 0 {
			return errors.New("jetstream: item contains a line break")
		}
	}
	return nil
}

// slot is the position of an item in a batch.
type slot struct {
	batch *batch
	index int
}

// enqueue adds items to pending batches and returns their slots. It blocks while there is no space.
// After an error it returns the slots of the items added so far.
func (w *Writer) enqueue(ctx context.Context, subject string, items [][]byte) ([]slot, error) {
	slots := make([]slot, 0, len(items))
	for {
		var freed <-chan struct{}
		var err error
		if slots, freed, err = w.tryEnqueue(slots, subject, items); freed == nil {
			return slots, err
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return slots, ctx.Err()
		}
	}
}

// tryEnqueue adds the items without a slot. If there is no space for all of them, it also returns a
// channel that is closed when space becomes available.
func (w *Writer) tryEnqueue(slots []slot, subject string, items [][]byte) ([]slot, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return slots, nil, ErrClosed
	}
	for _, item := range items[len(slots):] {
		if w.pendingBytes > maxPendingBytes {
			if w.spaceFreed == nil {
				w.spaceFreed = make(chan struct{})
			}
			return slots, w.spaceFreed, nil
		}
		b := w.open[subject]
		if b == nil || !b.hasRoom(item, w.itemLimit()) {
			b = w.newBatch(subject, items[len(slots):])
		}
		w.pendingBytes += len(item)
		slots = append(slots, slot{b, b.add(item)})
	}
	return slots, nil, nil
}

// itemLimit returns the maximum number of items in a batch.
func (w *Writer) itemLimit() int { return cmp.Or(w.MaxItems, defaultMaxItems) }

// newBatch adds a batch for subject to the pending ones, with capacity for items. The caller holds
// w.mu.
func (w *Writer) newBatch(subject string, items [][]byte) *batch {
	size := 0
	for _, item := range items[:min(len(items), w.itemLimit())] {
		size += len(item) + 1
	}
	b := &batch{subject: subject, done: make(chan struct{}), body: make([]byte, 0, min(size, maxBatchBytes))}
	if !w.engine.Embedded() {
		b.msgID = nuid.Next()
	}
	w.open[subject] = b
	w.pending = append(w.pending, b)
	w.signal()
	return b
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// dequeue removes and returns the first batch that can be published now, or nil. The embedded
// server stores batches in the order in which they are published, and stores none after a failure.
// A cluster may lose one batch and store the next, so a batch waits there until the previous one of
// its subject has ended.
func (w *Writer) dequeue() *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.pending, func(b *batch) bool { return !w.busy[b.subject] })
	if i < 0 {
		return nil
	}
	b := w.pending[i]
	w.pending = slices.Delete(w.pending, i, i+1)
	if !w.engine.Embedded() {
		w.busy[b.subject] = true
	}
	if w.open[b.subject] == b {
		delete(w.open, b.subject)
	}
	w.pendingBytes -= len(b.body) - b.count
	if w.spaceFreed != nil {
		close(w.spaceFreed)
		w.spaceFreed = nil
	}
	return b
}

// Run publishes batches until ctx ends, and then the pending ones. After Run returns, Append
// returns ErrClosed.
func (w *Writer) Run(ctx context.Context) error {
	return panics.Restart(ctx, w.engine.cfg.Logger, w.taskName(), w.run)
}

// taskName names the writer in the log of a panic.
func (w *Writer) taskName() string { return "writer to stream " + w.stream }

func (w *Writer) run(ctx context.Context) error {
	tokens := make(chan struct{}, maxInFlight)
	for {
		tokens <- struct{}{}
		b := w.waitNext(ctx)
		if b == nil {
			break
		}
		w.send(b, func() { <-tokens })
	}
	for range maxInFlight - 1 { // this goroutine holds one token
		tokens <- struct{}{}
	}
	return nil
}

// release allows the next batch of b's subject to be published.
func (w *Writer) release(b *batch) {
	w.mu.Lock()
	delete(w.busy, b.subject)
	w.mu.Unlock()
	w.signal()
}

// waitNext waits for a batch. It closes the writer and returns nil when ctx has ended and no batch
// is pending.
func (w *Writer) waitNext(ctx context.Context) *batch {
	for {
		if b := w.dequeue(); b != nil {
			return b
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			if w.close() {
				return nil
			}
			<-w.wake // the pending batches wait for one in flight
		}
	}
}

// close closes the writer and returns true if no batch is pending.
func (w *Writer) close() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = w.closed || len(w.pending) == 0
	return w.closed
}

// send publishes b before it returns, so batches keep their order. It calls done when the result is
// known. After a panic the result is an error.
func (w *Writer) send(b *batch, done func()) {
	var future natsjs.PubAckFuture
	err := w.recovered(func() (err error) {
		future, err = w.publish(b)
		return err
	})
	go func() {
		defer done()
		defer w.release(b)
		b.err = w.engine.mapError(w.stream, w.recovered(func() error { return w.await(b, future, err) }))
		close(b.done)
	}()
}

func (w *Writer) recovered(work func() error) error {
	return panics.Recover(w.engine.cfg.Logger, w.taskName(), work)
}

// await sets the sequence of b when the server has stored it. In a cluster it publishes b again after a
// transient error.
func (w *Writer) await(b *batch, future natsjs.PubAckFuture, err error) error {
	began := time.Now()
	ack, err := awaitAck(future, err)
	for isTransient(err) && b.msgID != "" && time.Since(began) < electionTimeout {
		time.Sleep(retryInterval)
		ack, err = awaitAck(w.publish(b))
	}
	if err == nil {
		b.seq = ack.Sequence
	}
	return err
}

func (w *Writer) publish(b *batch) (natsjs.PubAckFuture, error) {
	msg := &nats.Msg{Subject: b.subject, Data: b.body}
	if w.MapSubject != nil {
		msg.Subject, msg.Header = w.MapSubject(b.subject, b.count)
	}
	if msg.Header == nil {
		msg.Header = nats.Header{}
	}
	msg.Header.Set(natsjs.ExpectedStreamHeader, w.stream)
	if b.msgID != "" {
		msg.Header.Set(natsjs.MsgIDHeader, b.msgID)
	}
	return w.engine.js.PublishMsgAsync(msg)
}

func awaitAck(future natsjs.PubAckFuture, err error) (*natsjs.PubAck, error) {
	if err != nil {
		return nil, err
	}
	select {
	case ack := <-future.Ok():
		return ack, nil
	case err := <-future.Err():
		return nil, err
	}
}

// isTransient reports whether a cluster may accept the same batch soon: it elects a leader, or the
// client reconnects.
func isTransient(err error) bool {
	return isDisconnected(err) || errors.Is(err, natsjs.ErrAsyncPublishTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, natsjs.ErrNoStreamResponse)
}

// mapError maps an error of the server for a write to a stream to one of this package.
func (e *Engine) mapError(stream string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return ErrTooLarge
	}
	if api, ok := errors.AsType[*natsjs.APIError](err); ok && isFull(api) {
		return fmt.Errorf("%w: %s", ErrFull, stream)
	}
	if e.server != nil && !isDisconnected(err) {
		e.server.recordFailure(err)
	}
	return fmt.Errorf("%w: %w", ErrUnwritable, err)
}

// isDisconnected reports whether the connection is down. With the embedded server that is a restart
// after a failure.
func isDisconnected(err error) bool {
	return errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

// isFull reports whether a stream has reached its limit. The server uses one code for all errors of
// a store, so isFull compares descriptions.
func isFull(err *natsjs.APIError) bool {
	return err.Description == natsserver.ErrMaxBytes.Error() || err.Description == natsserver.ErrMaxMsgs.Error()
}
