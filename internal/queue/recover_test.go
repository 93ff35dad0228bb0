// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// acceptedEvent returns the event that Accept writes for n.
func acceptedEvent(n *push.Notification) push.Event {
	return push.Event{ID: n.ID, App: n.App, At: n.AcceptedAt, Status: push.StatusQueued, Platform: n.Platform, KeyHash: n.KeyHash, BodyHash: n.BodyHash}
}

func (f *fixture) receipt(t testing.TB, n *push.Notification) push.Receipt {
	t.Helper()
	r, err := f.journal.Receipt(t.Context(), n.App, n.ID)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestAcceptWaitsForJournal accepts while the journal fails. Nothing is stored, and later calls work.
func TestAcceptWaitsForJournal(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	f := openQueue(t, t.TempDir(), j, s, queue.Config{})
	failure := errors.New("no")
	j.beforeAppend = func(e push.Event) error {
		if e.App == "shop" && e.Status == push.StatusQueued {
			return failure
		}
		return nil
	}
	refused, accepted := newNotification("shop"), newNotification("news")
	if errs := f.Accept(t.Context(), []*push.Notification{refused}); !errors.Is(errs[0], failure) {
		t.Error(errs)
	}
	f.accept(t, accepted)
	j.waitEnded(t, accepted)
	if waits, err := f.Confirm(t.Context(), refused.ID); waits || err != nil {
		t.Errorf("waits: %t, %v", waits, err)
	}
	if s.count(refused.ID) != 0 || j.statuses(refused.ID) != nil {
		t.Error("the refused notification is stored")
	}
}

// TestEventsHaveOneOrder accepts notifications while others are sent. The events of each are in the
// order in which they happened.
func TestEventsHaveOneOrder(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	ns := newNotifications("shop", 2000)
	var calls sync.WaitGroup
	for i := range 8 {
		calls.Go(func() {
			for from := i * 250; from < (i+1)*250; from += 25 {
				for _, err := range f.Accept(t.Context(), ns[from:from+25]) {
					if err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	testwait.Call(t, calls.Wait, "the end of all calls")
	f.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if diff := cmp.Diff([]push.Status{push.StatusQueued, push.StatusSending, push.StatusAccepted}, f.journal.statuses(n.ID)); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestDamagedRecordsOfLog flips a bit in the task of a waiting notification, and in the attempt of one
// that must not be repeated. The first ends as lost and the second is in doubt; the others are sent.
func TestDamagedRecordsOfLog(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "the test needs an embedded server")
	t.Setenv(jetstreamtest.EncryptionEnv, "") // it finds the records by their content
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	release := s.block()
	defer release()
	f := openQueue(t, dir, j, s, queue.Config{})
	sending, repeated := newNotification("shop"), newNotification("shop")
	repeated.OnUnknown = push.RepeatAlways
	f.accept(t, sending, repeated)
	s.waitSent(t, sending, repeated)
	scheduled := newNotifications("shop", 9)
	for _, n := range scheduled {
		n.SendAt, n.Title = n.AcceptedAt.Add(time.Second), "title of "+n.ID
	}
	f.accept(t, scheduled[:5]...)
	f.accept(t, scheduled[5:]...)
	crashed := jetstreamtest.CrashedCopy(t, dir)
	journal := j.clone()
	blocks, err := filepath.Glob(filepath.Join(crashed, "jetstream", "*", "streams", history.Stream, "msgs", "*.blk"))
	if err != nil || len(blocks) != 1 {
		t.Fatal(blocks, err)
	}
	data, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	data[bytes.Index(data, []byte("title of "+scheduled[3].ID))] ^= 1
	id := uuid.MustParse(sending.ID)
	data[bytes.LastIndex(data, id[:])] ^= 1 // the attempt
	if err := os.WriteFile(blocks[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, repairedBefore := range []bool{false, true} { // by a process that died before it compared anything
		damaged := t.TempDir()
		if err := os.CopyFS(damaged, os.DirFS(crashed)); err != nil {
			t.Fatal(err)
		}
		if repairedBefore {
			e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: damaged, Reserve: -1})
			if err != nil {
				t.Fatal(err)
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
		}
		newSender := newFakeSender()
		f = openQueue(t, damaged, journal.clone(), newSender, queue.Config{})
		f.journal.waitEnded(t, append(scheduled, sending, repeated)...)
		for i, n := range scheduled {
			r, lost := f.receipt(t, n), i == 3
			if lost != (r.Reason == push.ReasonTaskLost) || lost == (r.Status() == push.StatusAccepted) || lost == (newSender.count(n.ID) == 1) {
				t.Errorf("%d: %+v, sent %d times", i, r, newSender.count(n.ID))
			}
		}
		if r := f.receipt(t, sending); r.Reason != "IN_DOUBT" || newSender.count(sending.ID) != 0 {
			t.Errorf("%+v, sent %d times", r, newSender.count(sending.ID))
		}
		if newSender.count(repeated.ID) != 1 {
			t.Errorf("sent %d times", newSender.count(repeated.ID))
		}
	}
}

// earlierQueue is the queue of a version without a log.
type earlierQueue struct {
	*jetstream.Engine
	journal *memoryJournal
}

func openEarlierQueue(t *testing.T, engineConfig jetstream.Config, j *memoryJournal) earlierQueue {
	t.Helper()
	engineConfig.Reserve = -1
	e, err := jetstream.Open(t.Context(), engineConfig)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range queue.EarlierStreams() {
		if _, err := e.Stream(t.Context(), cfg); err != nil {
			t.Fatal(err)
		}
	}
	return earlierQueue{e, j}
}

// add adds a task with so many attempts, the last one of them in progress, or none in progress and a due
// time.
func (q earlierQueue) add(t *testing.T, n *push.Notification, attempts int, due time.Time) {
	t.Helper()
	subject, events := "sluice.task.normal."+n.App+".1", []push.Event{acceptedEvent(n)}
	sending := acceptedEvent(n)
	sending.Status = push.StatusSending
	var receipt *push.Receipt
	for sending.Attempt = 1; sending.Attempt <= attempts; sending.Attempt++ {
		events = append(events, sending)
	}
	recorded := 0 // in the task
	if !due.IsZero() {
		subject, recorded = "sluice.due.normal."+n.App+".1", attempts
		if attempts > 0 {
			receipt = &push.Receipt{ID: n.ID, Attempts: make([]push.Attempt, attempts)}
			rescheduled := acceptedEvent(n)
			rescheduled.Attempt, rescheduled.SendAt = attempts, due
			events = append(events, rescheduled)
		} else {
			events[0].Status = push.StatusScheduled
		}
	}
	if _, err := q.journal.Append(t.Context(), events...); err != nil {
		t.Fatal(err)
	}
	if _, err := q.JetStream().Publish(t.Context(), subject, queue.EarlierTask(n, recorded, due, receipt)); err != nil {
		t.Fatal(err)
	}
}

// TestTasksOfEarlierVersionAreMoved opens the queue of a version without a log, with tasks in all states.
// They are sent or end as that version would do it, and that version cannot open the queue any more.
func TestTasksOfEarlierVersionAreMoved(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "the test needs an embedded server")
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	old := openEarlierQueue(t, jetstream.Config{Dir: dir}, j)
	retried, scheduled, doubt, repeated, ended := newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop")
	due := time.Now().Add(3 * time.Second)
	scheduled.SendAt, repeated.OnUnknown = due, push.RepeatAlways
	old.add(t, ended, 1, time.Time{})
	end := acceptedEvent(ended)
	end.Status, end.Receipt = push.StatusAccepted, &push.Receipt{ID: ended.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
	if _, err := j.Append(t.Context(), end); err != nil {
		t.Fatal(err)
	}
	old.add(t, retried, 1, due)
	old.add(t, scheduled, 0, due)
	old.add(t, doubt, 1, time.Time{})
	old.add(t, repeated, 1, time.Time{})
	waiting := newNotifications("news", 700)
	for _, n := range waiting {
		old.add(t, n, 0, time.Time{})
	}
	besideDamage := newNotification("shop")
	message := append([]byte("{\"id\":\n{}\n"), queue.EarlierTask(besideDamage, 0, time.Time{}, nil)...)
	if _, err := old.JetStream().Publish(t.Context(), "sluice.task.normal.shop.3", message); err != nil {
		t.Fatal(err)
	}
	waiting = append(waiting, besideDamage)
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	f := openQueue(t, dir, j, s, queue.Config{})
	all := append(waiting, retried, scheduled, doubt, repeated)
	j.waitEnded(t, all...)
	for _, n := range all {
		if r, inDoubt := f.receipt(t, n), n == doubt; inDoubt != (r.Reason == "IN_DOUBT") || inDoubt == (s.count(n.ID) == 1) {
			t.Errorf("%+v, sent %d times", r, s.count(n.ID))
		}
	}
	if r := f.receipt(t, retried); len(r.Attempts) != 2 {
		t.Errorf("%+v", r)
	}
	for _, n := range []*push.Notification{scheduled, retried} {
		if at := s.times[n.ID]; at[0].Before(due) {
			t.Errorf("due at %s, sent at %s", due, at)
		}
	}
	if s.count(ended.ID) != 0 {
		t.Error("a notification that had ended was sent")
	}
	f.stop()
	expectRefusedByEarlierVersion(t, jetstream.Config{Dir: dir})
}

// openGateway opens a queue, and closes it again.
func openGateway(t *testing.T, engineConfig jetstream.Config, j queue.Journal) error {
	e, err := jetstream.Open(t.Context(), engineConfig)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }()
	log, err := history.OpenLog(t.Context(), e, "")
	if err != nil {
		return err
	}
	_, err = queue.Open(t.Context(), queue.Config{Engine: e, Log: log, Journal: j, Sender: newFakeSender()})
	return errors.Join(err, log.Close())
}

// TestGatewaysStartAtTheSameTime opens the queues of several gateways on a new server.
func TestGatewaysStartAtTheSameTime(t *testing.T) {
	engineConfig, j := jetstream.Config{URL: jetstreamtest.StartServer(t)}, newMemoryJournal()
	opened := make(chan error, 4)
	for range cap(opened) {
		go func() { opened <- openGateway(t, engineConfig, j) }()
	}
	for range cap(opened) {
		if err := testwait.For(t, opened, "an open queue"); err != nil {
			t.Error(err)
		}
	}
}

// TestClusterRefusesTasksOfEarlierVersion starts a gateway on a cluster whose gateways of an earlier version
// have not sent everything. When they have, it starts, and they do not accept more.
func TestClusterRefusesTasksOfEarlierVersion(t *testing.T) {
	engineConfig, j, n := jetstream.Config{URL: jetstreamtest.StartServer(t)}, newMemoryJournal(), newNotification("shop")
	old := openEarlierQueue(t, engineConfig, j)
	defer func() { _ = old.Close() }()
	old.add(t, n, 0, time.Time{})
	open := func() error { return openGateway(t, engineConfig, j) }
	if err := open(); err == nil || !strings.Contains(err.Error(), "SLUICE_TASKS: run the gateways of that version until") {
		t.Error(err)
	}
	stream, err := old.JetStream().Stream(t.Context(), "SLUICE_TASKS")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Error(err)
	}
	expectRefusedByEarlierVersion(t, engineConfig)
	if err := open(); err != nil {
		t.Error("the second time: ", err)
	}
}

// TestEarlierVersionRefusesLog opens the queue of a new folder with a version without a log.
func TestEarlierVersionRefusesLog(t *testing.T) {
	j, n := newMemoryJournal(), newNotification("shop")
	f := openQueue(t, t.TempDir(), j, newFakeSender(), queue.Config{})
	f.accept(t, n)
	j.waitEnded(t, n)
	f.stop()
	expectRefusedByEarlierVersion(t, f.engineConfig)
}

// expectRefusedByEarlierVersion fails the test if a version without a log can open its streams, or if the
// server reports a problem with them.
func expectRefusedByEarlierVersion(t *testing.T, engineConfig jetstream.Config) {
	t.Helper()
	var log bytes.Buffer
	engineConfig.Reserve, engineConfig.Logger = -1, slog.New(slog.NewTextHandler(&log, nil))
	e, err := jetstream.Open(t.Context(), engineConfig)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Stream(t.Context(), queue.EarlierStreams()[0]); err == nil {
		t.Error("an earlier version opens the queue")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "problem") {
		t.Error(log.String())
	}
}
