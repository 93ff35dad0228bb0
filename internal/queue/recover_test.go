// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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

// TestInterruptedAcceptIsEnded opens a queue after a process that died between the event and the task.
// The notification ends, nothing is sent, and it may be accepted again with the same key.
func TestInterruptedAcceptIsEnded(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "in a cluster it takes six minutes")
	j, s := newMemoryJournal(), newFakeSender()
	interrupted, synchronous := newNotification("shop"), newNotification("shop")
	interrupted.KeyHash, interrupted.BodyHash = []byte("key"), []byte("body")
	sending := acceptedEvent(synchronous)
	sending.Status, sending.Attempt = push.StatusSending, 1
	if _, err := j.Append(t.Context(), acceptedEvent(interrupted), sending); err != nil {
		t.Fatal(err)
	}
	f := openSharedQueue(t, t.TempDir(), j, s, queue.Config{})
	if waits, err := f.Confirm(t.Context(), interrupted.ID); waits || err != nil {
		t.Errorf("waits: %t, %v", waits, err)
	}
	if r := f.receipt(t, interrupted); r.Status() != push.StatusUnknown || r.Reason != push.ReasonNotStored || !r.NeverQueued() {
		t.Errorf("%+v", r)
	}
	if e := j.eventsOf(interrupted.ID); e[len(e)-1].KeyHash != nil || e[len(e)-1].Platform != push.APNs {
		t.Errorf("%+v: another notification may have the key by now", e[len(e)-1])
	}
	if r := f.receipt(t, synchronous); r.Status() != push.StatusUnknown || r.Reason != "IN_DOUBT" || len(r.Attempts) != 1 {
		t.Errorf("%+v: its gateway died during a synchronous send", r)
	}
	own := newNotification("shop")
	own.SendAt = own.AcceptedAt.Add(time.Hour)
	f.accept(t, own)
	if waits, err := f.Confirm(t.Context(), own.ID); !waits || err != nil {
		t.Errorf("waits: %t, %v", waits, err)
	}
	if s.sentCount() != 0 {
		t.Errorf("%d sent", s.sentCount())
	}
}

// TestClusterEndsSendsOfDeadGateways appends events of synchronous sends to a journal that other gateways
// of a cluster use. Those without an end are ended, also some time after the start.
func TestClusterEndsSendsOfDeadGateways(t *testing.T) {
	j := newMemoryJournal()
	openQueueAt(t, jetstream.Config{URL: jetstreamtest.StartServer(t)}, j, newFakeSender(), queue.Config{SettleTime: 20 * time.Millisecond})
	for range 3 {
		dead, alive := newNotification("shop"), newNotification("shop")
		sending := []push.Event{acceptedEvent(dead), acceptedEvent(alive)}
		sending[0].Status, sending[0].Attempt, sending[1].Status, sending[1].Attempt = push.StatusSending, 1, push.StatusSending, 1
		end := acceptedEvent(alive)
		end.Status, end.Receipt = push.StatusAccepted, &push.Receipt{ID: alive.ID, Outcome: push.Outcome{Verdict: push.Accepted}}
		if _, err := j.Append(t.Context(), sending[0], sending[1], end); err != nil {
			t.Fatal(err)
		}
		j.waitEnded(t, dead)
		for n, want := range map[*push.Notification][]push.Status{dead: {push.StatusSending, push.StatusUnknown}, alive: {push.StatusSending, push.StatusAccepted}} {
			if diff := cmp.Diff(want, j.statuses(n.ID)); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// TestClusterReportsMissingTasks deletes the message of an accepted notification, as a cluster that loses
// it, and appends the event of an interrupted call. No record tells them apart: both end as unknown and
// keep their keys.
func TestClusterReportsMissingTasks(t *testing.T) {
	j := newMemoryJournal()
	f := openQueueAt(t, jetstream.Config{URL: jetstreamtest.StartServer(t)}, j, newFakeSender(), queue.Config{SettleTime: 20 * time.Millisecond})
	lost, interrupted, kept := newNotification("shop"), newNotification("shop"), newNotification("shop")
	for _, n := range []*push.Notification{lost, kept} {
		n.SendAt = n.AcceptedAt.Add(time.Hour)
		f.accept(t, n)
	}
	stream, err := f.engine.JetStream().Stream(t.Context(), "SLUICE_LATER")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(t.Context(), acceptedEvent(interrupted)); err != nil {
		t.Fatal(err)
	}
	j.waitEnded(t, lost, interrupted)
	for _, n := range []*push.Notification{lost, interrupted} {
		if r := f.receipt(t, n); r.Status() != push.StatusUnknown || r.Reason != push.ReasonTaskMissing || r.NeverQueued() {
			t.Errorf("%+v", r)
		}
	}
	if r := f.receipt(t, kept); r.Status() != push.StatusScheduled {
		t.Errorf("%+v", r)
	}
}

// behindJournal is a journal that cannot be read up to its end.
type behindJournal struct {
	*memoryJournal
	behind *atomic.Bool
}

func (j behindJournal) WaitCaughtUp(context.Context) error {
	if j.behind.Load() {
		return errors.New("behind")
	}
	return nil
}

// TestAfterResolvedWaitsForResult loses the response of a write. Whether it was stored is known when the
// journal can be read again.
func TestAfterResolvedWaitsForResult(t *testing.T) {
	j := behindJournal{newMemoryJournal(), &atomic.Bool{}}
	j.behind.Store(true)
	lost, stored := newNotification("shop"), newNotification("shop")
	j.beforeAppend = func(e push.Event) error {
		if e.ID == lost.ID && e.Status == push.StatusQueued {
			return errors.New("no response")
		}
		return nil
	}
	f := openQueueOn(t, jetstreamtest.Config(t, t.TempDir()), false, j, j.memoryJournal, newFakeSender(), queue.Config{})
	f.accept(t, stored)
	if err := f.Accept(t.Context(), []*push.Notification{lost})[0]; err == nil {
		t.Error("accepted")
	}
	known, lostKnown := make(chan struct{}), make(chan struct{})
	f.AfterResolved(stored.ID, func() { close(known) })
	f.AfterResolved(lost.ID, func() { close(lostKnown) })
	testwait.For(t, known, "a stored notification is known")
	select {
	case <-lostKnown:
		t.Error("known although the journal cannot be read")
	default:
	}
	j.behind.Store(false)
	testwait.For(t, lostKnown, "the other one is known")
}

// delayingJournal is a journal that stores the first event after the response that it cannot.
type delayingJournal struct {
	*memoryJournal
	late chan push.Event
}

func (j delayingJournal) Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error) {
	if events[0].Status == push.StatusQueued {
		j.late <- events[0]
		return jetstream.Offset{}, errors.New("no response")
	}
	return j.memoryJournal.Append(ctx, events...)
}

// TestLateEventDoesNotWait stores the event that a notification is accepted after its call has failed and
// was resolved.
func TestLateEventDoesNotWait(t *testing.T) {
	j := delayingJournal{newMemoryJournal(), make(chan push.Event, 1)}
	n := newNotification("shop")
	f := openQueueOn(t, jetstream.Config{URL: jetstreamtest.StartServer(t)}, false, j, j.memoryJournal, newFakeSender(), queue.Config{})
	if err := f.Accept(t.Context(), []*push.Notification{n})[0]; err == nil {
		t.Error("accepted")
	}
	resolved := make(chan struct{})
	f.AfterResolved(n.ID, func() { close(resolved) })
	testwait.For(t, resolved, "the call is resolved")
	if _, err := j.memoryJournal.Append(t.Context(), testwait.For(t, j.late, "the event")); err != nil {
		t.Fatal(err)
	}
	if r := f.receipt(t, n); r.Status() != push.StatusCancelled || r.Reason != push.ReasonNotStored {
		t.Errorf("%+v", r)
	}
}

// TestRecoveryKeepsQueuedNotifications restarts a queue with tasks in all states. Only the notification
// without a task ends.
func TestRecoveryKeepsQueuedNotifications(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "in a cluster it takes six minutes")
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	s.answer = func(n *push.Notification, _ int) push.Outcome {
		if n.Title == "retry" {
			return push.Outcome{Verdict: push.Throttled, RetryAfter: time.Hour}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	release := s.blockMatching(func(n *push.Notification) bool { return n.Title == "block" })
	f := openSharedQueue(t, dir, j, s, queue.Config{InFlight: 2})
	retried, scheduled, due, lost := newNotification("shop"), newNotification("shop"), newNotifications("news", 300), newNotification("shop")
	retried.Title, scheduled.SendAt = "retry", scheduled.AcceptedAt.Add(time.Hour)
	for _, n := range due {
		n.Title = "block"
	}
	f.accept(t, append(due, retried, scheduled)...)
	s.waitSent(t, retried)
	j.waitUntil(t, "the retry is scheduled", func() bool { return len(j.events[retried.ID]) == 3 })
	f.Drain()
	release()
	f.stop()
	if _, err := j.Append(t.Context(), acceptedEvent(lost)); err != nil {
		t.Fatal(err)
	}
	f = openSharedQueue(t, dir, j, s, queue.Config{})
	for n, want := range map[*push.Notification]push.Status{retried: push.StatusQueued, scheduled: push.StatusScheduled, lost: push.StatusUnknown} {
		if _, err := f.Confirm(t.Context(), n.ID); err != nil {
			t.Fatal(err)
		}
		if r := f.receipt(t, n); r.Status() != want {
			t.Errorf("%+v, want %s", r, want)
		}
	}
	j.waitEnded(t, due...)
	for _, n := range due {
		if r := f.receipt(t, n); r.Status() != push.StatusAccepted {
			t.Fatalf("%+v", r)
		}
	}
}

// damageFirstBlock flips a bit in the middle of the first block of a stream.
func damageFirstBlock(t *testing.T, dir, stream string) {
	t.Helper()
	blocks, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", stream, "msgs", "*.blk"))
	if err != nil || len(blocks) == 0 {
		t.Fatal(blocks, err)
	}
	data, err := os.ReadFile(blocks[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(blocks[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedTaskEndsAsUnknown flips a bit in the stream of tasks and in that of scheduled tasks. The
// notifications of the damaged records end as unknown, with their attempts; the others are sent.
func TestDamagedTaskEndsAsUnknown(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "the test needs an embedded server")
	for stream, later := range map[string]bool{"SLUICE_TASKS": false, "SLUICE_LATER": true} {
		t.Run(stream, func(t *testing.T) {
			j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
			release := s.block()
			defer release()
			f := openSharedQueue(t, dir, j, s, queue.Config{})
			var ns []*push.Notification
			for range 9 {
				n := newNotification("shop")
				n.OnUnknown = push.RepeatAlways
				if later {
					n.SendAt = n.AcceptedAt.Add(time.Hour)
				}
				f.accept(t, n) // each in its own record
				ns = append(ns, n)
			}
			if !later {
				s.waitSent(t, ns...)
			}
			crashed := t.TempDir()
			if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			damageFirstBlock(t, crashed, stream)
			f = openSharedQueue(t, crashed, j.clone(), newFakeSender(), queue.Config{})
			lost := 0
			for _, n := range ns {
				if _, err := f.Confirm(t.Context(), n.ID); err != nil {
					t.Fatal(err)
				}
				if !later {
					f.journal.waitEnded(t, n)
				}
				r := f.receipt(t, n)
				switch {
				case r.Reason == push.ReasonTaskLost && r.Status() == push.StatusUnknown && r.NeverQueued() == later && (len(r.Attempts) == 0) == later:
					lost++
				case r.Status() != push.StatusScheduled && later, r.Status() != push.StatusAccepted && !later:
					t.Errorf("%+v", r)
				}
			}
			if lost != 1 {
				t.Errorf("%d ended as lost, want the one in the damaged record", lost)
			}
		})
	}
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
	var want []push.Status
	if jetstreamtest.OnCluster() { // where the event may arrive later
		want = []push.Status{push.StatusCancelled}
	}
	if s.count(refused.ID) != 0 || !slices.Equal(j.statuses(refused.ID), want) {
		t.Error("the refused notification is stored")
	}
}

// lateJournal reports a failure for some events that it stores nevertheless.
type lateJournal struct {
	*memoryJournal
	fails func(push.Event) bool
}

func (j lateJournal) Append(ctx context.Context, events ...push.Event) (jetstream.Offset, error) {
	at, err := j.memoryJournal.Append(ctx, events...)
	if err == nil && j.fails(events[0]) {
		return jetstream.Offset{}, errors.New("no response")
	}
	return at, err
}

// TestLostResponseOfJournalIsResolved loses the response to the write of an accepted event. The
// notification is cancelled, and its key can be used again.
func TestLostResponseOfJournalIsResolved(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	var mu sync.Mutex
	failed := false
	late := lateJournal{j, func(e push.Event) bool {
		mu.Lock()
		defer mu.Unlock()
		first := !failed && e.Status == push.StatusQueued
		failed = failed || first
		return first
	}}
	engineConfig := jetstreamtest.Config(t, t.TempDir())
	var e *jetstream.Engine
	var q *queue.Queue
	jetstreamtest.Retry(t, engineConfig, func() (err error) {
		if e, err = jetstream.Open(t.Context(), engineConfig); err != nil {
			return err
		}
		if q, err = queue.Open(t.Context(), queue.Config{Engine: e, Journal: late, Sender: s}); err != nil {
			return errors.Join(err, e.Close())
		}
		return nil
	})
	f := runQueue(t, e, nil, q, j, s)
	n := newNotification("shop")
	n.KeyHash = []byte("key")
	if errs := f.Accept(t.Context(), []*push.Notification{n}); errs[0] == nil {
		t.Error("accepted")
	}
	if waits, err := f.Confirm(t.Context(), n.ID); waits || err != nil {
		t.Errorf("waits: %t, %v", waits, err)
	}
	r := f.receipt(t, n)
	if r.Status() != push.StatusCancelled || !r.NeverQueued() || s.count(n.ID) != 0 {
		t.Errorf("%+v, sent %d times", r, s.count(n.ID))
	}
	if diff := cmp.Diff([]push.Status{push.StatusQueued, push.StatusCancelled}, j.statuses(n.ID)); diff != "" {
		t.Error(diff)
	}
	if last := j.eventsOf(n.ID)[1]; last.KeyHash != nil {
		t.Error("the cancellation has the key, which another notification may have by now")
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
	crashed := t.TempDir()
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
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

// TestTasksOfEarlierVersionAreMoved opens the queue of a version without a log, with tasks in all states.
// They are sent or end as that version would do it, and that version cannot open the queue any more.
func TestTasksOfEarlierVersionAreMoved(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "a cluster has no log")
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	s.answer = func(n *push.Notification, attempt int) push.Outcome {
		if n.Title == "retry" && attempt == 1 {
			return push.Outcome{Verdict: push.Throttled, RetryAfter: 3 * time.Second}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	release := s.blockMatching(func(n *push.Notification) bool { return n.Title == "block" })
	defer release()
	f := openSharedQueue(t, dir, j, s, queue.Config{InFlight: 3})
	retried, scheduled, doubt, repeated, ended := newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop")
	retried.Title, scheduled.SendAt = "retry", scheduled.AcceptedAt.Add(3*time.Second)
	doubt.Title, repeated.Title, repeated.OnUnknown = "block", "block", push.RepeatAlways
	f.accept(t, ended, retried, scheduled)
	j.waitEnded(t, ended)
	j.waitUntil(t, "the retry is scheduled", func() bool { return len(j.events[retried.ID]) == 3 })
	waiting := newNotifications("news", 700)
	for _, n := range waiting {
		n.Title = "block"
	}
	f.accept(t, append(waiting, doubt, repeated)...)
	s.waitSent(t, doubt, repeated)
	s.waitUntil(t, func() bool { return len(s.sent) >= 7 })
	crashed := t.TempDir()
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	moved, newSender := j.clone(), newFakeSender()
	f = openQueue(t, crashed, moved, newSender, queue.Config{})
	all := append(waiting, retried, scheduled, doubt, repeated)
	moved.waitEnded(t, all...)
	inDoubt := 0
	for _, n := range all {
		r, wasSent := f.receipt(t, n), s.count(n.ID) == 1 && n.Title == "block" && n.OnUnknown == ""
		if wasSent {
			inDoubt++
		}
		if wasSent != (r.Reason == "IN_DOUBT") || wasSent == (newSender.count(n.ID) == 1) {
			t.Errorf("%+v, sent %d times", r, newSender.count(n.ID))
		}
	}
	if r := f.receipt(t, retried); len(r.Attempts) != 2 {
		t.Errorf("%+v", r)
	}
	if at := newSender.times[scheduled.ID]; at[0].Before(scheduled.SendAt) {
		t.Errorf("due at %s, sent at %s", scheduled.SendAt, at)
	}
	if newSender.count(ended.ID) != 0 || inDoubt != 4 {
		t.Errorf("%d in doubt", inDoubt)
	}
	f.stop()
	expectRefusedByEarlierVersion(t, crashed)
}

// TestEarlierVersionRefusesLog opens the queue of a new folder with a version without a log.
func TestEarlierVersionRefusesLog(t *testing.T) {
	jetstreamtest.SkipOnCluster(t, "a cluster has no log")
	j, dir, n := newMemoryJournal(), t.TempDir(), newNotification("shop")
	f := openQueue(t, dir, j, newFakeSender(), queue.Config{})
	f.accept(t, n)
	j.waitEnded(t, n)
	f.stop()
	expectRefusedByEarlierVersion(t, dir)
}

// expectRefusedByEarlierVersion fails the test if a version without a log can open the queue in dir, or if
// the server reports a problem with it.
func expectRefusedByEarlierVersion(t *testing.T, dir string) {
	t.Helper()
	var log bytes.Buffer
	e, err := jetstream.Open(t.Context(), jetstream.Config{Dir: dir, Reserve: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Open(t.Context(), queue.Config{Engine: e, Journal: newMemoryJournal(), Sender: newFakeSender()}); err == nil {
		t.Error("an earlier version opens the queue")
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), "problem") {
		t.Error(log.String())
	}
}
