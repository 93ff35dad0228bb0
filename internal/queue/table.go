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
	"github.com/sluice-push/sluice/push"
)

// table is the state of the tasks in a log that have not ended. It changes by apply only, which gets
// all messages in order: after a restart the same messages lead to the same state. In addition, it
// knows which tasks have been delivered to a run and which are claimed, as of this process. It does no I/O,
// and its caller must hold a lock.
type table struct {
	frames  map[uint64][]*frame // by sequence of their message
	seqs    []uint64            // of messages that had frames, ascending
	started map[jetstream.Offset]progress
	later   dueHeap
	flows   map[flowKey]*flow
	calls   map[uuid.UUID]bool // synchronous sends with a key that have started and not ended

	tasks             int   // that have not ended
	bytes, laterBytes int64 // of the records of those that are due, and of the others
	decoded           int   // notifications in memory

	parser record.HeaderParser
}

// flowKey identifies the tasks that share the limit of concurrent sends.
type flowKey struct {
	app  string
	lane push.Lane
}

// flow holds the due tasks of an app and lane.
type flow struct {
	key     flowKey
	frames  []*frame           // that may have ready tasks, oldest first
	due     []jetstream.Offset // scheduled and rescheduled tasks that have become due
	ready   int                // tasks that next returns, and some that have been cancelled
	left    int                // tasks that have not ended
	depth   int                // those of them that are due
	dueTurn bool               // next prefers due to frames
	sending int                // tasks that runs of logQueue hold
}

// frame holds the tasks of one flow in one message.
type frame struct {
	seq   uint64
	flow  *flow
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
	isReady              // it is due and has not been delivered to a run
	isLater              // it waits for its due time in the heap
	isSending            // an attempt is recorded, and neither an end nor a reschedule after it
	isClaimed            // the record of an attempt or of a cancellation is being written
	bitCount
)

// progress is the state of a task after its first attempt.
type progress struct {
	attempts    int
	reschedules int
	rescheduled jetstream.Offset // the last record of kind Reschedule, or zero
	due         int64            // according to it, as in dueTask
}

func newTable() *table {
	return &table{frames: map[uint64][]*frame{}, started: map[jetstream.Offset]progress{}, flows: map[flowKey]*flow{}, calls: map[uuid.UUID]bool{}}
}

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

// takeReady returns the first ready task, which is then not ready any more.
func (f *frame) takeReady() (index int, ok bool) {
	for w := (f.from - f.base) / 64; w*int(bitCount) < len(f.bits); w++ {
		if word := f.bits[w*int(bitCount)+int(isReady)]; word != 0 {
			f.from = f.base + w*64 + bits.TrailingZeros64(word)
			f.set(isReady, f.from, false)
			return f.from, true
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
	for i, r := range m.Records {
		if !record.IsRecord(r.Data) { // damaged, or written by a version without a log
			continue
		}
		if id, ofTask := record.ID(r.Data); !ofTask {
			t.applyCall(id, record.Kind(r.Data[0]))
			continue
		}
		h, err := t.parser.Parse(r.Data)
		if err != nil {
			continue
		}
		at := jetstream.Offset{Seq: m.Seq, Index: i}
		f := t.find(jetstream.Offset(h.Of))
		switch {
		case h.Kind == record.Task:
			if f != nil { // it was written again
				t.close(f, h.Of.Index)
			}
			n, _ := r.Tag.(*push.Notification)
			if f := t.add(at, &h, len(r.Data), n); f != nil && !slices.Contains(woken, f) {
				woken = append(woken, f)
			}
		case f != nil:
			t.applyTo(f, &h, at)
		}
	}
	return woken
}

// applyCall applies a record of a synchronous send.
func (t *table) applyCall(id uuid.UUID, kind record.Kind) {
	switch kind {
	case record.Key:
		t.calls[id] = true
	case record.End:
		delete(t.calls, id)
	}
}

// applyTo applies a record to its task.
func (t *table) applyTo(f *frame, h *record.Header, at jetstream.Offset) {
	task := jetstream.Offset(h.Of)
	index, p := task.Index, t.started[task]
	switch h.Kind {
	case record.Sending:
		f.set(isClaimed, index, false)
		f.set(isSending, index, true)
		t.setReady(f, index, false)
		t.setLater(f, index, false)
		p.attempts = h.Attempt
		t.started[task] = p
	case record.Reschedule:
		f.set(isClaimed, index, false)
		f.set(isSending, index, false)
		t.started[task] = progress{h.Attempt, h.Reschedules, at, dueTime(h.SendAt)}
		t.setReady(f, index, false)
		t.setLater(f, index, true)
		heap.Push(&t.later, dueTask{dueTime(h.SendAt), task})
	case record.End, record.Cancel:
		t.close(f, index)
	}
}

// add adds a task. It returns its flow if it is ready.
func (t *table) add(at jetstream.Offset, h *record.Header, bytes int, n *push.Notification) *flow {
	f := t.frameFor(at, flowKey{h.App, h.Lane})
	t.count(f, -1)
	f.left, f.count, f.bytes = f.left+1, f.count+1, f.bytes+int64(bytes)
	t.count(f, +1)
	f.set(isOpen, at.Index, true)
	if h.Attempt > 0 || h.Reschedules > 0 { // it was written before, at another position or by another version
		t.started[at] = progress{attempts: h.Attempt, reschedules: h.Reschedules, rescheduled: at}
	}
	if h.Status == push.StatusSending {
		f.set(isSending, at.Index, true) // until resume
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

// frameFor returns the frame for a new task, which it creates if necessary.
func (t *table) frameFor(at jetstream.Offset, key flowKey) *frame {
	frames := t.frames[at.Seq]
	i := slices.IndexFunc(frames, func(f *frame) bool { return f.flow.key == key })
	if i < 0 {
		f := &frame{seq: at.Seq, flow: t.flows[key], base: at.Index, from: at.Index}
		if f.flow == nil {
			f.flow = &flow{key: key}
			t.flows[key] = f.flow
		}
		f.flow.frames = append(f.flow.frames, f)
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

// close ends a task.
func (t *table) close(f *frame, index int) {
	t.setReady(f, index, false)
	t.setLater(f, index, false)
	for b := range bitCount {
		f.set(b, index, false)
	}
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

func (t *table) setReady(f *frame, index int, on bool) {
	if !f.set(isReady, index, on) {
		return
	}
	if on {
		f.flow.ready++
	} else {
		f.flow.ready--
	}
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

// resume makes the tasks ready whose attempt was recorded by an earlier process. Call it after all
// messages of earlier processes are applied.
func (t *table) resume() {
	for _, frames := range t.frames {
		for _, f := range frames {
			f.from = f.base
			for index := f.base; f.contains(index); index++ {
				if f.has(isOpen, index) && f.has(isSending, index) {
					t.setReady(f, index, true)
				}
			}
		}
	}
	for _, fl := range t.flows {
		fl.frames = slices.DeleteFunc(fl.frames, func(f *frame) bool { return f.left == 0 })
	}
}

// claim reserves a task for the record of an attempt or of a cancellation. It reports whether the
// task has neither ended nor is claimed, and is not being sent. The sender of a task claims it for
// further attempts too.
func (t *table) claim(task jetstream.Offset, isSender bool) bool {
	f := t.find(task)
	if f == nil || !isSender && (f.has(isClaimed, task.Index) || f.has(isSending, task.Index)) {
		return false
	}
	f.set(isClaimed, task.Index, true)
	return true
}

// delivery is a task for a run.
type delivery struct {
	task         jetstream.Offset
	notification *push.Notification // nil if it is not in memory
	progress     progress
	inDoubt      bool // an earlier process may have sent it
}

// nextRun delivers up to limit tasks of a flow.
func (t *table) nextRun(fl *flow, limit int) (run []delivery) {
	for len(run) < limit {
		h, ok := t.next(fl)
		if !ok {
			break
		}
		if run == nil {
			run = make([]delivery, 0, min(limit, max(1, 1+fl.ready)))
		}
		run = append(run, h)
	}
	return run
}

// next delivers a task of a flow. It returns false if there is none.
func (t *table) next(fl *flow) (h delivery, ok bool) {
	fl.dueTurn = !fl.dueTurn
	if fl.dueTurn {
		if h, ok = t.nextDue(fl); !ok {
			h, ok = t.nextReady(fl)
		}
	} else if h, ok = t.nextReady(fl); !ok {
		h, ok = t.nextDue(fl)
	}
	if !ok {
		fl.ready = 0
		return h, false
	}
	f := t.find(h.task)
	h.progress, h.inDoubt = t.started[h.task], f.has(isSending, h.task.Index)
	return h, true
}

func (t *table) nextReady(fl *flow) (delivery, bool) {
	for len(fl.frames) > 0 {
		f := fl.frames[0]
		index, ok := f.takeReady()
		if !ok {
			t.decoded -= len(f.notifications)
			f.notifications = nil
			fl.frames[0] = nil
			fl.frames = fl.frames[1:]
			continue
		}
		fl.ready--
		h := delivery{task: jetstream.Offset{Seq: f.seq, Index: index}}
		for len(f.notifications) > 0 && f.notifications[0].index <= index {
			if f.notifications[0].index == index {
				h.notification = f.notifications[0].notification
			}
			f.notifications[0].notification = nil
			f.notifications = f.notifications[1:]
			t.decoded--
		}
		return h, true
	}
	return delivery{}, false
}

func (t *table) nextDue(fl *flow) (delivery, bool) {
	for len(fl.due) > 0 {
		task := fl.due[0]
		fl.due = fl.due[1:]
		fl.ready--
		if t.find(task) != nil {
			return delivery{task: task}, true
		}
	}
	return delivery{}, false
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
		f.flow.due = append(f.flow.due, first.task)
		f.flow.ready++
		if !slices.Contains(woken, f.flow) {
			woken = append(woken, f.flow)
		}
	}
	if len(t.later) > 0 {
		next = time.UnixMilli(t.later[0].due)
	}
	return woken, next
}

// oldest returns the sequence of the oldest message with tasks that have not ended, or the maximum.
func (t *table) oldest() uint64 {
	for len(t.seqs) > 0 && len(t.frames[t.seqs[0]]) == 0 {
		t.seqs = t.seqs[1:]
	}
	if len(t.seqs) == 0 {
		return math.MaxUint64
	}
	return t.seqs[0]
}

// openBefore returns the tasks in messages before seq that have not ended, or none if their records have
// more than limit bytes.
func (t *table) openBefore(seq uint64, limit int64) (tasks []jetstream.Offset) {
	for _, s := range t.seqs {
		if s >= seq {
			break
		}
		for _, f := range t.frames[s] {
			if limit -= f.bytes * int64(f.left) / int64(f.count); limit < 0 {
				return nil
			}
			for index := f.base; f.contains(index); index++ {
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
