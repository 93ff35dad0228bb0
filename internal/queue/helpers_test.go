// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) {
	tests := jetstreamtest.Main(m)
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := runChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(tests)
}

// memoryJournal is a journal in memory. It outlives the queues of a test.
type memoryJournal struct {
	mu           sync.Mutex
	changed      chan struct{} // closed and replaced after every append
	seq          uint64
	observed     uint64 // the last message that observe got
	events       map[string][]push.Event
	states       map[string]queue.State
	beforeAppend func(push.Event) error // its error makes Append fail
}

func newMemoryJournal() *memoryJournal {
	return &memoryJournal{changed: make(chan struct{}), events: map[string][]push.Event{}, states: map[string]queue.State{}}
}

func (m *memoryJournal) Append(_ context.Context, events ...push.Event) (jetstream.Offset, error) {
	for _, e := range events {
		if m.beforeAppend == nil {
			break
		}
		if err := m.beforeAppend(e); err != nil {
			return jetstream.Offset{}, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range events {
		m.seq++
		m.events[e.ID] = append(m.events[e.ID], e)
		m.applyAt(e, jetstream.Offset{Seq: m.seq})
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return jetstream.Offset{Seq: m.seq}, nil
}

// observe adds the events of a stored message of a log. Several gateways with the same log can call it.
func (m *memoryJournal) observe(message *jetstream.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if message.Seq <= m.observed {
		return
	}
	m.observed = message.Seq
	for i, stored := range message.Records {
		r, err := record.Parse(stored.Data)
		if err != nil {
			panic(err)
		}
		e := r.Event()
		e.Cursor = fmt.Sprintf("%d.%d", message.Seq, i)
		m.events[e.ID] = append(m.events[e.ID], e)
		m.applyAt(e, jetstream.Offset{Seq: message.Seq, Index: i})
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// testLog is a log that asks a journal before it stores a record.
type testLog struct {
	*jetstream.Log
	journal *memoryJournal
}

func (l testLog) Append(ctx context.Context, records ...jetstream.Record) ([]jetstream.Offset, error) {
	if err := l.check(records); err != nil {
		return nil, err
	}
	return l.Log.Append(ctx, records...)
}

func (l testLog) AppendAsync(ctx context.Context, records ...jetstream.Record) error {
	if err := l.check(records); err != nil {
		return err
	}
	return l.Log.AppendAsync(ctx, records...)
}

func (l testLog) check(records []jetstream.Record) error {
	if l.journal.beforeAppend == nil {
		return nil
	}
	for _, stored := range records {
		r, err := record.Parse(stored.Data)
		if err != nil {
			return err
		}
		if err := l.journal.beforeAppend(r.Event()); err != nil {
			return err
		}
	}
	return nil
}

func (m *memoryJournal) Unfinished(_ context.Context, seq uint64) (ids []uuid.UUID, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, s := range m.states {
		switch s.Status {
		case push.StatusQueued, push.StatusScheduled, push.StatusSending:
			if s.Offset.Seq <= seq {
				ids = append(ids, uuid.MustParse(id))
			}
		}
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
	return ids, nil
}

func (m *memoryJournal) Events(_ context.Context, id string) ([]push.Event, error) {
	return m.eventsOf(id), nil
}

// applyAt updates the state as documented on queue.State. The caller holds m.mu.
func (m *memoryJournal) applyAt(e push.Event, at jetstream.Offset) {
	s, waits := m.states[e.ID], e.Status == push.StatusQueued || e.Status == push.StatusScheduled
	switch {
	case s.Status != "" && s.Status != push.StatusQueued && s.Status != push.StatusScheduled && s.Status != push.StatusSending:
		return
	case e.Status == push.StatusCancelled && s.Status == push.StatusSending:
		return
	case e.Status == push.StatusSending && e.Attempt <= s.Attempt:
		return
	case waits && s.Status != "" && (e.Attempt == 0 || e.Attempt < s.Attempt):
		return
	}
	m.states[e.ID] = queue.State{Status: e.Status, Attempt: max(s.Attempt, e.Attempt), Offset: at}
}

func (m *memoryJournal) States(_ context.Context, ids []string) (map[string]queue.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	states := map[string]queue.State{}
	for _, id := range ids {
		states[id] = m.states[id]
	}
	return states, nil
}

func (m *memoryJournal) Receipt(_ context.Context, app, id string) (push.Receipt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := push.Receipt{ID: id, State: m.states[id].Status}
	for _, e := range m.events[id] {
		if e.App != app {
			return r, push.ErrNotFound
		}
		if e.Receipt != nil && e.Status == r.State {
			return *e.Receipt, nil
		}
	}
	if r.State == "" {
		return r, push.ErrNotFound
	}
	return r, nil
}

// clone returns a copy, as another process would read the journal.
func (m *memoryJournal) clone() *memoryJournal {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := newMemoryJournal()
	c.seq, c.observed, c.states = m.seq, m.observed, maps.Clone(m.states)
	for id, events := range m.events {
		c.events[id] = slices.Clip(events) // so that appending to one does not write to the other
	}
	return c
}

// eventsOf returns a notification's events in order.
func (m *memoryJournal) eventsOf(id string) []push.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events[id])
}

// statuses returns the statuses of a notification's events in order.
func (m *memoryJournal) statuses(id string) (statuses []push.Status) {
	for _, e := range m.eventsOf(id) {
		statuses = append(statuses, e.Status)
	}
	return statuses
}

// waitUntil waits until a condition on the journal holds. It checks the condition after every
// append.
func (m *memoryJournal) waitUntil(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for {
		m.mu.Lock()
		changed, done := m.changed, condition()
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("test ended before: " + what)
		case <-time.After(time.Minute):
			t.Fatal("not within a minute: " + what)
		}
	}
}

// waitEnded waits until all of the notifications have ended.
func (m *memoryJournal) waitEnded(t testing.TB, ns ...*push.Notification) {
	t.Helper()
	m.waitUntil(t, fmt.Sprintf("the end of %d notifications", len(ns)), func() bool {
		for _, n := range ns {
			switch m.states[n.ID].Status {
			case "", push.StatusQueued, push.StatusScheduled, push.StatusSending:
				return false
			}
		}
		return true
	})
}

// fakeSender accepts every notification immediately unless configured otherwise.
type fakeSender struct {
	mu             sync.Mutex
	changed        chan struct{} // closed and replaced at every send
	sent           map[string]int
	times          map[string][]time.Time
	active         int // calls of Send in progress
	answer         func(n *push.Notification, attempt int) push.Outcome
	check          func(n *push.Notification) error
	blocks         func(n *push.Notification) bool
	released       chan struct{}
	mayHaveArrived map[string]bool // calls with MayHaveArrived, by ID
}

func newFakeSender() *fakeSender {
	return &fakeSender{changed: make(chan struct{}), sent: map[string]int{}, times: map[string][]time.Time{}, released: make(chan struct{}), mayHaveArrived: map[string]bool{}}
}

// block makes Send block until release is called or its context ends.
func (s *fakeSender) block() (release func()) {
	return s.blockMatching(func(*push.Notification) bool { return true })
}

func (s *fakeSender) blockMatching(match func(*push.Notification) bool) (release func()) {
	s.blocks = match
	return sync.OnceFunc(func() { close(s.released) })
}

func (s *fakeSender) Check(n *push.Notification) error {
	if s.check == nil {
		return nil
	}
	return s.check(n)
}

func (s *fakeSender) Send(ctx context.Context, n *push.Call) *push.Receipt {
	r := &n.Receipt
	*r = push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Accepted, HTTP: 200}}
	if n.BeforeAttempt != nil && n.BeforeAttempt(1) != nil {
		r.Outcome = push.Outcome{Verdict: push.Abandoned}
		return r
	}
	attempt := s.begin(n.Notification)
	defer s.end()
	s.mu.Lock()
	s.mayHaveArrived[n.ID] = s.mayHaveArrived[n.ID] || n.MayHaveArrived
	s.mu.Unlock()
	if s.blocks != nil && s.blocks(n.Notification) {
		select {
		case <-s.released:
		case <-ctx.Done():
		}
	}
	if s.answer != nil {
		r.Outcome = s.answer(n.Notification, attempt)
	}
	if ctx.Err() == context.Canceled {
		r.Outcome = push.Outcome{Verdict: push.Abandoned}
	}
	r.Attempts = []push.Attempt{{Endpoint: "192.0.2.1:443", Started: time.Now(), Outcome: r.Outcome}}
	return r
}

// SendAll sends the calls as a run does: the first attempts together, and others alone.
func (s *fakeSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	sendRun(ctx, calls, ended, s.Send)
}

// sendRun calls BeforeRun for calls, and then send for each, with a BeforeAttempt that has the result.
func sendRun(ctx context.Context, calls []*push.Call, ended func([]*push.Call), send func(context.Context, *push.Call) *push.Receipt) {
	errs := calls[0].BeforeRun(calls)
	for i, c := range calls {
		c.BeforeAttempt = func(int) error {
			if errs == nil {
				return nil
			}
			return errs[i]
		}
	}
	push.SendEach(ctx, calls, ended, send)
}

func (s *fakeSender) begin(n *push.Notification) (attempt int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active++
	s.sent[n.ID]++
	s.times[n.ID] = append(s.times[n.ID], time.Now())
	close(s.changed)
	s.changed = make(chan struct{})
	return s.sent[n.ID]
}

func (s *fakeSender) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
}

func (s *fakeSender) activeCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

func (s *fakeSender) count(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[id]
}

// sentCount returns the number of notifications sent at least once.
func (s *fakeSender) sentCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

// waitSent waits until all of ns are being sent or were sent.
func (s *fakeSender) waitSent(t testing.TB, ns ...*push.Notification) {
	t.Helper()
	s.waitUntil(t, func() bool {
		return !slices.ContainsFunc(ns, func(n *push.Notification) bool { return s.sent[n.ID] == 0 })
	})
}

// waitSentCount waits until count notifications are being sent or were sent.
func (s *fakeSender) waitSentCount(t testing.TB, count int) {
	t.Helper()
	s.waitUntil(t, func() bool { return len(s.sent) >= count })
}

func (s *fakeSender) waitUntil(t testing.TB, condition func() bool) {
	t.Helper()
	for {
		s.mu.Lock()
		changed, done := s.changed, condition()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Minute):
			t.Fatal("not within a minute")
		}
	}
}

// fixture is a running queue with its engine, journal and sender.
type fixture struct {
	crashed atomic.Bool // the log fails, because its connection is closed
	*queue.Queue
	dir          string
	engineConfig jetstream.Config
	engine       *jetstream.Engine
	log          *jetstream.Log
	journal      *memoryJournal
	sender       *fakeSender
	stop         func() // drains the queue and closes the engine; runs at the end of the test at the latest
}

// openQueue opens and runs a queue: in dir, or as the gateway of dir in the account of dir on the cluster.
func openQueue(t testing.TB, dir string, j *memoryJournal, s *fakeSender, cfg queue.Config) *fixture {
	t.Helper()
	return openQueueAt(t, jetstreamtest.Config(t, dir), dir, j, s, cfg)
}

// openQueueAt opens and runs a queue. In a cluster it is that of the gateway of dir, or of a new one if dir
// is empty.
func openQueueAt(t testing.TB, engineConfig jetstream.Config, dir string, j *memoryJournal, s *fakeSender, cfg queue.Config) *fixture {
	t.Helper()
	engineConfig.Reserve, engineConfig.Keys = -1, jetstreamtest.Keys()
	if cfg.Journal = j; cfg.Sender == nil {
		cfg.Sender = s
	}
	var q *queue.Queue
	var log *jetstream.Log
	jetstreamtest.Retry(t, engineConfig, func() (err error) {
		if cfg.Engine, err = jetstream.Open(t.Context(), engineConfig); err != nil {
			return err
		}
		if log, err = history.OpenLog(t.Context(), cfg.Engine, dir); err != nil {
			return errors.Join(err, cfg.Engine.Close())
		}
		log.Observe(j.observe)
		cfg.Log = testLog{log, j}
		if q, err = queue.Open(t.Context(), cfg); err != nil {
			return errors.Join(err, log.Close(), cfg.Engine.Close())
		}
		return nil
	})
	f := runQueue(t, cfg.Engine, log, q, j, s)
	f.dir, f.engineConfig = dir, engineConfig
	return f
}

// runQueue runs q until stop is called or the test ends.
func runQueue(t testing.TB, e *jetstream.Engine, log *jetstream.Log, q *queue.Queue, j *memoryJournal, s *fakeSender) *fixture {
	ctx, stop := context.WithCancel(context.Background())
	logCtx, stopLog := context.WithCancel(context.Background())
	f := &fixture{Queue: q, engine: e, log: log, journal: j, sender: s}
	var running, writing sync.WaitGroup
	running.Go(func() { _ = e.Run(ctx) })
	running.Go(func() {
		if err := q.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	writing.Go(func() {
		if err := log.Run(logCtx); err != nil && !f.crashed.Load() {
			t.Error(err)
		}
	})
	f.stop = sync.OnceFunc(func() {
		stop()
		running.Wait()
		stopLog()
		writing.Wait()
		if err := errors.Join(log.Close(), e.Close()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(f.stop)
	return f
}

func newNotification(app string) *push.Notification {
	return &push.Notification{
		ID: uuid.Must(uuid.NewV7()).String(), App: app, AcceptedAt: time.Now().UTC(), Platform: push.APNs, Target: push.Target{Token: "00"}, Title: "t",
	}
}

func newNotifications(app string, count int) (ns []*push.Notification) {
	for range count {
		ns = append(ns, newNotification(app))
	}
	return ns
}

func (f *fixture) accept(t testing.TB, ns ...*push.Notification) {
	t.Helper()
	for _, err := range f.Accept(t.Context(), ns) {
		if err != nil {
			t.Fatal(err)
		}
	}
}
