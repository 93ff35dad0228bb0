// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
	sender      string // the process with the last valid attempt
	due         int64  // 0: immediately
	attempts    int
	reschedules int
}

// model is a log with its tasks, and the gateways that write it.
type model struct {
	stored   []jetstream.Message
	tasks    map[jetstream.Offset]*modelTask
	calls    map[uuid.UUID]string // synchronous sends that have not ended, by the process that sends
	sent     map[jetstream.Offset]map[string]int
	now      time.Time
	first    int // messages before this one of stored are deleted
	gateways []*modelGateway
}

// modelGateway is a gateway with a replica of the state. Records that are not stored yet are lost by a crash.
type modelGateway struct {
	*model
	name       string
	restarts   int
	table      *table
	applied    int // messages
	pending    []jetstream.Record
	checkpoint []byte // or nil
	delivered  map[jetstream.Offset]delivery
	appended   map[jetstream.Offset]bool // a record of the attempt or of the end is in pending
	dead       bool                      // it does nothing until it restarts
}

func (g *modelGateway) process() string { return fmt.Sprintf("%s.%d", g.name, g.restarts) }

func (g *modelGateway) add(r *record.Record) {
	r.App, r.Lane, r.At = "shop", push.LaneNormal, g.now
	data, err := r.Append(nil)
	if err != nil {
		panic(err)
	}
	g.pending = append(g.pending, jetstream.Record{Data: data})
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
			task := &modelTask{flow: flowKey{r.App, r.Platform, r.Lane}, attempts: r.Attempt, reschedules: r.Reschedules}
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
				m.calls[r.ID] = message.Writer
			} else {
				delete(m.calls, r.ID)
			}
			continue
		}
		switch task := m.tasks[jetstream.Offset(r.Of)]; {
		case task == nil || task.ended:
		case r.Kind == record.Sending && r.Attempt > task.attempts:
			task.sending, task.attempts, task.sender = true, r.Attempt, message.Writer
		case r.Kind == record.Reschedule && r.Attempt >= task.attempts:
			task.sending, task.due, task.attempts, task.reschedules = false, dueTime(r.SendAt), r.Attempt, r.Reschedules
		case r.Kind == record.Cancel && !task.sending, r.Kind == record.End:
			task.ended, task.sending = true, false
		}
	}
}

// commit stores the pending records of a gateway as one message.
func (g *modelGateway) commit() {
	if len(g.pending) == 0 || g.dead {
		return
	}
	message := jetstream.Message{Seq: uint64(len(g.stored) + 1), Writer: g.process(), Records: g.pending}
	g.stored, g.pending = append(g.stored, message), nil
	g.fold(&message)
}

// follow applies so many of the next messages.
func (g *modelGateway) follow(t *rapid.T, count int) {
	for ; count > 0 && max(g.applied, g.first) < len(g.stored); count-- {
		m := g.stored[max(g.applied, g.first)]
		if g.applied < g.first {
			m.FirstSeq = uint64(g.first + 1)
		}
		g.applied = int(m.Seq)
		g.table.apply(&m)
		if m.Writer != g.process() {
			continue
		}
		for i, r := range m.Records {
			h, err := record.ParseHeader(r.Data)
			if err != nil || h.Kind == record.Task {
				continue
			}
			of := jetstream.Offset(h.Of)
			delete(g.appended, of)
			switch {
			case h.Kind != record.Sending:
				delete(g.delivered, of)
			case !g.table.isSent(of, jetstream.Offset{Seq: m.Seq, Index: i}): // another record came first
				delete(g.delivered, of)
			default:
				d := g.delivered[of]
				d.progress.attempts, d.inDoubt = h.Attempt, false
				g.delivered[of] = d
				if g.sent[of] == nil {
					g.sent[of] = map[string]int{}
				}
				if g.sent[of][fmt.Sprint(h.Attempt)]++; g.sent[of][fmt.Sprint(h.Attempt)] > 1 {
					t.Fatalf("attempt %d of %v is sent twice", h.Attempt, of)
				}
			}
		}
	}
}

// restart replays the stored messages, as a new process of the gateway does.
func (g *modelGateway) restart(t *rapid.T) {
	g.restarts++
	g.dead, g.pending, g.delivered, g.appended = false, nil, map[jetstream.Offset]delivery{}, map[jetstream.Offset]bool{}
	isOwn := func(writer string) bool { return strings.HasPrefix(writer, g.name+".") }
	g.table = newTable(g.process(), isOwn, 3)
	seq, err := g.table.parse(g.checkpoint, "log")
	if err != nil || seq < uint64(g.first) {
		g.table, seq = newTable(g.process(), isOwn, 3), 0
	}
	g.applied = max(int(seq), g.first)
	g.follow(t, len(g.stored))
	g.table.resume()
}

// check compares the replica of a gateway that has applied everything with the model.
func (g *modelGateway) check(t *rapid.T) {
	if g.applied < len(g.stored) {
		return
	}
	open, depth := 0, 0
	for at, task := range g.tasks {
		f := g.table.find(at)
		if task.ended != (f == nil) {
			t.Fatalf("%s: %v: ended %t in the model", g.name, at, task.ended)
		}
		if f == nil {
			continue
		}
		open++
		if !f.has(isLater, at.Index) {
			depth++
		}
		p := g.table.started[at]
		if f.has(isSending, at.Index) != task.sending || p.attempts != task.attempts || p.reschedules != task.reschedules {
			t.Fatalf("%s: %v: %+v, %+v", g.name, at, task, p)
		}
		if task.sending && p.writer.name != task.sender {
			t.Fatalf("%s: %v is sent by %s, want %s", g.name, at, p.writer.name, task.sender)
		}
		if f.has(isLater, at.Index) && f.has(isReady, at.Index) {
			t.Fatalf("%s: %v is both ready and scheduled", g.name, at)
		}
		if f.has(isReady, at.Index) && task.sending && !g.table.isDead(p.writer) {
			t.Fatalf("%s: %v is ready while it is sent", g.name, at)
		}
	}
	if g.table.tasks != open {
		t.Fatalf("%s: %d tasks, want %d", g.name, g.table.tasks, open)
	}
	total, ready, sending := 0, 0, 0
	for _, fl := range g.table.flows {
		total, ready = total+fl.depth, ready+fl.own.ready
		for _, b := range fl.others {
			ready += b.ready
		}
	}
	for _, w := range g.table.writers {
		sending += w.sending
	}
	if total != depth {
		t.Fatalf("%s: %d tasks are due, want %d", g.name, total, depth)
	}
	wantSending := 0
	for _, task := range g.tasks {
		if task.sending {
			wantSending++
		}
	}
	if sending != wantSending || ready > depth {
		t.Fatalf("%s: %d tasks are sent, want %d; %d are ready", g.name, sending, wantSending, ready)
	}
	if open == 0 && (g.table.bytes != 0 || g.table.laterBytes != 0 || len(g.table.frames) != 0 || len(g.table.started) != 0) {
		t.Fatalf("%s without tasks: %+v", g.name, g.table)
	}
	oldest := uint64(0)
	for at, task := range g.tasks {
		if !task.ended && (oldest == 0 || at.Seq < oldest) {
			oldest = at.Seq
		}
	}
	if got := g.table.oldest(); oldest != 0 && got != oldest {
		t.Fatalf("%s: the oldest message with tasks is %d, want %d", g.name, got, oldest)
	}
}

// work does the next step of a delivered task: it records an attempt, or the result of one.
func (g *modelGateway) work(t *rapid.T, at jetstream.Offset, later func() time.Time) {
	d := g.delivered[at]
	p, f := g.table.started[at], g.table.find(at)
	mine := f != nil && f.has(isSending, at.Index) && p.writer == g.table.self && p.attempts == d.progress.attempts
	switch {
	case g.appended[at]:
	case mine && rapid.IntRange(0, 3).Draw(t, "result") > 0, d.inDoubt && rapid.Bool().Draw(t, "end in doubt"):
		g.appended[at] = true
		r := &record.Record{Header: record.Header{Kind: record.End, Of: record.Position(at)}}
		if mine && rapid.Bool().Draw(t, "again") {
			r.Kind, r.Attempt, r.Reschedules, r.SendAt = record.Reschedule, d.progress.attempts, p.reschedules+1, later()
		}
		g.add(r)
	case !mine && !d.inDoubt && rapid.IntRange(0, 5).Draw(t, "end without an attempt") == 0:
		g.appended[at] = true
		g.add(&record.Record{Header: record.Header{Kind: record.Cancel, Of: record.Position(at)}})
	case g.table.mayStart(at, d.progress.attempts):
		g.appended[at] = true
		g.add(&record.Record{Header: record.Header{Kind: record.Sending, Of: record.Position(at), Attempt: d.progress.attempts + 1}})
	default:
		if f != nil && p.attempts == d.progress.attempts && !f.has(isLater, at.Index) && (!f.has(isSending, at.Index) || p.writer == g.table.self) {
			t.Fatalf("%s: %v cannot be sent: %+v", g.name, at, d)
		}
		delete(g.delivered, at)
	}
}

// deliver takes tasks of all flows.
func (g *modelGateway) deliver(t *rapid.T, limit int) {
	g.table.releaseDue(g.now, 10)
	for _, fl := range g.table.flows {
		for range limit {
			h, ok := g.table.next(fl)
			if !ok {
				break
			}
			task := g.tasks[h.task]
			if earlier, again := g.delivered[h.task]; again && (g.table.mayStart(h.task, earlier.progress.attempts) && len(g.gateways) == 1) || g.table.find(h.task) == nil {
				t.Fatalf("%s: %v was delivered again, or after its end: %+v", g.name, h.task, h)
			}
			if g.applied == len(g.stored) && (task.ended || task.due > g.now.UnixMilli() || h.inDoubt != task.sending || h.progress.attempts != task.attempts) {
				t.Fatalf("%s: %v was delivered: %+v, %+v", g.name, h.task, h, task)
			}
			g.delivered[h.task] = h
		}
	}
}

// see tells a gateway which others are alive. mistaken ones count as dead, also for a while after they are
// not.
func (g *modelGateway) see(dead, settled func(*modelGateway) bool) {
	peers, byName := []peer{}, map[string]*modelGateway{}
	for _, other := range g.gateways {
		byName[other.process()] = other
		if !other.dead && !dead(other) {
			peers = append(peers, newPeer(other.process()))
		}
	}
	g.table.setPeers(peers, func(name string) bool { // earlier processes do not exist any more
		return byName[name] == nil || byName[name].dead || dead(byName[name])
	}, func(name string) bool { return byName[name] == nil || byName[name].dead && settled(byName[name]) })
}

// TestTableFollowsLog changes tasks at random at several gateways, stores their records in groups, and
// restarts, kills and delays gateways at every point between a record and its storage. Every replica has
// the state of the stored records; no attempt is sent twice, early, or after the end of its task; a task is
// never cancelled and sent; and in the end every task is delivered.
func TestTableFollowsLog(t *testing.T) {
	for gateways := 1; gateways <= 3; gateways++ {
		t.Run(fmt.Sprint(gateways), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { checkTables(t, gateways) })
		})
	}
}

func checkTables(t *rapid.T, gateways int) {
	m := &model{tasks: map[jetstream.Offset]*modelTask{}, calls: map[uuid.UUID]string{}, sent: map[jetstream.Offset]map[string]int{}, now: time.UnixMilli(1_000_000)}
	for i := range gateways {
		g := &modelGateway{model: m, name: fmt.Sprintf("g%d", i)}
		m.gateways = append(m.gateways, g)
		g.restart(t)
	}
	none := func(*modelGateway) bool { return false }
	all := func(*modelGateway) bool { return true }
	for _, g := range m.gateways {
		g.see(none, none)
	}
	pickOffset := func(t *rapid.T, from []jetstream.Offset) (jetstream.Offset, bool) {
		if len(from) == 0 {
			return jetstream.Offset{}, false
		}
		slices.SortFunc(from, func(a, b jetstream.Offset) int {
			if a.Before(b) {
				return -1
			}
			return 1
		})
		return rapid.SampledFrom(from).Draw(t, "task"), true
	}
	pick := func(t *rapid.T) *modelGateway {
		g := rapid.SampledFrom(m.gateways).Draw(t, "gateway")
		if g.dead {
			g = m.gateways[0] // which is never dead for long
		}
		if g.dead {
			g.restart(t)
		}
		return g
	}
	later := func() time.Time {
		return m.now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "ms")) * time.Millisecond)
	}
	t.Repeat(map[string]func(*rapid.T){
		"": func(t *rapid.T) {
			for _, g := range m.gateways {
				g.check(t)
			}
		},
		"accept": func(t *rapid.T) {
			g := pick(t)
			for range rapid.SampledFrom([]int{1, 2, 3, 70}).Draw(t, "count") {
				r := &record.Record{Notification: &push.Notification{}, Header: record.Header{Kind: record.Task, ID: uuid.UUID{1}, Status: push.StatusQueued}}
				if rapid.IntRange(0, 4).Draw(t, "scheduled") == 0 {
					r.SendAt = later()
				}
				g.add(r)
			}
		},
		"deliver": func(t *rapid.T) {
			m.now = m.now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "passed")) * time.Millisecond)
			pick(t).deliver(t, rapid.IntRange(1, 9).Draw(t, "tasks"))
		},
		"work": func(t *rapid.T) {
			g := pick(t)
			for range rapid.IntRange(1, 12).Draw(t, "steps") {
				if at, ok := pickOffset(t, slices.Collect(maps.Keys(g.delivered))); ok {
					g.work(t, at, later)
				}
				if rapid.IntRange(0, 2).Draw(t, "commit") == 0 {
					g.commit()
				}
				if rapid.IntRange(0, 2).Draw(t, "follow") == 0 {
					g.follow(t, 3)
				}
			}
		},
		"cancel": func(t *rapid.T) {
			if at, ok := pickOffset(t, slices.Collect(maps.Keys(m.tasks))); ok {
				pick(t).add(&record.Record{Header: record.Header{Kind: record.Cancel, Of: record.Position(at)}})
			}
		},
		"write again": func(t *rapid.T) {
			g := pick(t)
			g.commit()
			g.follow(t, len(m.stored)) // see Log.Exclusive
			for _, at := range g.table.openBefore(uint64(rapid.IntRange(0, len(m.stored)+1).Draw(t, "before")), 1<<30) {
				r := &record.Record{Notification: &push.Notification{}, Header: record.Header{Kind: record.Task, ID: uuid.UUID{1}, Status: push.StatusQueued}}
				if task := m.tasks[at]; task.due > 0 {
					r.SendAt = time.UnixMilli(task.due - 1)
				}
				r.App, r.Lane, r.At = "shop", push.LaneNormal, g.now
				if data := g.table.rewritten(r, at, g.table.started[at]); data != nil {
					g.pending = append(g.pending, jetstream.Record{Data: data})
				}
			}
			g.commit()
		},
		"delete": func(*rapid.T) {
			g := pick(t)
			if oldest := int(min(g.table.oldest()-1, uint64(g.applied))); oldest > m.first {
				m.first = oldest
			}
		},
		"send synchronously": func(t *rapid.T) {
			r := &record.Record{Header: record.Header{Kind: rapid.SampledFrom([]record.Kind{record.Key, record.End}).Draw(t, "kind"), ID: uuid.UUID{byte(rapid.IntRange(0, 3).Draw(t, "call"))}}}
			pick(t).add(r)
		},
		"commit": func(t *rapid.T) { pick(t).commit() },
		"follow": func(t *rapid.T) {
			for _, g := range m.gateways {
				if !g.dead {
					g.follow(t, rapid.SampledFrom([]int{1, 5, 1000}).Draw(t, "messages"))
				}
			}
		},
		"checkpoint": func(t *rapid.T) {
			g := pick(t)
			g.checkpoint = g.table.appendCheckpoint(nil, "log", uint64(g.applied))
		},
		"lose the checkpoint": func(t *rapid.T) { pick(t).checkpoint = nil },
		"crash":               func(t *rapid.T) { pick(t).restart(t) },
		"die": func(t *rapid.T) {
			if g := pick(t); g != m.gateways[0] {
				g.dead = true
			}
		},
		"see": func(t *rapid.T) {
			mistaken := rapid.SampledFrom(m.gateways).Draw(t, "mistaken")
			pick(t).see(func(g *modelGateway) bool { return g == mistaken }, all)
		},
	})
	// In the end all but one are dead. It delivers every task once.
	g := m.gateways[0]
	g.restart(t)
	for _, other := range m.gateways[1:] {
		other.dead = true
	}
	g.follow(t, len(m.stored))
	for range 1000 {
		m.now = m.now.Add(time.Second)
		g.table.releaseDue(m.now, 100)
	}
	g.see(none, all)
	left := map[jetstream.Offset]bool{}
	for at, task := range m.tasks {
		left[at] = !task.ended
	}
	for _, fl := range g.table.flows {
		for h, ok := g.table.next(fl); ok; h, ok = g.table.next(fl) {
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
	g.checkCalls(t)
}

// checkCalls compares the synchronous sends that were interrupted. Those in deleted messages may be missing,
// and their ends.
func (g *modelGateway) checkCalls(t *rapid.T) {
	if g.first > 0 {
		return
	}
	got, want := g.table.interrupted(), []string{}
	for id := range g.calls {
		want = append(want, id.String())
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("synchronous sends %v, want %v", got, want)
	}
}
