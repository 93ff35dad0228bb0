// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/push"
)

// runSender records the runs that it gets, and the attempts that it has recorded before it sends.
type runSender struct {
	*fakeSender
	journal *memoryJournal
	mu      sync.Mutex
	runs    [][]*push.Call
	early   int // calls that were sent although their attempt was not on disk
	most    int // tasks that were being sent
}

func (s *runSender) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	s.mu.Lock()
	s.runs = append(s.runs, slices.Clone(calls))
	s.mu.Unlock()
	sendRun(ctx, calls, ended, func(ctx context.Context, c *push.Call) *push.Receipt {
		statuses := s.journal.statuses(c.ID)
		s.mu.Lock()
		if !slices.Contains(statuses, push.StatusSending) && !slices.Contains(statuses, push.StatusCancelled) {
			s.early++
		}
		s.most = max(s.most, s.activeCount())
		s.mu.Unlock()
		return s.fakeSender.Send(ctx, c)
	})
}

// TestTasksOfMessageAreSentAsRun accepts tasks of two platforms in one message. The tasks of a platform
// are sent together, with their attempts on disk before, in one message, and no more at a time than
// InFlight. A platform that does not respond does not hold up the other.
func TestTasksOfMessageAreSentAsRun(t *testing.T) {
	j := newMemoryJournal()
	s := &runSender{fakeSender: newFakeSender(), journal: j}
	release := s.blockMatching(func(n *push.Notification) bool { return n.Platform == push.FCM })
	defer release()
	f := openQueue(t, t.TempDir(), j, s.fakeSender, queue.Config{InFlight: 100, Sender: s})
	ns := newNotifications("shop", 300)
	var apns, fcm []*push.Notification
	for i, n := range ns {
		if i%10 == 0 {
			n.Platform = push.FCM
			fcm = append(fcm, n)
		} else {
			apns = append(apns, n)
		}
	}
	f.accept(t, ns...)
	j.waitEnded(t, apns...)
	if got := s.activeCount(); got == 0 {
		t.Error("the platform that does not respond has ended")
	}
	release()
	j.waitEnded(t, fcm...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.early != 0 || s.most > 100 {
		t.Errorf("%d sent before the attempt was on disk, %d at a time", s.early, s.most)
	}
	largest := 0
	for _, run := range s.runs {
		messages := map[string]bool{}
		for _, c := range run {
			if c.Platform != run[0].Platform || c.App != run[0].App || c.EffectiveLane() != run[0].EffectiveLane() {
				t.Errorf("a run with %v and %v", run[0], c)
			}
			for _, e := range j.eventsOf(c.ID) {
				if seq, _, _ := strings.Cut(e.Cursor, "."); e.Status == push.StatusSending {
					messages[seq] = true
				}
			}
		}
		if len(messages) != 1 {
			t.Errorf("the attempts of %d tasks are in %d messages", len(run), len(messages))
		}
		largest = max(largest, len(run))
	}
	if largest < 32 {
		t.Errorf("%d runs, the largest with %d tasks", len(s.runs), largest)
	}
	for _, n := range ns {
		if diff := cmp.Diff([]push.Status{push.StatusQueued, push.StatusSending, push.StatusAccepted}, j.statuses(n.ID)); diff != "" || s.sent[n.ID] != 1 {
			t.Fatalf("sent %d times: %s", s.sent[n.ID], diff)
		}
	}
}

// TestTasksOfRunEndSeparately sends a run in which each task ends in another way.
func TestTasksOfRunEndSeparately(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	ns := newNotifications("shop", 40)
	index := map[string]int{}
	for i, n := range ns {
		index[n.ID] = i
	}
	s.answer = func(n *push.Notification, attempt int) push.Outcome {
		switch index[n.ID] % 4 {
		case 0:
			return push.Outcome{Verdict: push.Refused, Reason: "BadTopic"}
		case 1:
			if attempt == 1 {
				return push.Outcome{Verdict: push.Unavailable}
			}
		case 2:
			return push.Outcome{Verdict: push.Unknown}
		}
		return push.Outcome{Verdict: push.Accepted}
	}
	f := openQueue(t, t.TempDir(), j, s, queue.Config{})
	f.accept(t, ns...)
	j.waitEnded(t, ns...)
	for i, n := range ns {
		want := [][]push.Status{
			{push.StatusQueued, push.StatusSending, push.StatusRefused},
			{push.StatusQueued, push.StatusSending, push.StatusQueued, push.StatusSending, push.StatusAccepted},
			{push.StatusQueued, push.StatusSending, push.StatusUnknown},
			{push.StatusQueued, push.StatusSending, push.StatusAccepted},
		}[i%4]
		if diff := cmp.Diff(want, j.statuses(n.ID)); diff != "" {
			t.Error(diff)
		}
		if r, err := j.Receipt(t.Context(), "shop", n.ID); err != nil || len(r.Attempts) != len(want)/2 {
			t.Errorf("%d attempts in %+v %v", len(r.Attempts), r, err)
		}
	}
}

// TestFailedRecordOfRunIsRepeated fails to record the attempts of the first run. Its tasks are sent once,
// after their attempts were recorded.
func TestFailedRecordOfRunIsRepeated(t *testing.T) {
	j, s := newMemoryJournal(), newFakeSender()
	var failed sync.Once
	j.beforeAppend = func(e push.Event) (err error) {
		if e.Status == push.StatusSending {
			failed.Do(func() { err = context.DeadlineExceeded })
			if s.count(e.ID) != 0 {
				t.Error("sent before the attempt was recorded")
			}
		}
		return err
	}
	f := openQueue(t, t.TempDir(), j, s, queue.Config{})
	ns := newNotifications("shop", 50)
	f.accept(t, ns...)
	j.waitEnded(t, ns...)
	for _, n := range ns {
		if s.count(n.ID) != 1 {
			t.Errorf("sent %d times", s.count(n.ID))
		}
	}
}
