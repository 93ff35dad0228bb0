// SPDX-License-Identifier: Apache-2.0

package jetstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/singleflight"

	"github.com/sluice-push/sluice/internal/loglimit"
)

const (
	// The size of a group commit, unless a single record is larger.
	maxGroupBytes = 512 << 10
	// How long records that nothing waits for can wait for others.
	groupDelay = 5 * time.Millisecond
	// How long Run tries to write pending records after its context has ended.
	closeTimeout = 10 * time.Second
	// Groups that are stored in a cluster and that the log has not applied. Beyond it, Run writes no more.
	maxUnapplied = 16
	// Bytes of records that may wait to be written. Beyond it, Append blocks.
	maxPendingBytes = 8 << 20
	// How long requests to a cluster without a leader are retried: one election takes up to nine seconds,
	// and this allows for two.
	electionTimeout = 20 * time.Second
	retryInterval   = 250 * time.Millisecond
)

// Offset is the position of a record: the sequence of its message in the stream, and its index in the
// message. Offsets of one stream are ordered.
type Offset struct {
	Seq   uint64
	Index int
}

// Before reports whether o is before other.
func (o Offset) Before(other Offset) bool {
	return o.Seq < other.Seq || o.Seq == other.Seq && o.Index < other.Index
}

// Log is a stream of group commits. All records that arrive while the last group is being written are
// stored together, as one message and with one sync. A group is written again after a failure until it
// is known to be stored, so that the result of a write is known as long as the process lives.
//
// With the embedded server, this process is the only writer. In a cluster each process writes to a
// subject of its own, and follows the stream: all processes apply the same messages in the same order. A
// Log is safe for concurrent use. Append blocks unless Run is running.
type Log struct {
	engine    *Engine
	stream    natsjs.Stream
	prefix    string // of the subjects of writers in a cluster
	subject   string // of this process; that of an encrypted message names the key, too
	writer    string
	lock      *os.File // of the file with the name of the gateway, or nil
	observers atomic.Pointer[[]func(*Message)]
	keeper    atomic.Pointer[Keeper]
	cache     *messageCache
	altered   loglimit.Limit

	applying sync.Mutex    // held while the observers get a message
	lastSeq  atomic.Uint64 // the last message that they have got
	advanced *sync.Cond    // broadcasts when lastSeq changes, in a cluster
	newest   atomic.Uint64 // the last known message of the stream
	wake     chan struct{} // receives a value when there is something to write

	// Owned by Run, in a cluster.
	ownSeq      uint64 // the last message of this process
	expectedSeq uint64 // what the server expects: the last message of the subject, unless that is deleted
	storedIn    string // subject of the last group

	infoCalls   singleflight.Group // of CatchUp
	infoRequest sync.Mutex         // held during a request of CatchUp

	mu       sync.Mutex
	inFlight []*group // written or being written, but not applied, in order
	groups   []*group // to be written next, in order; records are added to the last
	pending  int      // bytes of groups
	written  int      // bytes of the last group that was written
	freed    chan struct{}
	closed   bool
	err      error // why it is closed
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
	// Writer is the process that wrote the message: Log.Writer, or that of another gateway of a cluster. It
	// is empty if an earlier process wrote it with an embedded server.
	Writer string
	// FirstSeq is the first message of the stream if those after the last one that this process got were
	// deleted before it got them, and otherwise zero.
	FirstSeq uint64
	// Records are the records by index, decrypted. The Data of a damaged record, and of one that was altered
	// so that it cannot be decrypted, is nil. Observers may keep them.
	Records []Record
}

// group is a list of records that are written together.
type group struct {
	body    []byte
	records []groupRecord
	urgent  bool // a caller waits for it
	since   time.Time
	build   func() []Record // of Exclusive
	after   uint64          // the last message when it was called

	stored  []byte // the message: body, or its encrypted form. Set before it is written.
	subject string // of the message

	done chan struct{} // closed when seq or err is set
	seq  uint64
	err  error
	then []func() // called after that, unless the log is closed
}

// Errors that close a log.
var (
	errOtherWriter = fmt.Errorf("%w: another process has written to the log", ErrUnwritable)
	errTruncated   = fmt.Errorf("%w: the stream was created again, or has lost messages (restart the gateway)", ErrUnwritable)
)

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

// Log creates or opens a stream of group commits, and returns its log. With the embedded server, the
// stream has no other writer, and the records are stored under subject. In a cluster, each process
// stores its records under a subject that consists of subject, the name of the gateway, and the name of
// the process. With Config.Keys, the ID of the key follows. The stream must have subject and all subjects
// below it. The error is a *keyring.MissingKeyError if messages need a key that is missing. The name of the gateway is in a file in dir, which
// one process at a time can use; the error is ErrLocked if another one does. It is random if dir is empty.
// Close frees dir.
func (e *Engine) Log(ctx context.Context, cfg natsjs.StreamConfig, subject, dir string) (*Log, error) {
	cfg.AllowDirect, cfg.DenyDelete = true, e.Keys().Current() != nil // see isMarked
	stream, err := e.Stream(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l := &Log{
		engine: e, stream: stream, subject: subject, prefix: subject + ".", writer: nuid.Next(), wake: make(chan struct{}, 1),
		advanced: sync.NewCond(new(sync.Mutex)),
	}
	if !e.Embedded() {
		if err := l.nameGateway(dir); err != nil {
			return nil, err
		}
		l.subject = l.prefix + l.writer
	}
	info, err := l.Info(ctx)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if err := l.CheckKeys(ctx, e.Keys()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	l.lastSeq.Store(info.State.LastSeq)
	l.cache = newMessageCache(l.read)
	return l, nil
}

// gatewayFile has the name of a gateway in a cluster.
const gatewayFile = "gateway"

// nameGateway adds the name of the gateway to that of the process.
func (l *Log) nameGateway(dir string) (err error) {
	name := []byte(nuid.Next())
	if dir != "" {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("jetstream: %w", err)
		}
		if l.lock, err = lockFile(filepath.Join(dir, gatewayFile)); err != nil {
			return err
		}
		known, err := io.ReadAll(l.lock)
		if err == nil && len(known) > 0 {
			name = known
		} else if err == nil {
			_, err = l.lock.Write(name)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("jetstream: %w", err), l.Close())
		}
	}
	l.writer = string(name) + "." + l.writer
	return nil
}

// Close frees the directory of the log. Call it after Run has returned.
func (l *Log) Close() error {
	if l.lock == nil {
		return nil
	}
	if err := l.lock.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Writer returns the name of this process as a writer. IsOwn reports whether a writer is a process of
// the same gateway: this one, or an earlier one.
func (l *Log) Writer() string { return l.writer }

// IsOwn is described at Writer.
func (l *Log) IsOwn(writer string) bool {
	own, _, _ := strings.Cut(l.writer, ".")
	name, _, _ := strings.Cut(writer, ".")
	return l.engine.Embedded() || name == own
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

// LastSeq returns the sequence of the last message that the observers have got. Behind returns how many
// messages are known to be stored after it.
func (l *Log) LastSeq() uint64 { return l.lastSeq.Load() }

// Behind is described at LastSeq.
func (l *Log) Behind() uint64 {
	last := l.lastSeq.Load()
	return max(l.newest.Load(), last) - last
}

// Err returns why the log is closed, or nil.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

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

// Exclusive calls build and appends the records that it returns, so that no other record is stored in
// between: when build is called, all earlier records have been applied. It calls build again if another
// process has written meanwhile.
func (l *Log) Exclusive(ctx context.Context, build func() []Record) error {
	g := &group{build: build, urgent: true, done: make(chan struct{}), since: time.Now()}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrNotAdded, ErrClosed)
	}
	l.groups = append(l.groups, g)
	l.mu.Unlock()
	l.signal()
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// AfterWrites calls f when all records that were appended before are applied. It does not call f if the
// log is closed before that.
func (l *Log) AfterWrites(f func()) {
	l.mu.Lock()
	waiting := l.inFlight
	if len(l.groups) > 0 {
		waiting = l.groups
	}
	if len(waiting) > 0 {
		last := waiting[len(waiting)-1]
		last.then = append(last.then, f)
	}
	l.mu.Unlock()
	if len(waiting) == 0 {
		f()
	}
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
		if g := l.groups[n-1]; g.build == nil && len(g.body)+size <= maxGroupBytes {
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
	groups := make([]group, 0, len(l.inFlight)+len(l.groups))
	for _, g := range slices.Concat(l.inFlight, l.groups) {
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
	var following sync.WaitGroup
	defer following.Wait()
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeTimeout, giveUp) })()
	if !l.engine.Embedded() {
		following.Go(func() { l.follow(writeCtx) })
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ended := ctx.Done(); l.Err() == nil; {
		g, wait := l.dequeue(ctx.Err() != nil)
		if g != nil {
			if err := l.write(writeCtx, g); err != nil {
				l.fail(err)
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
		case <-ended:
			ended = nil
		case <-writeCtx.Done(): // groups are in flight
			l.fail(writeCtx.Err())
		}
	}
	return l.Err()
}

// dequeue removes and returns the next group to write. If there is none, it returns for how long it
// can wait for one, or zero if that is not known. If the log closes and nothing is pending, it
// returns a negative time.
func (l *Log) dequeue(closing bool) (g *group, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.groups) == 0 {
		l.closed = closing
		if closing && len(l.inFlight) == 0 {
			return nil, -1
		}
		return nil, 0
	}
	g = l.groups[0]
	if len(l.inFlight) >= maxUnapplied || g.build != nil && len(l.inFlight) > 0 {
		return nil, 0
	}
	if wait = groupDelay - time.Since(g.since); len(l.groups) == 1 && !g.urgent && !closing && wait > 0 {
		return nil, wait
	}
	l.groups = slices.Delete(l.groups, 0, 1)
	l.inFlight = append(l.inFlight, g)
	if g.build == nil {
		l.written = len(g.body)
		l.pending -= len(g.body) - 1
	}
	l.free()
	return g, 0
}

// free wakes the goroutines that wait for space. The caller holds l.mu.
func (l *Log) free() {
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// fail closes the log with an error for all groups that are not applied.
func (l *Log) fail(err error) {
	l.applying.Lock() // nothing is applied later
	defer l.applying.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.engine.cfg.Logger.Error("the log is closed", "err", err)
	l.err, l.closed = err, true
	for _, g := range slices.Concat(l.inFlight, l.groups) {
		g.err = err
		close(g.done)
	}
	l.inFlight, l.groups = nil, nil
	l.free()
	l.signal()
	l.advanced.L.Lock()
	l.advanced.Broadcast()
	l.advanced.L.Unlock()
}

// write stores g, and applies it unless messages of other writers come first. It retries until that
// succeeds, ctx ends, or the log is closed.
func (l *Log) write(ctx context.Context, g *group) error {
	for l.Err() == nil {
		if g.build != nil && !l.rebuild(g) {
			return nil
		}
		if g.stored == nil {
			l.seal(g)
		}
		seq, err := l.publish(g)
		if err != nil {
			if seq, err = l.resolve(ctx, g, err); err != nil {
				return err
			}
		}
		if seq > 0 {
			l.ownSeq, l.expectedSeq = seq, seq
			l.applyOwn(g, seq)
			return nil
		}
		if l.engine.Embedded() {
			continue
		}
		select { // the cluster is electing a leader, or another process has written before an exclusive group
		case <-time.After(retryInterval / 10):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// rebuild makes the body of a group of Exclusive. It returns false if there is nothing to write.
func (l *Log) rebuild(g *group) bool {
	l.applying.Lock()
	records, last := g.build(), l.lastSeq.Load()
	l.applying.Unlock()
	body, index := []byte{recordFormat}, make([]groupRecord, 0, len(records))
	for _, r := range records {
		body = appendRecord(body, r.Data)
		index = append(index, groupRecord{len(body) - len(r.Data), len(body), r.Tag})
	}
	l.mu.Lock() // for Pending and ownGroup
	g.body, g.records, g.after, g.stored = body, index, last, nil
	l.mu.Unlock()
	if len(records) == 0 {
		l.finish(g, 0)
	}
	return len(records) > 0
}

// applyOwn applies g, which is message seq, if it is the next one. Otherwise follow applies it, or has
// done so.
func (l *Log) applyOwn(g *group, seq uint64) {
	l.applying.Lock()
	defer l.applying.Unlock()
	if l.engine.Embedded() || seq == l.lastSeq.Load()+1 {
		l.apply(l.ownMessage(g, seq), g)
	}
}

// ownMessage returns g as message seq.
func (l *Log) ownMessage(g *group, seq uint64) *Message {
	m := &Message{Seq: seq, Writer: l.writer, Records: make([]Record, len(g.records))}
	for i, r := range g.records {
		m.Records[i] = Record{g.body[r.start:r.end:r.end], r.tag}
	}
	return m
}

// apply passes the next message to the observers; g is its group, or nil. The caller holds l.applying.
func (l *Log) apply(m *Message, g *group) {
	if observers := l.observers.Load(); observers != nil {
		for _, f := range *observers {
			f(m)
		}
	}
	l.lastSeq.Store(m.Seq)
	if !l.engine.Embedded() {
		l.cache.add(m)
		l.advanced.L.Lock()
		l.advanced.Broadcast()
		l.advanced.L.Unlock()
	}
	if g != nil {
		l.finish(g, m.Seq)
	}
}

// finish announces the result of a group.
func (l *Log) finish(g *group, seq uint64) {
	l.mu.Lock()
	l.inFlight = slices.DeleteFunc(l.inFlight, func(other *group) bool { return other == g })
	then := g.then
	l.mu.Unlock()
	g.seq = seq
	close(g.done)
	if !l.engine.Embedded() {
		l.signal() // Run may wait for it
	}
	for _, f := range then {
		f()
	}
}

// publish writes g as the message after the last one of its subject, with the embedded server after the
// last one of the stream. After an error it may or may not be stored.
func (l *Log) publish(g *group) (seq uint64, err error) {
	name := l.stream.CachedInfo().Config.Name
	msg := &nats.Msg{Subject: g.subject, Data: g.stored, Header: nats.Header{natsjs.ExpectedStreamHeader: {name}}}
	if l.engine.Embedded() {
		l.engine.server.reserve.makeRoom(int64(2*len(g.stored)) + maxGiven) // for the index, too
		msg.Header.Set(natsjs.ExpectedLastSeqHeader, strconv.FormatUint(l.lastSeq.Load(), 10))
	} else {
		msg.Header.Set(natsjs.ExpectedLastSubjSeqHeader, strconv.FormatUint(l.expectedSeq, 10))
		if g.build != nil {
			msg.Header.Set(natsjs.ExpectedLastSeqHeader, strconv.FormatUint(g.after, 10))
		}
	}
	ack, err := awaitAck(l.engine.js.PublishMsgAsync(msg))
	if err == nil {
		return ack.Sequence, nil
	}
	if api, ok := errors.AsType[*natsjs.APIError](err); ok && api.ErrorCode == natsjs.JSErrCodeStreamWrongLastSequence {
		return 0, err // an earlier try was stored
	}
	return 0, l.engine.mapError(name, err)
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

// resolve finds out whether g is stored after a write failed with cause. It returns its sequence, or zero
// if it must be written again. It waits until the engine is writable: with the embedded server, a write
// in progress has either happened by then or will not happen. In a cluster it may happen later, but then
// the next write fails, because it expects the same last message.
func (l *Log) resolve(ctx context.Context, g *group, cause error) (seq uint64, err error) {
	find := l.findOwn
	if l.engine.Embedded() {
		find = l.findNext
	}
	for {
		if err = l.engine.Writable(); err == nil {
			if seq, err = find(g); err == nil || errors.Is(err, errOtherWriter) {
				return seq, err
			}
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
			return 0, errors.Join(cause, err)
		}
	}
}

// findNext returns the sequence after the last one if g is that message, or zero if there is none.
func (l *Log) findNext(g *group) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), apiTimeout)
	defer cancel()
	next := l.lastSeq.Load() + 1
	m, err := l.stream.GetMsg(ctx, next)
	switch {
	case errors.Is(err, natsjs.ErrMsgNotFound):
		return 0, nil
	case err != nil:
		return 0, err
	case !bytes.Equal(m.Data, g.stored):
		return 0, errOtherWriter
	}
	return next, nil
}

// findOwn returns the sequence of the last message of the subject if it is g, and zero otherwise. It also
// finds out whether earlier ones are deleted.
func (l *Log) findOwn(g *group) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ackTimeout)
	defer cancel()
	m, err := l.stream.GetLastMsgForSubject(ctx, g.subject)
	if errors.Is(err, natsjs.ErrMsgNotFound) {
		l.expectedSeq = 0
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	l.expectedSeq = m.Sequence
	if m.Sequence > l.ownSeq && bytes.Equal(m.Data, g.stored) {
		return m.Sequence, nil
	}
	return 0, nil
}

// Read returns a message. The error is ErrDeleted if it does not exist. The last messages that were read
// are in memory, also for a while after they are deleted.
func (l *Log) Read(ctx context.Context, seq uint64) (*Message, error) {
	return l.cache.get(ctx, seq)
}

// read reads a message from the server. In a cluster that elects a leader, it retries for up to
// electionTimeout.
func (l *Log) read(ctx context.Context, seq uint64) (*Message, error) {
	for began := time.Now(); ; {
		timeout := ackTimeout
		if l.engine.Embedded() {
			timeout = apiTimeout
		}
		tryCtx, cancel := context.WithTimeout(ctx, timeout)
		m, err := l.stream.GetMsg(tryCtx, seq)
		cancel()
		switch {
		case err == nil:
			return l.newMessage(m.Sequence, m.Subject, m.Data)
		case errors.Is(err, natsjs.ErrMsgNotFound):
			return nil, ErrDeleted
		case l.engine.Embedded(), !l.engine.Connected(), ctx.Err() != nil, time.Since(began) > electionTimeout:
			return nil, fmt.Errorf("jetstream: %w", err)
		}
		select {
		case <-time.After(retryInterval):
		case <-ctx.Done():
		}
	}
}

// ReadFrom calls f for the messages from seq to LastSeq at the time of the call, in order, until f returns
// an error.
func (l *Log) ReadFrom(ctx context.Context, seq uint64, f func(*Message) error) error {
	last := l.LastSeq()
	if !l.engine.Embedded() {
		return l.readUntil(ctx, seq, last, f)
	}
	for seq <= last {
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
		message, err := l.newMessage(m.Sequence, m.Subject, m.Data)
		if err == nil {
			err = f(message)
		}
		if err != nil {
			return err
		}
		seq = m.Sequence + 1
	}
	return nil
}

// newMessage returns a stored message. The error is a *keyring.MissingKeyError.
func (l *Log) newMessage(seq uint64, subject string, data []byte) (*Message, error) {
	m := &Message{Seq: seq}
	subject, key, _ := cutKey(subject)
	if writer, ok := strings.CutPrefix(subject, l.prefix); ok {
		m.Writer = writer
	}
	items, err := l.engine.items(data, func(index int) {
		if skipped, ok := l.altered.Allow(); ok {
			l.engine.cfg.Logger.Error("record cannot be decrypted; it counts as damaged", "seq", seq, "index", index, "key", key.String(), "not_logged", skipped)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("jetstream: message %d: %w", seq, err)
	}
	for i, data := range items {
		for len(m.Records) < i {
			m.Records = append(m.Records, Record{}) // damaged
		}
		m.Records = append(m.Records, Record{Data: data})
	}
	return m, nil
}
