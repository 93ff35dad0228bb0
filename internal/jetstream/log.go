// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
)

const (
	// The size of a group commit, unless a single record is larger.
	maxGroupBytes = 512 << 10
	// How long records that nothing waits for can wait for others.
	groupDelay = 5 * time.Millisecond
	// How long Run tries to write pending records after its context has ended.
	closeTimeout = 10 * time.Second
)

// Log is a stream of the embedded server with one writer, this process. All records that arrive
// while the disk is busy are stored together, as one message and with one sync: a group commit. A
// group is written again after a failure until it is known to be stored, so that the result of a
// write is known as long as the process lives. A Log is safe for concurrent use. Append blocks unless
// Run is running.
type Log struct {
	engine    *Engine
	stream    natsjs.Stream
	subject   string
	observers atomic.Pointer[[]func(*Message)]
	keeper    atomic.Pointer[Keeper]
	cache     *messageCache

	lastSeq atomic.Uint64 // the last stored message
	wake    chan struct{} // receives a value when there is something to write

	mu      sync.Mutex
	writing *group   // being written, or nil
	groups  []*group // to be written next, in order; records are added to the last
	pending int      // bytes of groups
	written int      // bytes of the last group that was written
	freed   chan struct{}
	closed  bool
}

// Record is an item of a Log.
type Record struct {
	Data []byte
	// Tag is passed to the observers with the record. It is not stored.
	Tag any
}

// Message is a stored group of records.
type Message struct {
	Seq uint64
	// Records are the records by index. The Data of a damaged record is nil. Observers may keep them.
	Records []Record
}

// group is a list of records that are written together.
type group struct {
	body    []byte
	records []groupRecord
	urgent  bool // a caller waits for it
	since   time.Time

	done chan struct{} // closed when seq or err is set
	seq  uint64
	err  error
}

// errOtherWriter means that another process has written to the log.
var errOtherWriter = fmt.Errorf("%w: another process has written to the log", ErrUnwritable)

// ErrNotAdded means that nothing was added to the log, because of ErrTooLarge or ErrClosed, or because
// the context ended first.
var ErrNotAdded = errors.New("jetstream: not added to the log")

// groupRecord is a record in the body of a group.
type groupRecord struct {
	start, end int
	tag        any
}

// ErrDeleted means that a message is not in the log, because it was deleted or damaged.
var ErrDeleted = errors.New("jetstream: message is deleted")

// Log creates or opens a stream that has no other writer, and returns its log. The records are stored
// under one subject of the stream. It works only with the embedded server.
func (e *Engine) Log(ctx context.Context, cfg natsjs.StreamConfig, subject string) (*Log, error) {
	if !e.Embedded() {
		return nil, errors.New("jetstream: a log needs an embedded server")
	}
	cfg.AllowDirect = true
	stream, err := e.Stream(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l := &Log{engine: e, stream: stream, subject: subject, wake: make(chan struct{}, 1)}
	l.lastSeq.Store(stream.CachedInfo().State.LastSeq)
	l.cache = newMessageCache(l.read)
	return l, nil
}

// Observe makes the log call f for each message that is stored after the call, in order, before the
// calls of Append that wrote it return. f must not block on the log.
func (l *Log) Observe(f func(*Message)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	observers := []func(*Message){}
	if old := l.observers.Load(); old != nil {
		observers = append(observers, *old...)
	}
	observers = append(observers, f)
	l.observers.Store(&observers)
}

// ID identifies the stream. A stream that was created again has a different ID.
func (l *Log) ID() string { return strconv.FormatInt(l.stream.CachedInfo().Created.UnixNano(), 36) }

// Keeper needs messages of a Log.
type Keeper interface {
	// OldestSeq returns the first message that is needed, or the maximum.
	OldestSeq() uint64
	// Rewrite appends the records that are needed and in messages before seq again, so that these
	// messages are not needed any more. It may leave some or, if they have more than limit bytes, all of them.
	Rewrite(ctx context.Context, seq uint64, limit int64) error
}

// Keep makes Delete keep the messages that k needs.
func (l *Log) Keep(k Keeper) { l.keeper.Store(&k) }

// Deletable returns seq, or the first message to keep if that is before it.
func (l *Log) Deletable(seq uint64) uint64 {
	if k := l.keeper.Load(); k != nil {
		seq = min(seq, (*k).OldestSeq())
	}
	return seq
}

// Rewrite calls Keeper.Rewrite, if there is a keeper.
func (l *Log) Rewrite(ctx context.Context, seq uint64, limit int64) error {
	if k := l.keeper.Load(); k != nil {
		return (*k).Rewrite(ctx, seq, limit)
	}
	return nil
}

// Delete deletes the messages before seq, except for those to keep.
func (l *Log) Delete(ctx context.Context, seq uint64) error {
	seq = l.Deletable(seq)
	if seq <= 1 {
		return nil
	}
	if err := l.stream.Purge(ctx, natsjs.WithPurgeSequence(seq)); err != nil {
		return fmt.Errorf("jetstream: %w", err)
	}
	return nil
}

// Stream returns the stream.
func (l *Log) Stream() natsjs.Stream { return l.stream }

// LastSeq returns the sequence of the last stored message. The observers have got it.
func (l *Log) LastSeq() uint64 { return l.lastSeq.Load() }

// Append adds records to the log, in order, and returns their offsets when all of them are on disk.
// After an error they will be stored, unless it is ErrNotAdded or the process ends.
func (l *Log) Append(ctx context.Context, records ...Record) ([]Offset, error) {
	slots, err := l.enqueue(ctx, records, true)
	if err != nil {
		return nil, err
	}
	offsets := make([]Offset, 0, len(records))
	for _, s := range slots {
		select {
		case <-s.group.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if s.group.err != nil {
			return nil, s.group.err
		}
		for i := range s.count {
			offsets = append(offsets, Offset{s.group.seq, s.index + i})
		}
	}
	return offsets, nil
}

// AppendAsync adds records to the log, in order, and does not wait until they are stored: they are
// within a few milliseconds, if the disk can be written. It blocks while too much waits to be
// written. The error is ErrNotAdded.
func (l *Log) AppendAsync(ctx context.Context, records ...Record) error {
	_, err := l.enqueue(ctx, records, false)
	return err
}

// logSlot is the place of consecutive records in a group.
type logSlot struct {
	group        *group
	index, count int
}

// enqueue adds all records, or none if there is an error.
func (l *Log) enqueue(ctx context.Context, records []Record, urgent bool) ([]logSlot, error) {
	for _, r := range records {
		if len(r.Data) > maxPayload/2 {
			return nil, fmt.Errorf("%w: %w", ErrNotAdded, ErrTooLarge)
		}
	}
	for ctx.Err() == nil {
		slots, freed, err := l.tryEnqueue(records, urgent)
		if freed == nil {
			return slots, err
		}
		select {
		case <-freed:
		case <-ctx.Done():
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrNotAdded, ctx.Err())
}

// tryEnqueue adds the records. If there is no space, it returns a channel that is closed when space
// becomes available.
func (l *Log) tryEnqueue(records []Record, urgent bool) (slots []logSlot, freed <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotAdded, ErrClosed)
	}
	if l.pending > maxPendingBytes {
		if l.freed == nil {
			l.freed = make(chan struct{})
		}
		return nil, l.freed, nil
	}
	for len(records) > 0 {
		slot := l.addToGroup(records, urgent)
		slots, records = append(slots, slot), records[slot.count:]
	}
	return slots, nil, nil
}

// addToGroup adds the first records to the last group. The caller holds l.mu.
func (l *Log) addToGroup(records []Record, urgent bool) logSlot {
	g := l.lastGroup(len(records[0].Data))
	slot, before := logSlot{group: g, index: len(g.records)}, len(g.body)
	for _, r := range records {
		if len(g.records) > 0 && len(g.body)+len(r.Data) > maxGroupBytes {
			break
		}
		g.body = appendRecord(g.body, r.Data)
		g.records = append(g.records, groupRecord{len(g.body) - len(r.Data), len(g.body), r.Tag})
		slot.count++
	}
	if slot.index == 0 || urgent && !g.urgent { // otherwise Run knows when to write it
		l.signal()
	}
	g.urgent = g.urgent || urgent
	l.pending += len(g.body) - before
	return slot
}

// lastGroup returns the group to which a record of a size is added. The caller holds l.mu.
func (l *Log) lastGroup(size int) *group {
	if n := len(l.groups); n > 0 {
		if g := l.groups[n-1]; len(g.body)+size <= maxGroupBytes {
			return g
		}
	}
	g := &group{body: make([]byte, 1, max(4096, size+16, l.written)), done: make(chan struct{}), since: time.Now()}
	g.body[0] = recordFormat
	l.groups = append(l.groups, g)
	return g
}

// Pending calls f with the data of each record that was appended and has not got to the observers, in
// order.
func (l *Log) Pending(f func(data []byte)) {
	l.mu.Lock()
	groups := make([]group, 0, 1+len(l.groups))
	if l.writing != nil {
		groups = append(groups, group{body: l.writing.body, records: l.writing.records})
	}
	for _, g := range l.groups {
		groups = append(groups, group{body: g.body, records: g.records})
	}
	l.mu.Unlock()
	for _, g := range groups {
		for _, r := range g.records {
			f(g.body[r.start:r.end])
		}
	}
}

func (l *Log) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run writes groups until ctx ends, and then the pending ones, for at most ten seconds. The engine must
// run until Run returns. Afterwards, Append returns ErrClosed.
func (l *Log) Run(ctx context.Context) error {
	writeCtx, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, giveUp) })()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		g, wait := l.dequeue(ctx.Err() != nil)
		if g != nil {
			if err := l.write(writeCtx, g); err != nil {
				l.engine.cfg.Logger.Error("the log is closed", "err", err)
				l.fail(g, err)
				return err
			}
			continue
		}
		if wait < 0 {
			return nil
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-l.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// dequeue removes and returns the next group to write. If there is none, it returns for how long it
// can wait for one, or zero if that is not known. If the log closes and nothing is pending, it
// returns a negative time.
func (l *Log) dequeue(closing bool) (g *group, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.groups) == 0 {
		l.closed = closing
		if closing {
			return nil, -1
		}
		return nil, 0
	}
	g = l.groups[0]
	if wait = groupDelay - time.Since(g.since); len(l.groups) == 1 && !g.urgent && !closing && wait > 0 {
		return nil, wait
	}
	l.groups = slices.Delete(l.groups, 0, 1)
	l.writing, l.written = g, len(g.body)
	l.pending -= len(g.body) - 1
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
	return g, 0
}

// fail closes the log with an error for all groups that are not written.
func (l *Log) fail(g *group, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, g := range append([]*group{g}, l.groups...) {
		g.err = err
		close(g.done)
	}
	l.writing, l.groups = nil, nil
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// write stores g and announces it. It retries until that succeeds or ctx ends.
func (l *Log) write(ctx context.Context, g *group) error {
	for {
		err := l.publish(g)
		if err == nil {
			break
		}
		stored, resolveErr := l.resolve(ctx, g)
		if resolveErr != nil {
			return errors.Join(err, resolveErr)
		}
		if stored {
			break
		}
	}
	g.seq = l.lastSeq.Load() + 1
	m := &Message{Seq: g.seq, Records: make([]Record, len(g.records))}
	for i, r := range g.records {
		m.Records[i] = Record{g.body[r.start:r.end:r.end], r.tag}
	}
	if observers := l.observers.Load(); observers != nil {
		for _, f := range *observers {
			f(m)
		}
	}
	l.lastSeq.Store(g.seq)
	l.mu.Lock()
	l.writing = nil
	l.mu.Unlock()
	close(g.done)
	return nil
}

// publish writes g as the message after the last one. After an error it may or may not be stored.
func (l *Log) publish(g *group) error {
	msg := &nats.Msg{Subject: l.subject, Data: g.body, Header: nats.Header{
		natsjs.ExpectedStreamHeader:  {l.stream.CachedInfo().Config.Name},
		natsjs.ExpectedLastSeqHeader: {strconv.FormatUint(l.lastSeq.Load(), 10)},
	}}
	l.engine.server.reserve.makeRoom(int64(2*len(g.body)) + maxGiven) // for the index, too
	_, err := awaitAck(l.engine.js.PublishMsgAsync(msg))
	if api, ok := errors.AsType[*natsjs.APIError](err); ok && api.ErrorCode == natsjs.JSErrCodeStreamWrongLastSequence {
		return err // an earlier try was stored
	}
	return l.engine.mapError(l.stream.CachedInfo().Config.Name, err)
}

// resolve waits until the engine is writable: by then a write in progress has either happened or will
// not happen. It reports whether g is stored.
func (l *Log) resolve(ctx context.Context, g *group) (stored bool, err error) {
	for {
		if err = l.engine.Writable(); err == nil {
			if stored, err = l.isStored(g); err == nil || errors.Is(err, errOtherWriter) {
				return stored, err
			}
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
			return false, err
		}
	}
}

// isStored reports whether the message after the last one is g.
func (l *Log) isStored(g *group) (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	next := l.lastSeq.Load() + 1
	m, err := l.stream.GetMsg(ctx, next)
	switch {
	case errors.Is(err, natsjs.ErrMsgNotFound):
		return false, nil
	case err != nil:
		return false, err
	case !bytes.Equal(m.Data, g.body):
		return false, errOtherWriter
	}
	return true, nil
}

// Read returns a message. The error is ErrDeleted if it does not exist. The last messages that were read
// are in memory, also for a while after they are deleted.
func (l *Log) Read(ctx context.Context, seq uint64) (*Message, error) {
	return l.cache.get(ctx, seq)
}

func (l *Log) read(ctx context.Context, seq uint64) (*Message, error) {
	m, err := l.stream.GetMsg(ctx, seq)
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		return nil, ErrDeleted
	}
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return newMessage(m), nil
}

// ReadFrom calls f for the messages from seq to the last one at the time of the call, in order, until
// f returns an error.
func (l *Log) ReadFrom(ctx context.Context, seq uint64, f func(*Message) error) error {
	for last := l.LastSeq(); seq <= last; {
		m, err := l.stream.GetMsg(ctx, max(seq, 1), natsjs.WithGetMsgSubject(">"))
		if errors.Is(err, natsjs.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("jetstream: %w", err)
		}
		if m.Sequence > last {
			return nil
		}
		if err := f(newMessage(m)); err != nil {
			return err
		}
		seq = m.Sequence + 1
	}
	return nil
}

func newMessage(m *natsjs.RawStreamMsg) *Message {
	message := &Message{Seq: m.Sequence}
	for i, data := range Items(m.Data) {
		for len(message.Records) < i {
			message.Records = append(message.Records, Record{}) // damaged
		}
		message.Records = append(message.Records, Record{Data: data})
	}
	return message
}
