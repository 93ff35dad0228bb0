// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"container/heap"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/push"
)

// table is the state of the tasks in a log that have not ended. It changes by apply only, which gets
// all messages in order: the same messages lead to the same state, after a restart and at each gateway
// of a cluster. In addition, it knows which tasks this process has delivered to a run, and which other
// gateways are alive. It does no I/O, and its caller must hold a lock.
type table struct {
	frames  map[uint64][]*frame // by sequence of their message
	seqs    []uint64            // of messages that had frames, ascending
	started map[jetstream.Offset]progress
	later   dueHeap
	flows   map[flowKey]*flow
	calls   map[uuid.UUID]*writer                 // synchronous sends with a key that have started and not ended
	sent    map[jetstream.Offset]jetstream.Offset // tasks that this process sends, with the record of their last attempt

	// doubts are tasks in doubt that resume has made ready, with the number of their attempts.
	doubts map[jetstream.Offset]int

	writers map[string]*writer
	self    *writer
	isOwn   func(name string) bool     // see writer.own
	tallies map[uuid.UUID]*tally.Tally // of broadcasts
	peers   []peer                     // gateways that send, including this one; empty with an embedded engine
	overdue []jetstream.Offset         // tasks of other gateways that have become due
	helpAt  int                        // how many ready tasks of another gateway are too many for it

	tasks             int   // that have not ended
	bytes, laterBytes int64 // of the records of those that are due, and of the others
	decoded           int   // notifications in memory

	parser record.HeaderParser
}

// writer is a process that has written to the log.
type writer struct {
	name    string
	own     bool // this process, or an earlier one of this gateway
	lost    bool // its tasks are sent by others: it was not heard for a while, or drains
	settled bool // its attempts are in doubt: it was not heard for Config.SettleTime
	sending int  // tasks whose last attempt it has recorded and that have no result
}

// flowKey identifies the tasks that share the limit of concurrent sends.
type flowKey struct {
	app      string
	platform push.Platform
	lane     push.Lane
}

// flow holds the tasks of an app, platform and lane.
type flow struct {
	key     flowKey
	own     backlog            // of this gateway
	others  []*backlog         // of other gateways
	due     []jetstream.Offset // scheduled, rescheduled and doubtful tasks for this gateway; those that are not ready any more are skipped
	left    int                // tasks that have not ended
	depth   int                // those of them that are due
	dueTurn bool               // next prefers due to frames
	sending int                // tasks that runs of Queue hold
	pause   pause              // while the provider takes nothing
}

// backlog holds the tasks of a flow that one gateway has accepted.
type backlog struct {
	flow   *flow
	writer *writer  // nil for those of this gateway
	frames []*frame // that may have ready tasks, oldest first
	mine   []*frame // those that this gateway sends because the writer is lost
	ready  int      // tasks that have not been delivered to a run
}

// frame holds the tasks of one backlog in one message.
type frame struct {
	seq uint64
	*backlog
	base  int      // the index of the first task
	bits  []uint64 // for each 64 indexes, one word for each bit
	from  int      // no task before this index is ready
	left  int      // tasks that have not ended
	later int      // those of them that are not due
	count int      // all tasks, and their bytes
	bytes int64

	notifications []decoded // of ready tasks, by index; the first ones only
}

// decoded is a notification that waits in memory.
type decoded struct {
	index        int
	notification *push.Notification
}

// bit is a property of a task.
type bit int

const (
	isOpen    bit = iota // it has not ended
	isReady              // it is due, or in doubt, and has not been delivered to a run
	isLater              // it waits for its due time in the heap
	isSending            // an attempt is recorded, and neither an end nor a reschedule after it
	bitCount
)

// progress is the state of a task after its first attempt.
type progress struct {
	attempts    int
	reschedules int
	rescheduled jetstream.Offset // the last record of kind Reschedule, or zero
	due         int64            // according to it, as in dueTask
	writer      *writer          // of the last attempt; nil for one of a version without a log
}

// newTable returns an empty table of a process.
func newTable(self string, isOwn func(name string) bool, helpAt int) *table {
	t := &table{
		frames: map[uint64][]*frame{}, started: map[jetstream.Offset]progress{}, flows: map[flowKey]*flow{}, calls: map[uuid.UUID]*writer{},
		sent: map[jetstream.Offset]jetstream.Offset{}, doubts: map[jetstream.Offset]int{}, writers: map[string]*writer{}, tallies: map[uuid.UUID]*tally.Tally{}, isOwn: isOwn, helpAt: helpAt,
	}
	t.self = t.writer(self)
	return t
}

// writer returns the writer with a name.
func (t *table) writer(name string) *writer {
	w := t.writers[name]
	if w == nil {
		w = &writer{name: name, own: t.isOwn(name)}
		t.writers[name] = w
	}
	return w
}

// isDead reports whether a writer records no results of its attempts any more.
func (t *table) isDead(w *writer) bool { return w == nil || w != t.self && (w.own || w.settled) }

func (f *frame) word(b bit, index int) (word *uint64, mask uint64) {
	i := index - f.base
	return &f.bits[i/64*int(bitCount)+int(b)], 1 << (i % 64)
}

// contains reports whether an index is in the range of the frame.
func (f *frame) contains(index int) bool {
	return index >= f.base && index < f.base+len(f.bits)/int(bitCount)*64
}

func (f *frame) has(b bit, index int) bool {
	word, mask := f.word(b, index)
	return *word&mask != 0
}

// set sets or clears a bit, and reports whether it was different.
func (f *frame) set(b bit, index int, on bool) (changed bool) {
	word, mask := f.word(b, index)
	changed = *word&mask != 0 != on
	if on {
		*word |= mask
	} else {
		*word &^= mask
	}
	return changed
}

// firstReady returns the first ready task.
func (f *frame) firstReady() (index int, ok bool) {
	for w := (f.from - f.base) / 64; w*int(bitCount) < len(f.bits); w++ {
		if word := f.bits[w*int(bitCount)+int(isReady)]; word != 0 {
			f.from = f.base + w*64 + bits.TrailingZeros64(word)
			return f.from, true
		}
	}
	return 0, false
}

// lastReady returns the last ready task.
func (f *frame) lastReady() (index int, ok bool) {
	for w := len(f.bits)/int(bitCount) - 1; w >= 0; w-- {
		if word := f.bits[w*int(bitCount)+int(isReady)]; word != 0 {
			return f.base + w*64 + 63 - bits.LeadingZeros64(word), true
		}
	}
	return 0, false
}

// find returns the frame of a task that has not ended, or nil.
func (t *table) find(task jetstream.Offset) *frame {
	for _, f := range t.frames[task.Seq] {
		if f.contains(task.Index) && f.has(isOpen, task.Index) {
			return f
		}
	}
	return nil
}

// apply applies the next message of the log. It returns the flows that have more ready tasks.
func (t *table) apply(m *jetstream.Message) (woken []*flow) {
	if m.FirstSeq > 0 {
		t.closeBefore(m.FirstSeq)
	}
	w := t.writer(m.Writer)
	for i, r := range m.Records {
		if !record.IsRecord(r.Data) { // damaged, or written by a version without a log
			continue
		}
		if id, ofTask := record.ID(r.Data); !ofTask {
			if record.Kind(r.Data[0]) == record.Control {
				woken = append(woken, t.applyControl(r.Data, m.Seq)...)
			} else {
				t.applyCall(id, r.Data, w)
			}
			continue
		}
		h, err := t.parser.Parse(r.Data)
		if err != nil {
			continue
		}
		at := jetstream.Offset{Seq: m.Seq, Index: i}
		f := t.find(jetstream.Offset(h.Of))
		switch {
		case h.Kind == record.Task && !t.enqueueLine(&h, at):
		case h.Kind == record.Task:
			if f != nil { // it was written again
				t.close(f, h.Of.Index)
			}
			n, _ := r.Tag.(*push.Notification)
			if f := t.add(at, &h, w, len(r.Data), n); f != nil && !slices.Contains(woken, f) {
				woken = append(woken, f)
			}
		case f != nil:
			t.applyTo(f, &h, at, w)
		}
	}
	return woken
}

// closeBefore closes the tasks in deleted messages: they have ended, or were written again.
func (t *table) closeBefore(seq uint64) {
	for _, s := range t.seqs {
		if s >= seq {
			break
		}
		for _, f := range slices.Clone(t.frames[s]) {
			for index := f.base; f.left > 0 && f.contains(index); index++ {
				if f.has(isOpen, index) {
					t.close(f, index)
				}
			}
		}
	}
}

// applyCall applies a record of a synchronous send, or the end of a notification whose task is lost.
func (t *table) applyCall(id uuid.UUID, data []byte, w *writer) {
	switch record.Kind(data[0]) {
	case record.Key:
		t.calls[id] = w
	case record.End:
		delete(t.calls, id)
		l, b := t.tallyOf(id)
		if b == nil {
			return
		}
		if task, open := b.Task(l); open { // a gateway has refused the line, and another one has enqueued it
			at := jetstream.Offset(task)
			switch f := t.find(at); {
			case f == nil:
			case f.has(isSending, at.Index):
				return // the attempt decides
			default:
				t.close(f, at.Index)
			}
		}
		if h, err := t.parser.Parse(data); err == nil {
			t.enqueueLine(&h, jetstream.Offset{}) // if it was refused before it had a task
			t.endLine(&h)
		}
	}
}

// applyTo applies a record to its task, if it is valid: the first of the records that exclude each other
// is. An attempt must have a higher number than those before it, and the broadcast must allow it. A task is
// rescheduled after its last attempt. A record of kind Cancel has no effect while an attempt is in progress.
func (t *table) applyTo(f *frame, h *record.Header, at jetstream.Offset, w *writer) {
	task := jetstream.Offset(h.Of)
	index, p := task.Index, t.started[task]
	switch h.Kind {
	case record.Sending:
		if h.Attempt <= p.attempts || t.isHeld(h.ID) {
			return
		}
		t.setSending(f, index, p.writer, false)
		t.setSending(f, index, w, true)
		if w == t.self {
			t.sent[task] = at
		}
		t.setReady(f, index, false)
		t.setLater(f, index, false)
		p.attempts, p.writer = h.Attempt, w
		t.started[task] = p
	case record.Reschedule:
		if h.Attempt < p.attempts {
			return
		}
		t.setSending(f, index, p.writer, false)
		t.started[task] = progress{h.Attempt, h.Reschedules, at, dueTime(h.SendAt), p.writer}
		t.setReady(f, index, false)
		t.setLater(f, index, true)
		heap.Push(&t.later, dueTask{dueTime(h.SendAt), task})
	case record.Cancel:
		if !f.has(isSending, index) {
			t.close(f, index)
			t.endLine(h)
		}
	case record.End:
		t.close(f, index)
		t.endLine(h)
	}
}

// setSending sets or clears isSending; w has recorded the attempt.
func (t *table) setSending(f *frame, index int, w *writer, on bool) {
	if !f.set(isSending, index, on) {
		return
	}
	if !on && len(t.doubts) > 0 {
		delete(t.doubts, jetstream.Offset{Seq: f.seq, Index: index})
	}
	switch {
	case w == nil:
	case on:
		w.sending++
	default:
		if w.sending--; w == t.self {
			delete(t.sent, jetstream.Offset{Seq: f.seq, Index: index})
		}
	}
}

// add adds a task. It returns its flow if it is ready.
func (t *table) add(at jetstream.Offset, h *record.Header, w *writer, bytes int, n *push.Notification) *flow {
	f := t.frameFor(at, t.backlog(flowKey{h.App, h.Platform, h.Lane}, w))
	t.count(f, -1)
	f.left, f.count, f.bytes = f.left+1, f.count+1, f.bytes+int64(bytes)
	t.count(f, +1)
	f.set(isOpen, at.Index, true)
	if h.Attempt > 0 || h.Reschedules > 0 { // it was written before, at another position or by another version
		t.started[at] = progress{attempts: h.Attempt, reschedules: h.Reschedules, rescheduled: at}
	}
	if h.Status == push.StatusSending {
		t.setSending(f, at.Index, nil, true) // until resume
		return nil
	}
	if !h.SendAt.IsZero() {
		t.setLater(f, at.Index, true)
		heap.Push(&t.later, dueTask{dueTime(h.SendAt), at})
		return nil
	}
	if n != nil && t.decoded < maxDecoded {
		f.notifications = append(f.notifications, decoded{at.Index, n})
		t.decoded++
	}
	t.setReady(f, at.Index, true)
	return f.flow
}

// backlog returns the backlog of a writer in a flow. It creates both if necessary.
func (t *table) backlog(key flowKey, w *writer) *backlog {
	fl := t.flows[key]
	if fl == nil {
		fl = &flow{key: key}
		fl.own.flow = fl
		t.flows[key] = fl
	}
	if w.own {
		return &fl.own
	}
	for _, b := range fl.others {
		if b.writer == w {
			return b
		}
	}
	b := &backlog{flow: fl, writer: w}
	fl.others = append(fl.others, b)
	return b
}

// frameFor returns the frame for a new task, which it creates if necessary.
func (t *table) frameFor(at jetstream.Offset, b *backlog) *frame {
	frames := t.frames[at.Seq]
	i := slices.IndexFunc(frames, func(f *frame) bool { return f.backlog == b })
	if i < 0 {
		f := &frame{seq: at.Seq, backlog: b, base: at.Index, from: at.Index}
		t.enqueue(f)
		if len(frames) == 0 {
			t.seqs = append(t.seqs, at.Seq)
		}
		t.frames[at.Seq] = append(frames, f)
		frames, i = t.frames[at.Seq], len(frames)
	}
	f := frames[i]
	for !f.contains(at.Index) {
		f.bits = append(f.bits, make([]uint64, bitCount)...)
	}
	return f
}

// enqueue adds a frame to its backlog.
func (t *table) enqueue(f *frame) {
	b := f.backlog
	if b.writer != nil {
		b.dropDelivered()
		if b.writer.lost && t.picks(f.seq, nil) {
			b.mine = append(b.mine, f)
		}
	}
	b.frames = append(b.frames, f)
}

// dropDelivered removes frames without ready tasks at the start.
func (b *backlog) dropDelivered() {
	for len(b.frames) > 0 {
		if _, ok := b.frames[0].firstReady(); ok {
			return
		}
		b.frames[0] = nil
		b.frames = b.frames[1:]
	}
}

// close ends a task.
func (t *table) close(f *frame, index int) {
	t.setReady(f, index, false)
	t.setLater(f, index, false)
	t.setSending(f, index, t.started[jetstream.Offset{Seq: f.seq, Index: index}].writer, false)
	f.set(isOpen, index, false)
	t.count(f, -1)
	f.left--
	t.count(f, +1)
	delete(t.started, jetstream.Offset{Seq: f.seq, Index: index})
	if f.left > 0 {
		return
	}
	t.decoded -= len(f.notifications)
	f.notifications = nil
	if frames := slices.DeleteFunc(t.frames[f.seq], func(other *frame) bool { return other == f }); len(frames) > 0 {
		t.frames[f.seq] = frames
	} else {
		delete(t.frames, f.seq)
	}
}

func (t *table) setReady(f *frame, index int, on bool) (changed bool) {
	if !f.set(isReady, index, on) {
		return false
	}
	if on {
		f.backlog.ready++
		f.from = min(f.from, index)
	} else {
		f.backlog.ready--
	}
	return true
}

func (t *table) setLater(f *frame, index int, on bool) {
	if !f.set(isLater, index, on) {
		return
	}
	t.count(f, -1)
	if on {
		f.later++
	} else {
		f.later--
	}
	t.count(f, +1)
}

// count adds the tasks of a frame to the totals, or subtracts them, before and after a change.
func (t *table) count(f *frame, sign int) {
	if f.count == 0 {
		return
	}
	t.tasks += sign * f.left
	f.flow.left += sign * f.left
	f.flow.depth += sign * (f.left - f.later)
	t.bytes += int64(sign) * (f.bytes * int64(f.left-f.later) / int64(f.count))
	t.laterBytes += int64(sign) * (f.bytes * int64(f.later) / int64(f.count))
}

// resume makes the tasks ready whose attempt was recorded by a process that has ended. Of those of another
// gateway, each is resumed by one of the others. It returns their flows.
func (t *table) resume() (woken []*flow) {
	for at, p := range t.started {
		f := t.find(at)
		if f == nil || !f.has(isSending, at.Index) || !t.isDead(p.writer) || p.writer != nil && !p.writer.own && !t.picks(at.Seq, nil) {
			continue
		}
		if t.doubts[at] < p.attempts && t.setReady(f, at.Index, true) {
			t.doubts[at] = p.attempts
			woken = t.deliverDue(f, at, woken)
		}
	}
	return woken
}

// deliverDue adds a ready task to those that are due in its flow, and the flow to woken.
func (t *table) deliverDue(f *frame, task jetstream.Offset, woken []*flow) []*flow {
	f.flow.due = append(f.flow.due, task)
	if !slices.Contains(woken, f.flow) {
		woken = append(woken, f.flow)
	}
	return woken
}

// isSent reports whether the record of an attempt by this process is the last one of a task, and has no
// result. mayStart reports whether another attempt may follow this number of attempts.
func (t *table) isSent(task, attempt jetstream.Offset) bool { return t.sent[task] == attempt }

// mayStart is described at isSent.
func (t *table) mayStart(task jetstream.Offset, attempts int) bool {
	f, p := t.find(task), t.started[task]
	if f == nil || f.has(isLater, task.Index) || p.attempts != attempts {
		return false
	}
	return !f.has(isSending, task.Index) || p.writer == t.self || t.isDead(p.writer)
}

// delivery is a task for a run.
type delivery struct {
	task         jetstream.Offset
	notification *push.Notification // nil if it is not in memory
	progress     progress
	inDoubt      bool // a process that has ended may have sent it
}

// nextRun delivers up to limit tasks of a flow.
func (t *table) nextRun(fl *flow, limit int) (run []delivery) {
	for len(run) < limit {
		h, ok := t.next(fl)
		if !ok {
			break
		}
		if run == nil {
			run = make([]delivery, 0, min(limit, max(1, 1+fl.own.ready)))
		}
		run = append(run, h)
	}
	return run
}

// next delivers a task of a flow: of this gateway, of one that is lost, or of one that has too many. It
// returns false if there is none.
func (t *table) next(fl *flow) (h delivery, ok bool) {
	fl.dueTurn = !fl.dueTurn
	if fl.dueTurn {
		h.task, ok = t.nextDue(fl)
	}
	if !ok {
		h.task, ok = t.nextReady(fl)
	}
	if !ok {
		if h.task, ok = t.nextDue(fl); !ok {
			return h, false
		}
	}
	f := t.find(h.task)
	t.setReady(f, h.task.Index, false)
	h.notification = t.takeDecoded(f, h.task.Index)
	h.progress, h.inDoubt = t.started[h.task], f.has(isSending, h.task.Index)
	return h, true
}

// takeDecoded returns a notification, if it is in memory, and forgets those before it.
func (t *table) takeDecoded(f *frame, index int) (n *push.Notification) {
	for len(f.notifications) > 0 && f.notifications[0].index <= index {
		if f.notifications[0].index == index {
			n = f.notifications[0].notification
		}
		f.notifications[0].notification = nil
		f.notifications = f.notifications[1:]
		t.decoded--
	}
	return n
}

func (t *table) nextReady(fl *flow) (jetstream.Offset, bool) {
	if at, ok := t.takeFrom(&fl.own.frames); ok {
		return at, true
	}
	for _, b := range fl.others {
		if at, ok := t.takeFrom(&b.mine); ok {
			return at, true
		}
	}
	for _, b := range fl.others {
		if b.ready > t.helpAt && !b.writer.lost {
			if at, ok := t.help(b); ok {
				return at, true
			}
		}
	}
	return jetstream.Offset{}, false
}

// takeFrom returns the first ready task of frames, and removes those before that have none.
func (t *table) takeFrom(frames *[]*frame) (jetstream.Offset, bool) {
	for len(*frames) > 0 {
		f := (*frames)[0]
		if index, ok := f.firstReady(); ok {
			return jetstream.Offset{Seq: f.seq, Index: index}, true
		}
		t.decoded -= len(f.notifications)
		f.notifications = nil
		(*frames)[0] = nil
		*frames = (*frames)[1:]
	}
	return jetstream.Offset{}, false
}

// help returns a task at the end of the backlog of another gateway, which takes them from the front.
func (t *table) help(b *backlog) (jetstream.Offset, bool) {
	for i := len(b.frames) - 1; i >= 0; i-- {
		f := b.frames[i]
		index, ok := f.lastReady()
		switch {
		case ok && t.picks(f.seq, b.writer):
			return jetstream.Offset{Seq: f.seq, Index: index}, true
		case !ok && i == len(b.frames)-1:
			b.frames = b.frames[:i]
		}
	}
	return jetstream.Offset{}, false
}

func (t *table) nextDue(fl *flow) (jetstream.Offset, bool) {
	for len(fl.due) > 0 {
		task := fl.due[0]
		fl.due = fl.due[1:]
		if f := t.find(task); f != nil && f.has(isReady, task.Index) {
			return task, true
		}
	}
	return jetstream.Offset{}, false
}

// releaseDue moves the tasks that are due to their flows, at most limit, and returns these flows.
// next is the due time of the next one, or zero if there is none.
func (t *table) releaseDue(now time.Time, limit int) (woken []*flow, next time.Time) {
	for len(t.later) > 0 && limit > 0 {
		first := t.later[0]
		if first.due > now.UnixMilli() {
			break
		}
		heap.Pop(&t.later)
		limit--
		f := t.find(first.task)
		if f == nil || !f.has(isLater, first.task.Index) {
			continue
		}
		if p := t.started[first.task]; p.due != 0 && p.due != first.due { // of an earlier reschedule
			continue
		}
		t.setLater(f, first.task.Index, false)
		t.setReady(f, first.task.Index, true)
		if f.writer == nil {
			woken = t.deliverDue(f, first.task, woken)
		} else {
			t.overdue = append(t.overdue, first.task) // see takeOver
		}
	}
	if len(t.later) > 0 {
		next = time.UnixMilli(t.later[0].due)
	}
	return woken, next
}

// oldest returns the sequence of the oldest message with tasks that have not ended, or that a broadcast
// needs, or the maximum.
func (t *table) oldest() uint64 {
	for len(t.seqs) > 0 && len(t.frames[t.seqs[0]]) == 0 {
		t.seqs = t.seqs[1:]
	}
	if len(t.seqs) == 0 {
		return t.oldestTally(math.MaxUint64)
	}
	return t.oldestTally(t.seqs[0])
}

// openBefore returns the tasks in messages before seq that have not ended and that this gateway sends, or
// none if the records of all have more than limit bytes.
func (t *table) openBefore(seq uint64, limit int64) (tasks []jetstream.Offset) {
	for _, s := range t.seqs {
		if s >= seq {
			break
		}
		for _, f := range t.frames[s] {
			if limit -= f.bytes * int64(f.left) / int64(f.count); limit < 0 {
				return nil
			}
			mine := f.writer == nil || f.writer.lost && t.picks(s, nil)
			for index := f.base; mine && f.contains(index); index++ {
				if f.has(isOpen, index) {
					tasks = append(tasks, jetstream.Offset{Seq: s, Index: index})
				}
			}
		}
	}
	return tasks
}

// oldestDue returns the first task in the oldest message with due tasks that have not ended, or zero.
func (t *table) oldestDue() jetstream.Offset {
	for _, seq := range t.seqs {
		for _, f := range t.frames[seq] {
			if f.left > f.later {
				return jetstream.Offset{Seq: seq, Index: f.base}
			}
		}
	}
	return jetstream.Offset{}
}

// dropIdle removes a flow without tasks.
func (t *table) dropIdle(fl *flow) {
	if fl.left == 0 && fl.sending == 0 {
		delete(t.flows, fl.key)
	}
}

// dueTask is a task that waits for its due time, in milliseconds since 1970.
type dueTask struct {
	due  int64
	task jetstream.Offset
}

// dueTime rounds a due time up, because records have times in milliseconds that are rounded down.
func dueTime(at time.Time) int64 { return at.UnixMilli() + 1 }

// dueHeap is a heap of tasks, the first due one at the top.
type dueHeap []dueTask

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	return h[i].due < h[j].due || h[i].due == h[j].due && h[i].task.Before(h[j].task)
}
func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(dueTask)) }

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	*h = (*h)[:last]
	return x
}
