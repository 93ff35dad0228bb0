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

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Offset is where an item stands: its chunk's sequence in the stream, and its index in the chunk. Of two items of one stream
// the one with the lower place came first.
type Offset struct {
	Seq   uint64
	Index int
}

// Before reports whether p came before q.
func (p Offset) Before(q Offset) bool { return p.Seq < q.Seq || p.Seq == q.Seq && p.Index < q.Index }

// Writer writes items to a stream. Those of one subject that come while it is busy are written together: one fsync for all
// of them, and no wait where nothing else is being written. Run has to run. Any number of goroutines may use it.
type Writer struct {
	// Address, if not nil, says under which subject and with which headers a chunk of so many items is written that was
	// appended for a subject. It is to be set before the first Append.
	MapSubject func(subject string, items int) (string, nats.Header)
	// Items is how many one chunk holds at most; zero is 100. More of them save syncs where no chunk is worked off as a
	// whole. It is to be set before the first Append.
	MaxItems int

	engine         *Engine
	stream         string
	respectReserve bool

	wake chan struct{} // there is a chunk in line, or one has been written

	mu           sync.Mutex
	open         map[string]*batch // the last of each subject, while it takes items
	busy         map[string]bool   // in a cluster, the subjects of which a chunk is being written
	pending      []*batch          // in the order in which they were begun
	pendingBytes int               // bytes in line
	spaceFreed   chan struct{}     // closed when some have left; nil while nobody waits
	closed       bool
}

const (
	// Chunks that are being written at a time: the engine packs and parses the next ones while the disk is at one.
	maxInFlight = 4
	// Bytes that may wait in line; beyond, Append waits.
	maxPendingBytes = 8 << 20
	// How long a cluster may be without a leader before its writers are told: an election takes up to nine seconds, and the
	// next one as long.
	electionTimeout = 20 * time.Second
	retryInterval   = 250 * time.Millisecond
)

// Writer returns a writer to the stream of that name. One that yields is refused as soon as the disk comes to its reserve;
// the others may use that up.
func (e *Engine) Writer(stream string, yields bool) *Writer {
	return &Writer{engine: e, stream: stream, respectReserve: yields, wake: make(chan struct{}, 1), open: map[string]*batch{}, busy: map[string]bool{}}
}

// Append writes item, one JSON text on one line, and returns its place when it is on disk: synced, in a cluster on a
// majority. Items appended one after the other to one stream come in that order. After an error, ctx's end included, the
// item may be there or not.
func (w *Writer) Append(ctx context.Context, subject string, item []byte) (Offset, error) {
	places, err := w.AppendAll(ctx, subject, [][]byte{item})
	if err != nil {
		return Offset{}, err
	}
	return places[0], nil
}

// AppendAll writes items in their order, together in one chunk as far as it has room, and returns when all of them are on
// disk. After an error the places tell which are: those that have a sequence. Of the others any may be there, unless the
// error is ErrFull: then none is.
func (w *Writer) AppendAll(ctx context.Context, subject string, items [][]byte) ([]Offset, error) {
	places := make([]Offset, len(items))
	if err := w.validate(items); err != nil {
		return places, err
	}
	spots, failed := w.enqueue(ctx, subject, items)
	for i, s := range spots {
		select {
		case <-s.batch.done:
		case <-ctx.Done():
			return places, ctx.Err()
		}
		places[i], failed = Offset{s.batch.seq, s.index}, moreSevere(failed, s.batch.err)
	}
	return places, failed
}

// moreSevere is the error that promises less.
func moreSevere(a, b error) error {
	if b == nil || a != nil && !errors.Is(a, ErrFull) {
		return a
	}
	return b
}

// validate refuses early what would fail late.
func (w *Writer) validate(items [][]byte) error {
	for _, item := range items {
		if len(item) > maxPayload/2 {
			return ErrTooLarge
		}
		if bytes.IndexByte(item, '\n') >= 0 {
			return errors.New("engine: an item must stand on one line")
		}
	}
	if !w.respectReserve {
		return nil
	}
	return w.engine.Ready()
}

// slot is where an item will stand.
type slot struct {
	batch *batch
	index int
}

// enqueue puts items in line, when there is room, and returns where. After an error that is where the first of them will stand.
func (w *Writer) enqueue(ctx context.Context, subject string, items [][]byte) ([]slot, error) {
	spots := make([]slot, 0, len(items))
	for {
		var room <-chan struct{}
		var err error
		if spots, room, err = w.tryEnqueue(spots, subject, items); room == nil {
			return spots, err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return spots, ctx.Err()
		}
	}
}

// tryEnqueue puts those items in line that have no spot yet, or as many as there is room for, and then returns what tells of
// more room.
func (w *Writer) tryEnqueue(spots []slot, subject string, items [][]byte) ([]slot, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return spots, nil, ErrClosed
	}
	for _, item := range items[len(spots):] {
		if w.pendingBytes > maxPendingBytes {
			if w.spaceFreed == nil {
				w.spaceFreed = make(chan struct{})
			}
			return spots, w.spaceFreed, nil
		}
		c := w.open[subject]
		if c == nil || !c.hasRoom(item, w.itemLimit()) {
			c = w.newBatch(subject, items[len(spots):])
		}
		w.pendingBytes += len(item)
		spots = append(spots, slot{c, c.add(item)})
	}
	return spots, nil, nil
}

// itemLimit is how many items a chunk holds at most.
func (w *Writer) itemLimit() int { return cmp.Or(w.MaxItems, defaultMaxItems) }

// newBatch puts a new chunk in line, with room for what is to come first. w.mu is held.
func (w *Writer) newBatch(subject string, first [][]byte) *batch {
	size := 0
	for _, item := range first[:min(len(first), w.itemLimit())] {
		size += len(item) + 1
	}
	c := &batch{subject: subject, done: make(chan struct{}), body: make([]byte, 0, min(size, maxBatchBytes))}
	if !w.engine.Embedded() {
		c.msgID = nuid.Next()
	}
	w.open[subject] = c
	w.pending = append(w.pending, c)
	w.signal()
	return c
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// dequeue takes the first chunk out of line that may be written now, nil if there is none. An engine in this process takes
// chunks in the order in which they were sent, and none after it has failed. A cluster may lose one and take the next, so
// there a chunk waits until the one before it of the same subject has come to its end.
func (w *Writer) dequeue() *batch {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.pending, func(c *batch) bool { return !w.busy[c.subject] })
	if i < 0 {
		return nil
	}
	c := w.pending[i]
	w.pending = slices.Delete(w.pending, i, i+1)
	if !w.engine.Embedded() {
		w.busy[c.subject] = true
	}
	if w.open[c.subject] == c {
		delete(w.open, c.subject)
	}
	w.pendingBytes -= len(c.body) - c.count
	if w.spaceFreed != nil {
		close(w.spaceFreed)
		w.spaceFreed = nil
	}
	return c
}

// Run writes until ctx ends, then what is still in line, and returns when that is done. From then on Append returns
// ErrClosed.
func (w *Writer) Run(ctx context.Context) error {
	slots := make(chan struct{}, maxInFlight)
	for {
		slots <- struct{}{}
		c := w.waitNext(ctx)
		if c == nil {
			break
		}
		w.send(c, func() { <-slots })
	}
	for range maxInFlight - 1 { // one is ours
		slots <- struct{}{}
	}
	return nil
}

// release lets the next chunk of the subject go.
func (w *Writer) release(c *batch) {
	w.mu.Lock()
	delete(w.busy, c.subject)
	w.mu.Unlock()
	w.signal()
}

// waitNext waits for a chunk. It returns nil when ctx has ended and the line is empty, and has closed the writer then.
func (w *Writer) waitNext(ctx context.Context) *batch {
	for {
		if c := w.dequeue(); c != nil {
			return c
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			if w.close() {
				return nil
			}
			<-w.wake // what is in line waits for what is being written
		}
	}
}

// close closes the writer if nothing waits.
func (w *Writer) close() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = w.closed || len(w.pending) == 0
	return w.closed
}

// send sends c off, before it returns, so that chunks keep their order; done is called when its end is known.
func (w *Writer) send(c *batch, done func()) {
	future, err := w.publish(c)
	go func() {
		defer done()
		defer w.release(c)
		began := time.Now()
		ack, err := awaitAck(future, err)
		for isTransient(err) && c.msgID != "" && time.Since(began) < electionTimeout {
			time.Sleep(retryInterval)
			ack, err = awaitAck(w.publish(c))
		}
		if err == nil {
			c.seq = ack.Sequence
		}
		c.err = w.mapError(err)
		close(c.done)
	}()
}

func (w *Writer) publish(c *batch) (natsjs.PubAckFuture, error) {
	msg := &nats.Msg{Subject: c.subject, Data: c.body}
	if w.MapSubject != nil {
		msg.Subject, msg.Header = w.MapSubject(c.subject, c.count)
	}
	if msg.Header == nil {
		msg.Header = nats.Header{}
	}
	msg.Header.Set(natsjs.ExpectedStreamHeader, w.stream)
	if c.msgID != "" {
		msg.Header.Set(natsjs.MsgIDHeader, c.msgID)
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

// isTransient reports whether a cluster may take the same chunk in a moment: it is between two leaders, or we between two of
// its servers.
func isTransient(err error) bool {
	return isDisconnected(err) || errors.Is(err, natsjs.ErrAsyncPublishTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, natsjs.ErrNoStreamResponse)
}

// mapError turns what the engine said into one of our errors.
func (w *Writer) mapError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, nats.ErrMaxPayload) {
		return ErrTooLarge
	}
	if api, ok := errors.AsType[*natsjs.APIError](err); ok && isFull(api) {
		return fmt.Errorf("%w: %s", ErrFull, w.stream)
	}
	if w.engine.server != nil && !isDisconnected(err) {
		w.engine.server.recordFailure(err)
	}
	return fmt.Errorf("%w: %w", ErrUnwritable, err)
}

// isDisconnected reports whether the engine is being opened anew: it has failed already.
func isDisconnected(err error) bool {
	return errors.Is(err, nats.ErrDisconnected) || errors.Is(err, nats.ErrReconnectBufExceeded)
}

// isFull reports whether a stream has reached its bound. The engine has one number for all failures of a store, and tells
// them apart by their words.
func isFull(err *natsjs.APIError) bool {
	return err.Description == "maximum bytes exceeded" || err.Description == "maximum messages exceeded"
}
