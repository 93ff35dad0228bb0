// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestScheduledNotificationIsNotSentEarly(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	ns := newNotifications("shop", 40)
	for i, n := range ns {
		n.SendAt = n.AcceptedAt.Add(500*time.Millisecond + time.Duration(i)*37*time.Millisecond)
	}
	f.accept(t, ns...)
	f.journal.waitEnded(t, ns...)
	for _, n := range ns {
		if at := f.sender.times[n.ID]; len(at) != 1 || at[0].Before(n.SendAt) {
			t.Errorf("due at %s, sent at %s", n.SendAt, at)
		}
		if diff := cmp.Diff([]push.Status{push.StatusScheduled, push.StatusSending, push.StatusAccepted}, f.journal.statuses(n.ID)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestScheduleBeyondMaxDelayIsRefused(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{MaxDelay: time.Hour})
	far, near := newNotification("shop"), newNotification("shop")
	far.SendAt, near.SendAt = far.AcceptedAt.Add(time.Hour+time.Second), near.AcceptedAt.Add(time.Hour)
	errs := f.Accept(t.Context(), []*push.Notification{far, near})
	if fieldErr, ok := errors.AsType[*push.FieldError](errs[0]); !ok || fieldErr.Field != "send_at" || errs[1] != nil {
		t.Errorf("%v", errs)
	}
	if f.journal.statuses(far.ID) != nil {
		t.Error("the refused notification is in the journal")
	}
}

func TestScheduleSurvivesRestart(t *testing.T) {
	s, j, dir := newFakeSender(), newMemoryJournal(), t.TempDir()
	f := openQueue(t, dir, j, s, queue.Config{})
	soon, far := newNotification("shop"), newNotification("shop")
	soon.SendAt, far.SendAt = time.Now().Add(1200*time.Millisecond), time.Now().Add(time.Hour)
	f.accept(t, soon, far)
	f.stop()
	openQueue(t, dir, j, s, queue.Config{})
	j.waitEnded(t, soon)
	if at := s.times[soon.ID]; len(at) != 1 || at[0].Before(soon.SendAt) || s.count(far.ID) != 0 {
		t.Errorf("due at %s, sent at %s; the other was sent %d times", soon.SendAt, at, s.count(far.ID))
	}
}

func TestRescheduledReceiptListsAllAttempts(t *testing.T) {
	s := newFakeSender()
	s.answer = func(_ *push.Notification, attempt int) push.Outcome {
		if attempt == 1 {
			return push.Outcome{Verdict: push.Unavailable, HTTP: 503, RetryAfter: 1100 * time.Millisecond}
		}
		return push.Outcome{Verdict: push.Accepted, HTTP: 200}
	}
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	ns := newNotifications("shop", 10)
	f.accept(t, ns...)
	f.journal.waitEnded(t, ns...)
	for _, n := range ns {
		r, err := f.journal.Receipt(t.Context(), "shop", n.ID)
		if err != nil || r.Status() != push.StatusAccepted || len(r.Attempts) != 2 || r.Attempts[0].HTTP != 503 || r.Attempts[1].HTTP != 200 {
			t.Fatalf("%+v, %v", r, err)
		}
		if at := s.times[n.ID]; at[1].Sub(at[0]) < 1100*time.Millisecond {
			t.Errorf("retried after %s", at[1].Sub(at[0]))
		}
		want := []push.Status{push.StatusQueued, push.StatusSending, push.StatusQueued, push.StatusSending, push.StatusAccepted}
		if diff := cmp.Diff(want, f.journal.statuses(n.ID)); diff != "" {
			t.Error(diff)
		}
	}
}

func TestCallAfterUnknownAttemptMayHaveArrived(t *testing.T) {
	s := newFakeSender()
	unknown, unavailable := newNotification("shop"), newNotification("shop")
	unknown.OnUnknown = push.RepeatAlways
	s.answer = func(n *push.Notification, attempt int) push.Outcome {
		switch {
		case attempt > 1:
			return push.Outcome{Verdict: push.Accepted, HTTP: 200}
		case n.ID == unknown.ID:
			return push.Outcome{Verdict: push.Unknown}
		}
		return push.Outcome{Verdict: push.Unavailable, HTTP: 503}
	}
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	f.accept(t, unknown, unavailable)
	f.journal.waitEnded(t, unknown, unavailable)
	if s.count(unknown.ID) != 2 || !s.mayHaveArrived[unknown.ID] || s.count(unavailable.ID) != 2 || s.mayHaveArrived[unavailable.ID] {
		t.Errorf("sent %v, may have arrived: %v", s.sent, s.mayHaveArrived)
	}
}

func TestTaskEndsWhenNoRetryIsPossible(t *testing.T) {
	hour, ttl := time.Hour, push.Duration(10*time.Minute)
	for name, c := range map[string]struct {
		ttl      *push.Duration
		retryFor time.Duration
		attempts int
		answer   push.Outcome
		want     push.Status
	}{
		"TTL expires before the retry":   {&ttl, 0, 0, push.Outcome{Verdict: push.Throttled, RetryAfter: hour}, push.StatusExpired},
		"RetryFor ends before the retry": {nil, hour / 2, 0, push.Outcome{Verdict: push.Throttled, RetryAfter: hour}, push.StatusThrottled},
		"refused":                        {nil, 0, 0, push.Outcome{Verdict: push.Refused}, push.StatusRefused},
		"unknown, repeat not allowed":    {nil, 0, 0, push.Outcome{Verdict: push.Unknown}, push.StatusUnknown},
		"unauthorized":                   {nil, 0, 0, push.Outcome{Verdict: push.Unauthorized}, push.StatusUnauthorized},
		"unregistered":                   {nil, 0, 0, push.Outcome{Verdict: push.Unregistered, ForgetToken: true}, push.StatusUnregistered},
		"unknown, TTL expires":           {&ttl, 0, 0, push.Outcome{Verdict: push.Unknown, RetryAfter: hour}, push.StatusUnknown},
		"one attempt allowed":            {nil, 0, 1, push.Outcome{Verdict: push.Unavailable}, push.StatusUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFakeSender()
			s.answer = func(*push.Notification, int) push.Outcome { return c.answer }
			f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{RetryFor: c.retryFor})
			n := newNotification("shop")
			n.TTL, n.Retry = c.ttl, &push.Retry{Attempts: c.attempts}
			f.accept(t, n)
			f.journal.waitEnded(t, n)
			if r, _ := f.journal.Receipt(t.Context(), "shop", n.ID); r.Status() != c.want || len(r.Attempts) != 1 || s.count(n.ID) != 1 {
				t.Errorf("%s after %d attempts", r.Status(), len(r.Attempts))
			}
		})
	}
}

func TestUnregisteredEventCarriesTarget(t *testing.T) {
	s := newFakeSender()
	s.answer = func(*push.Notification, int) push.Outcome {
		return push.Outcome{Verdict: push.Unregistered, ForgetToken: true}
	}
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	n := newNotification("shop")
	n.Token = "feed"
	f.accept(t, n)
	f.journal.waitEnded(t, n)
	var dead []string
	for _, e := range f.journal.eventsOf(n.ID) {
		if e.Target != nil {
			dead = append(dead, fmt.Sprint(e.Status, " ", e.Target.Token))
		}
	}
	if diff := cmp.Diff([]string{"unregistered feed"}, dead); diff != "" {
		t.Error(diff)
	}
}

func TestScheduledStreamIsBounded(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{MaxBytes: 32 << 10})
	testwait.Until(t, func() bool {
		n := newNotification("shop")
		n.SendAt = time.Now().Add(time.Hour)
		err := f.Accept(t.Context(), []*push.Notification{n})[0]
		if err != nil && !errors.Is(err, push.ErrQueueFull) {
			t.Fatal(err)
		}
		return err != nil
	}, "the scheduled stream is full")
}
