// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/RoaringBitmap/roaring/v2"
	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/record"
	"github.com/sluice-push/sluice/internal/tally"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// newBroadcast starts a broadcast.
func newBroadcast(t testing.TB, f *fixture) uuid.UUID {
	t.Helper()
	id := uuid.UUID(push.BroadcastID(time.Now().UnixMilli(), rand.Uint64()))
	control(t, f, id, tally.Started, 0)
	control(t, f, id, tally.Running, 1)
	return id
}

func control(t testing.TB, f *fixture, id uuid.UUID, status push.Status, revision uint64) {
	t.Helper()
	if err := f.Control(t.Context(), "shop", id, status, revision); err != nil {
		t.Fatal(err)
	}
}

// lineNotifications returns the notifications for the first lines of a broadcast.
func lineNotifications(broadcast uuid.UUID, count int, recall bool) []*push.Notification {
	ns := newNotifications("shop", count)
	for i, n := range ns {
		n.ID = uuid.UUID(push.BroadcastLine{Broadcast: broadcast, Line: uint32(i + 1), Recall: recall}.ID()).String()
		n.Lane = push.LaneBulk
	}
	return ns
}

// counts returns the counts of a broadcast by status.
func counts(f *fixture, id uuid.UUID) map[push.Status]uint64 {
	by := map[push.Status]uint64{}
	if b := f.Tally(id); b != nil {
		for _, c := range b.Counts(tally.Send) {
			by[c.Status] += c.Lines
		}
	}
	return by
}

func TestSecondTaskOfLineIsIgnored(t *testing.T) {
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	f := openQueue(t, dir, j, s, queue.Config{})
	id := newBroadcast(t, f)
	ns := lineNotifications(id, 3, false)
	f.accept(t, ns...)
	f.accept(t, ns...)
	j.waitEnded(t, ns...)
	f.accept(t, ns[0]) // after its end
	recall := lineNotifications(id, 1, true)
	control(t, f, id, tally.Recalling, 2)
	f.accept(t, recall...)
	j.waitEnded(t, recall...)
	f.stop()
	f = openQueue(t, dir, j, s, queue.Config{})
	f.accept(t, ns[1])
	if err := f.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.stop()
	for _, n := range append(ns, recall...) {
		if s.count(n.ID) != 1 {
			t.Errorf("sent %d times", s.count(n.ID))
		}
	}
}

// TestRefusalOfEnqueuedLine refuses lines at a gateway whose configuration differs from that of the one that
// has enqueued two of them: one that is being sent, one that waits, and one without a task.
func TestRefusalOfEnqueuedLine(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	f := openQueue(t, t.TempDir(), j, s, queue.Config{InFlight: 1})
	release := s.block()
	id := newBroadcast(t, f)
	ns := lineNotifications(id, 3, false)
	f.accept(t, ns[:2]...)
	s.waitSentCount(t, 1)
	for _, n := range ns {
		receipt := push.Receipt{ID: n.ID, Outcome: push.Outcome{Verdict: push.Refused, Reason: "PayloadTooLarge"}}
		r := record.Record{Receipt: &receipt, Header: record.Header{Kind: record.End, ID: uuid.MustParse(n.ID), App: "shop", At: time.Now(), Status: receipt.Status(), Platform: n.Platform, Lane: n.Lane}}
		data, err := r.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.log.Append(t.Context(), jetstream.Record{Data: data}); err != nil {
			t.Fatal(err)
		}
	}
	release()
	testwait.Until(t, func() bool { return counts(f, id)[push.StatusQueued] == 0 }, "all lines have ended")
	f.stop()
	if got := counts(f, id); got[push.StatusAccepted] != 1 || got[push.StatusRefused] != 2 || s.sentCount() != 1 {
		t.Errorf("%v, %d sent", got, s.sentCount())
	}
}

// TestNoAttemptWhileBroadcastIsHeld pauses a broadcast whose notifications wait in the queue, and whose
// provider is slow. Those of other senders are sent.
func TestNoAttemptWhileBroadcastIsHeld(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	f := openQueue(t, t.TempDir(), j, s, queue.Config{InFlight: 4})
	release := s.block()
	id := newBroadcast(t, f)
	ns := lineNotifications(id, 20, false)
	f.accept(t, ns...)
	s.waitSentCount(t, 4)
	control(t, f, id, tally.Paused, 2)
	release()
	other := newNotification("shop")
	other.Lane = push.LaneBulk
	f.accept(t, other)
	j.waitEnded(t, other)
	if s.sentCount() != 5 {
		t.Errorf("%d sent, want 4 and the other one", s.sentCount())
	}
	if c := counts(f, id); c[push.StatusQueued] < 16 {
		t.Errorf("%v", c)
	}
	control(t, f, id, tally.Running, 3)
	j.waitEnded(t, ns...)
	for _, n := range ns {
		if s.count(n.ID) != 1 {
			t.Errorf("sent %d times", s.count(n.ID))
		}
	}
	if c := counts(f, id); c[push.StatusAccepted] != 20 || len(c) != 1 {
		t.Errorf("%v", c)
	}
}

// TestPostponedLinesWait postpones lines of which one is being sent, pauses and resumes the broadcast, and
// restarts the queue.
func TestPostponedLinesWait(t *testing.T) {
	j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
	f := openQueue(t, dir, j, s, queue.Config{InFlight: 1})
	release := s.block()
	id := newBroadcast(t, f)
	ns := lineNotifications(id, 4, false)
	f.accept(t, ns...)
	s.waitSentCount(t, 1)
	postpone := func(until time.Time, lines ...uint32) {
		t.Helper()
		if err := f.Postpone(t.Context(), id, roaring.BitmapOf(lines...), until); err != nil {
			t.Fatal(err)
		}
	}
	soon := time.Now().Add(time.Second)
	postpone(time.Now().Add(time.Hour), 1, 2, 3)
	postpone(time.Now(), 2) // it waits longer already
	postpone(soon, 4, 5)
	control(t, f, id, tally.Paused, 2)
	release()
	control(t, f, id, tally.Running, 3)
	j.waitEnded(t, ns[0], ns[3])
	if time.Now().Before(soon) || s.count(ns[3].ID) != 1 {
		t.Errorf("sent %d times, %s too early", s.count(ns[3].ID), time.Until(soon))
	}
	f.stop()
	f = openQueue(t, dir, j, s, queue.Config{})
	other := newNotification("shop")
	f.accept(t, other)
	j.waitEnded(t, other)
	if c := counts(f, id); c[push.StatusQueued] != 2 || c[push.StatusAccepted] != 2 || s.count(ns[1].ID)+s.count(ns[2].ID) != 0 {
		t.Errorf("%v", c)
	}
	control(t, f, id, tally.Cancelled, 4)
	if left, err := f.EndOpen(t.Context(), id, tally.Send, nil); left != 0 || err != nil {
		t.Errorf("%d left, %v", left, err)
	}
	if c := counts(f, id); c[push.StatusCancelled] != 2 || c[push.StatusAccepted] != 2 {
		t.Errorf("%v", c)
	}
}

func TestLateControlRecordIsIgnored(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	id := newBroadcast(t, f)
	control(t, f, id, tally.Paused, 5)
	control(t, f, id, tally.Running, 4)
	control(t, f, id, tally.Started, 9)
	if b := f.Tally(id); b.Status != tally.Paused || b.Revision != 5 {
		t.Errorf("%s at %d", b.Status, b.Revision)
	}
	control(t, f, id, tally.Deleted, 1)
	control(t, f, id, tally.Running, 6)
	if f.Tally(id) != nil {
		t.Error("a deleted broadcast has a tally")
	}
}

// TestTallySurvivesCheckpoint restarts the queue with a checkpoint, and without one, while notifications
// are held.
func TestTallySurvivesCheckpoint(t *testing.T) {
	for _, withCheckpoint := range []bool{true, false} {
		j, s, dir := newMemoryJournal(), newFakeSender(), t.TempDir()
		cfg := queue.Config{}
		if withCheckpoint {
			cfg.Checkpoint = filepath.Join(dir, "checkpoint")
		}
		f := openQueue(t, dir, j, s, cfg)
		id := newBroadcast(t, f)
		ns := lineNotifications(id, 10, false)
		f.accept(t, ns[:4]...)
		j.waitEnded(t, ns[:4]...)
		control(t, f, id, tally.Paused, 2)
		f.accept(t, ns...)
		f.stop()
		f = openQueue(t, dir, j, s, cfg)
		f.accept(t, ns[0])
		if c := counts(f, id); c[push.StatusAccepted] != 4 || c[push.StatusQueued] != 6 || len(c) != 2 {
			t.Errorf("%v", c)
		}
		control(t, f, id, tally.Cancelled, 3)
		left, err := f.EndOpen(t.Context(), id, tally.Send, nil)
		if c := counts(f, id); err != nil || left != 0 || c[push.StatusAccepted] != 4 || c[push.StatusCancelled] != 6 || s.sentCount() != 4 {
			t.Errorf("%d left, %v, %v", left, err, c)
		}
	}
}

// TestCancelledAttemptIsUnknown cancels a notification that is rescheduled after an attempt whose result is
// unknown: the device may have the message.
func TestCancelledAttemptIsUnknown(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	s.answer = func(*push.Notification, int) push.Outcome {
		return push.Outcome{Verdict: push.Unknown, Reason: "Timeout", RetryAfter: time.Hour}
	}
	f := openQueue(t, t.TempDir(), j, s, queue.Config{})
	id := newBroadcast(t, f)
	ns := lineNotifications(id, 1, false)
	ns[0].OnUnknown = push.RepeatAlways
	f.accept(t, ns...)
	j.waitUntil(t, "it is rescheduled", func() bool { return len(j.events[ns[0].ID]) == 3 })
	control(t, f, id, tally.Cancelled, 2)
	if left, err := f.EndOpen(t.Context(), id, tally.Send, nil); err != nil || left != 0 {
		t.Fatal(left, err)
	}
	if c := counts(f, id); c[push.StatusUnknown] != 1 || len(c) != 1 {
		t.Errorf("%v", c)
	}
	if r := f.receipt(t, ns[0]); r.Status() != push.StatusUnknown || r.Reason != "Timeout" {
		t.Errorf("%+v", r)
	}
}

func TestLogOfBroadcastIsKept(t *testing.T) {
	j := newMemoryJournal()
	f := openQueue(t, t.TempDir(), j, newFakeSender(), queue.Config{})
	id := newBroadcast(t, f)
	ns := lineNotifications(id, 2, false)
	f.accept(t, ns...)
	j.waitEnded(t, ns...)
	if seq := f.OldestSeq(); seq != 1 {
		t.Errorf("the log is kept from message %d", seq)
	}
	control(t, f, id, tally.Completed, 2)
	if seq := f.OldestSeq(); seq != math.MaxUint64 {
		t.Errorf("the log is kept from message %d after the end", seq)
	}
}
