// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

// modelTask is the state of a task, from a fold over its records that shares no code with table.
type modelTask struct {
	flow        flowKey
	ended       bool
	sending     bool
	due         int64 // 0: immediately
	attempts    int
	reschedules int
}

// model is a log with its tasks. Records that are not stored yet are lost by a crash.
type model struct {
	stored  []jetstream.Message
	pending []jetstream.Record // of the next group
	tasks   map[jetstream.Offset]*modelTask
	calls   map[uuid.UUID]uint64 // synchronous sends that have not ended, with the last message about them
	now     time.Time
	first   int // messages before this one of stored are deleted

	checkpoint []byte // or nil

	// Knowledge of the process, which a crash loses.
	table     *table
	delivered map[jetstream.Offset]bool // to a worker
	appended  map[jetstream.Offset]bool // a record of the attempt or of the end is in pending
}

func (m *model) add(r *record.Record) {
	r.App, r.Lane, r.At = "shop", push.LaneNormal, m.now
	data, err := r.Append(nil)
	if err != nil {
		panic(err)
	}
	m.pending = append(m.pending, jetstream.Record{Data: data})
}

// fold applies a stored message to the tasks.
func (m *model) fold(message *jetstream.Message) {
	for i, stored := range message.Records {
		r, err := record.Parse(stored.Data)
		if err != nil {
			panic(err)
		}
		at := jetstream.Offset{Seq: message.Seq, Index: i}
		if r.Kind == record.Task {
			task := &modelTask{flow: flowKey{r.App, r.Lane}, attempts: r.Attempt, reschedules: r.Reschedules}
			if !r.SendAt.IsZero() {
				task.due = dueTime(r.SendAt)
			}
			m.tasks[at] = task
			if r.Of.Seq > 0 {
				m.tasks[jetstream.Offset(r.Of)].ended = true
			}
			continue
		}
		if r.Of.Seq == 0 {
			if r.Kind == record.Key {
				m.calls[r.ID] = message.Seq
			} else {
				delete(m.calls, r.ID)
			}
			continue
		}
		switch task := m.tasks[jetstream.Offset(r.Of)]; {
		case task == nil || task.ended:
		case r.Kind == record.Sending:
			task.sending, task.attempts = true, r.Attempt
		case r.Kind == record.Reschedule:
			task.sending, task.due, task.attempts, task.reschedules = false, dueTime(r.SendAt), r.Attempt, r.Reschedules
		default:
			task.ended, task.sending = true, false
		}
	}
}

// commit stores the pending records as one message.
func (m *model) commit() {
	if len(m.pending) == 0 {
		return
	}
	message := jetstream.Message{Seq: uint64(len(m.stored) + 1), Records: m.pending}
	m.stored, m.pending = append(m.stored, message), nil
	m.fold(&message)
	m.table.apply(&message)
	for _, r := range message.Records {
		if h, err := record.ParseHeader(r.Data); err == nil && h.Kind != record.Task {
			delete(m.appended, jetstream.Offset(h.Of))
			if h.Kind != record.Sending {
				delete(m.delivered, jetstream.Offset(h.Of))
			}
		}
	}
}

// restart replays the stored messages, as a new process does.
func (m *model) restart() {
	m.pending, m.delivered, m.appended = nil, map[jetstream.Offset]bool{}, map[jetstream.Offset]bool{}
	t, seq, err := parseCheckpoint(m.checkpoint, "log")
	if err != nil || seq < uint64(m.first) {
		t, seq = newTable(), 0
	}
	m.table = t
	maps.DeleteFunc(m.calls, func(_ uuid.UUID, last uint64) bool { return last > seq && last <= uint64(m.first) })
	for i := max(int(seq), m.first); i < len(m.stored); i++ {
		m.table.apply(&m.stored[i])
	}
	m.table.resume()
}

// check compares the table with the model.
func (m *model) check(t *rapid.T) {
	open, depth := 0, 0
	for at, task := range m.tasks {
		f := m.table.find(at)
		if task.ended != (f == nil) {
			t.Fatalf("%v: ended %t in the model", at, task.ended)
		}
		if f == nil {
			continue
		}
		open++
		if !f.has(isLater, at.Index) {
			depth++
		}
		if f.has(isSending, at.Index) != task.sending || m.table.started[at].attempts != task.attempts || m.table.started[at].reschedules != task.reschedules {
			t.Fatalf("%v: %+v, %+v", at, task, m.table.started[at])
		}
		if f.has(isLater, at.Index) && f.has(isReady, at.Index) {
			t.Fatalf("%v is both ready and scheduled", at)
		}
	}
	if got, want := slices.Collect(maps.Keys(m.table.calls)), slices.Collect(maps.Keys(m.calls)); !slices.Equal(sortedIDs(got), sortedIDs(want)) {
		t.Fatalf("synchronous sends %v, want %v", got, want)
	}
	if m.table.tasks != open {
		t.Fatalf("%d tasks, want %d", m.table.tasks, open)
	}
	total := 0
	for _, fl := range m.table.flows {
		total += fl.depth
	}
	if total != depth {
		t.Fatalf("%d tasks are due, want %d", total, depth)
	}
	if open == 0 && (m.table.bytes != 0 || m.table.laterBytes != 0 || len(m.table.frames) != 0 || len(m.table.started) != 0) {
		t.Fatalf("without tasks: %+v", m.table)
	}
	oldest := uint64(0)
	for at, task := range m.tasks {
		if !task.ended && (oldest == 0 || at.Seq < oldest) {
			oldest = at.Seq
		}
	}
	if got := m.table.oldest(); oldest != 0 && got != oldest {
		t.Fatalf("the oldest message with tasks is %d, want %d", got, oldest)
	}
}

func sortedIDs(ids []uuid.UUID) []uuid.UUID {
	slices.SortFunc(ids, compareUUIDs)
	return ids
}

// work does the next step of a delivered task: it records an attempt, or the result of one.
func (m *model) work(t *rapid.T, at jetstream.Offset, later func() time.Time) {
	task := m.tasks[at]
	switch {
	case m.appended[at]:
	case task.sending && rapid.IntRange(0, 3).Draw(t, "result") > 0:
		m.appended[at] = true
		r := &record.Record{Header: record.Header{Kind: record.End, Of: record.Position(at)}}
		if rapid.Bool().Draw(t, "again") {
			r.Kind, r.Attempt, r.Reschedules, r.SendAt = record.Reschedule, task.attempts, task.reschedules+1, later()
		}
		m.add(r)
	case m.table.claim(at, task.sending):
		m.appended[at] = true
		m.add(&record.Record{Header: record.Header{Kind: record.Sending, Of: record.Position(at), Attempt: task.attempts + 1}})
	case !task.ended:
		t.Fatalf("%v cannot be sent: %+v", at, task)
	}
}

// TestTableFollowsLog changes tasks at random, stores records in groups, and restarts at every point
// between a record and its storage. The state is that of the stored records; no task is delivered twice,
// early, or after its end; a task is never cancelled and sent.
func TestTableFollowsLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{tasks: map[jetstream.Offset]*modelTask{}, calls: map[uuid.UUID]uint64{}, now: time.UnixMilli(1_000_000)}
		m.restart()
		pick := func(what string, from map[jetstream.Offset]bool) (jetstream.Offset, bool) {
			if len(from) == 0 {
				return jetstream.Offset{}, false
			}
			return rapid.SampledFrom(slices.SortedFunc(maps.Keys(from), func(a, b jetstream.Offset) int {
				if a.Before(b) {
					return -1
				}
				return 1
			})).Draw(t, what), true
		}
		later := func() time.Time {
			return m.now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "ms")) * time.Millisecond)
		}
		t.Repeat(map[string]func(*rapid.T){
			"": m.check,
			"accept": func(t *rapid.T) {
				for range rapid.SampledFrom([]int{1, 2, 3, 70}).Draw(t, "count") {
					r := &record.Record{Notification: &push.Notification{}, Header: record.Header{Kind: record.Task, ID: uuid.UUID{1}, Status: push.StatusQueued}}
					if rapid.IntRange(0, 4).Draw(t, "scheduled") == 0 {
						r.SendAt = later()
					}
					m.add(r)
				}
			},
			"deliver": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "passed")) * time.Millisecond)
				m.table.releaseDue(m.now, 10)
				for _, fl := range m.table.flows {
					for range rapid.IntRange(1, 9).Draw(t, "tasks") {
						h, ok := m.table.next(fl)
						if !ok {
							break
						}
						task := m.tasks[h.task]
						if m.delivered[h.task] || task.ended || task.due > m.now.UnixMilli() || h.inDoubt != task.sending || h.progress.attempts != task.attempts {
							t.Fatalf("%v was delivered: %+v, %+v", h.task, h, task)
						}
						m.delivered[h.task] = true
					}
				}
			},
			"work": func(t *rapid.T) {
				for range rapid.IntRange(1, 12).Draw(t, "steps") {
					if at, ok := pick("task", m.delivered); ok {
						m.work(t, at, later)
					}
					if rapid.IntRange(0, 2).Draw(t, "commit") == 0 {
						m.commit()
					}
				}
			},
			"cancel": func(t *rapid.T) {
				all := map[jetstream.Offset]bool{}
				for at := range m.tasks {
					all[at] = true
				}
				at, ok := pick("task", all)
				if !ok {
					return
				}
				task := m.tasks[at]
				if claimed := m.table.claim(at, false); claimed != (!task.ended && !task.sending && !m.appended[at]) {
					t.Fatalf("%v: claimed %t: %+v", at, claimed, task)
				} else if claimed {
					m.appended[at] = true
					m.add(&record.Record{Header: record.Header{Kind: record.Cancel, Of: record.Position(at)}})
				}
			},
			"write again": func(t *rapid.T) {
				for _, at := range m.table.openBefore(uint64(rapid.IntRange(0, len(m.stored)+1).Draw(t, "before")), 1<<30) {
					task, f := m.tasks[at], m.table.find(at)
					if !m.table.claim(at, false) {
						continue
					}
					m.appended[at] = true
					r := &record.Record{Notification: &push.Notification{}, Header: record.Header{
						Kind: record.Task, ID: uuid.UUID{1}, Status: push.StatusQueued, Of: record.Position(at), Attempt: task.attempts, Reschedules: task.reschedules,
					}}
					if f.has(isLater, at.Index) {
						r.SendAt = time.UnixMilli(task.due - 1)
					}
					m.add(r)
				}
			},
			"delete": func(*rapid.T) { m.first = int(min(m.table.oldest()-1, uint64(len(m.stored)))) },
			"send synchronously": func(t *rapid.T) {
				r := &record.Record{Header: record.Header{Kind: rapid.SampledFrom([]record.Kind{record.Key, record.End}).Draw(t, "kind"), ID: uuid.UUID{byte(rapid.IntRange(0, 3).Draw(t, "call"))}}}
				m.add(r)
			},
			"commit":              func(*rapid.T) { m.commit() },
			"checkpoint":          func(*rapid.T) { m.checkpoint = m.table.appendCheckpoint(nil, "log", uint64(len(m.stored))) },
			"lose the checkpoint": func(*rapid.T) { m.checkpoint = nil },
			"crash":               func(*rapid.T) { m.restart() },
		})
		m.restart()
		for range 1000 { // in the end, every task is delivered once
			m.now = m.now.Add(time.Second)
			m.table.releaseDue(m.now, 100)
		}
		left := map[jetstream.Offset]bool{}
		for at, task := range m.tasks {
			left[at] = !task.ended
		}
		for _, fl := range m.table.flows {
			for h, ok := m.table.next(fl); ok; h, ok = m.table.next(fl) {
				if !left[h.task] {
					t.Fatalf("%v was delivered twice, or after its end", h.task)
				}
				delete(left, h.task)
			}
		}
		for at, is := range left {
			if is {
				t.Fatalf("%v was not delivered: %s", at, fmt.Sprint(m.tasks[at]))
			}
		}
	})
}
