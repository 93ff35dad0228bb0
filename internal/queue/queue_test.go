// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestAcceptedNotificationIsSentOnce(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	ns := append(newNotifications("shop", 250), newNotifications("news.daily", 3)...)
	f.accept(t, ns...)
	f.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if f.sender.count(n.ID) != 1 {
			t.Errorf("sent %d times", f.sender.count(n.ID))
		}
		if diff := cmp.Diff([]push.Status{push.StatusQueued, push.StatusSending, push.StatusAccepted}, f.journal.statuses(n.ID)); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestAcceptedNotificationSurvivesImmediateCrash simulates a crash as soon as Accept has returned.
func TestAcceptedNotificationSurvivesImmediateCrash(t *testing.T) {
	oldSender := newFakeSender()
	release := oldSender.block()
	f := openQueue(t, t.TempDir(), newMemoryJournal(), oldSender, queue.Config{InFlight: 1})
	ns := newNotifications("shop", 120)
	for _, n := range ns {
		n.OnUnknown = push.RepeatAlways // because one of them is being sent
	}
	f.accept(t, ns...)
	newSender := newFakeSender()
	restarted := f.crash(t, newMemoryJournal(), newSender)
	restarted.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if newSender.count(n.ID) != 1 {
			t.Errorf("sent %d times after the crash", newSender.count(n.ID))
		}
	}
	release()
}

// crash opens the queue as a new process would after a crash, with journal j: on a copy of the
// directory, or in the same account of the cluster after its connection is closed.
func (f *fixture) crash(t *testing.T, j *memoryJournal, s *fakeSender) *fixture {
	t.Helper()
	dir := f.dir
	if jetstreamtest.OnCluster() {
		f.crashed.Store(true)
		_ = f.engine.Close()
		_ = f.log.Close() // as the system does when a process is killed
	} else {
		dir = jetstreamtest.CrashedCopy(t, f.dir)
	}
	return openQueue(t, dir, j, s, queue.Config{SettleTime: time.Second}) // the sends of the other process have ended
}

func TestCrashResendsOnlyUnfinishedTasks(t *testing.T) {
	s := newFakeSender()
	ns := newNotifications("shop", 20)
	stuck := map[string]bool{}
	for _, n := range ns[10:] {
		n.OnUnknown, stuck[n.ID] = push.RepeatAlways, true
	}
	release := s.blockMatching(func(n *push.Notification) bool { return stuck[n.ID] })
	defer release()
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	f.accept(t, ns...)
	f.journal.waitEnded(t, ns[:10]...)
	s.waitSent(t, ns[10:]...)
	newSender := newFakeSender()
	restarted := f.crash(t, f.journal.clone(), newSender)
	restarted.journal.waitEnded(t, ns...)
	for i, n := range ns {
		if want := i / 10; newSender.count(n.ID) != want {
			t.Errorf("notification %d was sent %d times after the crash", i, newSender.count(n.ID))
		}
	}
}

func TestInDoubtTaskFollowsOnUnknownAfterCrash(t *testing.T) {
	never, always, collapsible, plain, single := newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop")
	never.OnUnknown, never.CollapseKey, always.OnUnknown, collapsible.CollapseKey = push.RepeatNever, "k", push.RepeatAlways, "k"
	single.OnUnknown, single.Retry = push.RepeatAlways, &push.Retry{Attempts: 1}
	ns := []*push.Notification{never, always, collapsible, plain, single}
	s := newFakeSender()
	release := s.block()
	defer release()
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	f.accept(t, ns...)
	s.waitSent(t, ns...)
	newSender := newFakeSender()
	restarted := f.crash(t, f.journal.clone(), newSender)
	restarted.journal.waitEnded(t, ns...)
	for name, c := range map[string]struct {
		n    *push.Notification
		want push.Status
		sent int
	}{
		"never": {never, push.StatusUnknown, 0}, "always": {always, push.StatusAccepted, 1},
		"collapsible": {collapsible, push.StatusAccepted, 1}, "unset": {plain, push.StatusUnknown, 0},
		"one attempt": {single, push.StatusUnknown, 0},
	} {
		r, err := restarted.journal.Receipt(t.Context(), "shop", c.n.ID)
		if err != nil || r.Status() != c.want || newSender.count(c.n.ID) != c.sent {
			t.Errorf("%s: %s, %v, sent %d times", name, r.Status(), err, newSender.count(c.n.ID))
		}
		if newSender.mayHaveArrived[c.n.ID] != (c.sent == 1) {
			t.Errorf("%s: MayHaveArrived is %v", name, newSender.mayHaveArrived[c.n.ID])
		}
		if c.want == push.StatusUnknown && r.Reason != "IN_DOUBT" {
			t.Errorf("%s: %q", name, r.Reason)
		}
	}
}

func TestDrainFinishesSendsAndKeepsTheRest(t *testing.T) {
	s, j, dir := newFakeSender(), newMemoryJournal(), t.TempDir()
	release := s.block()
	f := openQueue(t, dir, j, s, queue.Config{InFlight: 5})
	ns := newNotifications("shop", 50)
	f.accept(t, ns...)
	s.waitSentCount(t, 5)
	f.Drain()
	release()
	f.stop()
	if s.sentCount() != 5 {
		t.Errorf("%d sent, want the 5 from before the drain", s.sentCount())
	}
	f = openQueue(t, dir, j, s, queue.Config{})
	f.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) != 1 || r.Status() != push.StatusAccepted {
			t.Errorf("%s, sent %d times", r.Status(), s.count(n.ID))
		}
	}
}

func TestAttemptIsRecordedBeforeSend(t *testing.T) {
	s, j := newFakeSender(), newMemoryJournal()
	f := openQueue(t, t.TempDir(), j, s, queue.Config{})
	appends, sent := 0, 0
	j.beforeAppend = func(e push.Event) error {
		if e.Status != push.StatusSending {
			return nil
		}
		sent += s.count(e.ID)
		if appends++; appends == 1 {
			return errors.New("the disk is full")
		}
		return nil
	}
	n := newNotification("shop")
	f.accept(t, n)
	j.waitEnded(t, n)
	if sent != 0 || appends != 2 {
		t.Errorf("%d sent before the event was recorded, %d appends", sent, appends)
	}
	if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) != 1 || r.Status() != push.StatusAccepted {
		t.Errorf("%s, sent %d times", r.Status(), s.count(n.ID))
	}
}

func TestInvalidNotificationIsRefusedAlone(t *testing.T) {
	s := newFakeSender()
	s.check = func(n *push.Notification) error {
		if n.Title == "invalid" {
			return &push.FieldError{Field: "title", Reason: "Invalid", Allowed: "something else"}
		}
		return nil
	}
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	ns := newNotifications("shop", 3)
	ns[1].Title = "invalid"
	errs := f.Accept(t.Context(), ns)
	if _, ok := errors.AsType[*push.FieldError](errs[1]); !ok || errs[0] != nil || errs[2] != nil {
		t.Fatal(errs)
	}
	f.journal.waitEnded(t, ns[0], ns[2])
}

func TestBacklogDoesNotBlockOtherAppOrLane(t *testing.T) {
	s := newFakeSender()
	release := s.blockMatching(func(n *push.Notification) bool { return n.App == "shop" && n.Lane == push.LaneBulk })
	defer release()
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{InFlight: 4})
	backlog := newNotifications("shop", 1000)
	for _, n := range backlog {
		n.Lane = push.LaneBulk
	}
	f.accept(t, backlog...)
	other, better := newNotification("news"), newNotification("shop")
	other.Lane, better.Lane = push.LaneBulk, push.LaneCritical
	f.accept(t, other, better)
	f.journal.waitEnded(t, other, better)
	if s.activeCount() > 4 {
		t.Errorf("%d concurrent sends", s.activeCount())
	}
}

func TestFullQueueRefusesWithoutKeeping(t *testing.T) {
	s := newFakeSender()
	release := s.block()
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{MaxBytes: 64 << 10})
	var accepted, refused []*push.Notification
	for len(refused) == 0 {
		ns := newNotifications("shop", 150) // two messages, one of which may fit
		for i, err := range f.Accept(t.Context(), ns) {
			switch {
			case err == nil:
				accepted = append(accepted, ns[i])
			case errors.Is(err, push.ErrQueueFull):
				refused = append(refused, ns[i])
			default:
				t.Fatal(err)
			}
		}
	}
	release()
	f.journal.waitEnded(t, accepted...)
	for _, n := range refused {
		if s.count(n.ID) != 0 || len(f.journal.statuses(n.ID)) != 0 {
			t.Error("a refused notification is stored")
		}
	}
	var again *push.Notification
	testwait.Until(t, func() bool {
		again = newNotification("shop")
		err := f.Accept(t.Context(), []*push.Notification{again})[0]
		if err != nil && !errors.Is(err, push.ErrQueueFull) {
			t.Fatal(err)
		}
		return err == nil
	}, "the last acknowledgement has freed space")
	f.journal.waitEnded(t, again)
}
