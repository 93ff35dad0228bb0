// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

func TestAcceptedNotificationIsSentOnce(t *testing.T) {
	h := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	ns := append(newNotifications("shop", 250), newNotifications("news.daily", 3)...)
	h.accept(t, ns...)
	h.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if h.sender.count(n.ID) != 1 {
			t.Errorf("sent %d times", h.sender.count(n.ID))
		}
		if diff := cmp.Diff([]push.Status{push.StatusAccepted, push.StatusQueued, push.StatusSending}, sorted(h.journal.statuses(n.ID))); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestAcceptedNotificationSurvivesImmediateCrash has the process die as soon as Accept has returned, while nobody has closed anything.
func TestAcceptedNotificationSurvivesImmediateCrash(t *testing.T) {
	held := newFakeSender()
	release := held.block()
	h := openQueue(t, t.TempDir(), newMemoryJournal(), held, queue.Config{InFlight: 1})
	ns := newNotifications("shop", 120)
	for _, n := range ns {
		n.OnUnknown = push.RepeatAlways // one of them is being sent
	}
	h.accept(t, ns...)
	after := newFakeSender()
	survivor := h.crash(t, newMemoryJournal(), after)
	survivor.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if after.count(n.ID) != 1 {
			t.Errorf("sent %d times by the survivor", after.count(n.ID))
		}
	}
	release()
}

// crash opens what a process finds that was started after h's died: a copy of h's folder, as it is now, or h's place on the
// cluster, to which h's connection is lost. Its journal is j.
func (h *fixture) crash(t *testing.T, j *memoryJournal, s *fakeSender) *fixture {
	t.Helper()
	dir := h.dir
	if jetstreamtest.OnCluster() {
		_ = h.engine.Close()
	} else {
		dir = t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(h.dir)); err != nil {
			t.Fatal(err)
		}
	}
	return openQueue(t, dir, j, s, queue.Config{})
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
	h := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	h.accept(t, ns...)
	h.journal.waitEnded(t, ns[:10]...)
	s.waitSent(t, ns[10:]...)
	after := newFakeSender()
	survivor := h.crash(t, h.journal.clone(), after)
	survivor.journal.waitEnded(t, ns...)
	for i, n := range ns {
		if want := i / 10; after.count(n.ID) != want {
			t.Errorf("notification %d was sent %d times after the crash", i, after.count(n.ID))
		}
	}
}

func TestInDoubtTaskFollowsOnUnknownAfterCrash(t *testing.T) {
	never, always, collapsible, plain, once := newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop"), newNotification("shop")
	never.OnUnknown, never.CollapseKey, always.OnUnknown, collapsible.CollapseKey = push.RepeatNever, "k", push.RepeatAlways, "k"
	once.OnUnknown, once.Retry = push.RepeatAlways, &push.Retry{Attempts: 1}
	ns := []*push.Notification{never, always, collapsible, plain, once}
	s := newFakeSender()
	release := s.block()
	defer release()
	h := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	h.accept(t, ns...)
	s.waitSent(t, ns...)
	after := newFakeSender()
	survivor := h.crash(t, h.journal.clone(), after)
	survivor.journal.waitEnded(t, ns...)
	for name, c := range map[string]struct {
		n    *push.Notification
		want push.Status
		sent int
	}{
		"never": {never, push.StatusUnknown, 0}, "always": {always, push.StatusAccepted, 1},
		"collapsible": {collapsible, push.StatusAccepted, 1}, "nothing said": {plain, push.StatusUnknown, 0},
		"one attempt": {once, push.StatusUnknown, 0},
	} {
		r, err := survivor.journal.Receipt(t.Context(), "shop", c.n.ID)
		if err != nil || r.Status() != c.want || after.count(c.n.ID) != c.sent {
			t.Errorf("%s: %s, %v, sent %d times", name, r.Status(), err, after.count(c.n.ID))
		}
		if c.want == push.StatusUnknown && r.Reason != "IN_DOUBT" {
			t.Errorf("%s: %q", name, r.Reason)
		}
	}
}

func TestDrainFinishesSendsAndKeepsTheRest(t *testing.T) {
	s, j, dir := newFakeSender(), newMemoryJournal(), t.TempDir()
	release := s.block()
	h := openQueue(t, dir, j, s, queue.Config{InFlight: 5})
	ns := newNotifications("shop", 50)
	h.accept(t, ns...)
	s.waitSentCount(t, 5)
	h.Drain()
	release()
	h.stop()
	if s.sentCount() != 5 {
		t.Errorf("%d were sent, 5 of them before the drain", s.sentCount())
	}
	h = openQueue(t, dir, j, s, queue.Config{})
	h.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) != 1 || r.Status() != push.StatusAccepted {
			t.Errorf("%s, sent %d times", r.Status(), s.count(n.ID))
		}
	}
}

func TestAttemptIsRecordedBeforeSend(t *testing.T) {
	s, j := newFakeSender(), newMemoryJournal()
	h := openQueue(t, t.TempDir(), j, s, queue.Config{})
	tries, left := 0, 0
	j.beforeAppend = func(e push.Event) error {
		if e.Status != push.StatusSending {
			return nil
		}
		left += s.count(e.ID)
		if tries++; tries == 1 {
			return errors.New("the disk is full")
		}
		return nil
	}
	n := newNotification("shop")
	h.accept(t, n)
	j.waitEnded(t, n)
	if left != 0 || tries != 2 {
		t.Errorf("%d left before %d notes", left, tries)
	}
	if r, _ := j.Receipt(t.Context(), "shop", n.ID); s.count(n.ID) != 1 || r.Status() != push.StatusAccepted {
		t.Errorf("%s, sent %d times", r.Status(), s.count(n.ID))
	}
}

func TestDamagedTaskDoesNotBlockItsBatch(t *testing.T) {
	h := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	n := newNotification("shop")
	chunk := fmt.Sprintf("{\"id\":\n{}\n{\"id\":%q,\"app\":\"shop\",\"accepted_at\":%q,\"n\":{\"platform\":\"apns\",\"token\":\"00\"}}\n",
		n.ID, n.AcceptedAt.Format(time.RFC3339Nano))
	jetstreamtest.Retry(t, h.engineConfig, func() error {
		_, err := h.engine.JetStream().Publish(t.Context(), "sluice.task.normal.shop.3", []byte(chunk), natsjs.WithMsgID(n.ID))
		return err
	})
	h.journal.waitEnded(t, n)
	if h.sender.count(n.ID) != 1 {
		t.Errorf("sent %d times", h.sender.count(n.ID))
	}
}

func TestInvalidNotificationIsRefusedAlone(t *testing.T) {
	s := newFakeSender()
	s.check = func(n *push.Notification) error {
		if n.Title == "misfit" {
			return &push.FieldError{Field: "title", Reason: "Misfit", Allowed: "something else"}
		}
		return nil
	}
	h := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	ns := newNotifications("shop", 3)
	ns[1].Title = "misfit"
	errs := h.Accept(t.Context(), ns)
	if _, ok := errors.AsType[*push.FieldError](errs[1]); !ok || errs[0] != nil || errs[2] != nil {
		t.Fatal(errs)
	}
	h.journal.waitEnded(t, ns[0], ns[2])
}

func TestBacklogDoesNotBlockOtherAppOrLane(t *testing.T) {
	s := newFakeSender()
	release := s.blockMatching(func(n *push.Notification) bool { return n.App == "shop" && n.Lane == push.LaneBulk })
	defer release()
	h := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{InFlight: 4})
	backlog := newNotifications("shop", 1000)
	for _, n := range backlog {
		n.Lane = push.LaneBulk
	}
	h.accept(t, backlog...)
	other, better := newNotification("news"), newNotification("shop")
	other.Lane, better.Lane = push.LaneBulk, push.LaneCritical
	h.accept(t, other, better)
	h.journal.waitEnded(t, other, better)
	if s.activeCount() > 4 {
		t.Errorf("%d in the sender's hands", s.activeCount())
	}
}

func TestFullQueueRefusesWithoutKeeping(t *testing.T) {
	s := newFakeSender()
	release := s.block()
	h := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{MaxBytes: 64 << 10})
	var kept, refused []*push.Notification
	for len(refused) == 0 {
		ns := newNotifications("shop", 150) // two chunks: one of them may fit
		for i, err := range h.Accept(t.Context(), ns) {
			switch {
			case err == nil:
				kept = append(kept, ns[i])
			case errors.Is(err, push.ErrQueueFull):
				refused = append(refused, ns[i])
			default:
				t.Fatal(err)
			}
		}
	}
	release()
	h.journal.waitEnded(t, kept...)
	for _, n := range refused {
		if s.count(n.ID) != 0 || len(h.journal.statuses(n.ID)) != 0 {
			t.Error("one that was refused was kept")
		}
	}
	for { // its last ack is on its way
		again := newNotification("shop")
		err := h.Accept(t.Context(), []*push.Notification{again})[0]
		if err == nil {
			h.journal.waitEnded(t, again)
			return
		}
		if !errors.Is(err, push.ErrQueueFull) {
			t.Fatal(err)
		}
	}
}
