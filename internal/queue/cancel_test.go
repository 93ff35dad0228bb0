// SPDX-License-Identifier: Apache-2.0

package queue_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// TestCancelAndSendExcludeEachOther cancels notifications that are about to be sent. A notification
// is either cancelled or sent, as the receipt of Cancel says.
func TestCancelAndSendExcludeEachOther(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{InFlight: 8})
	ns := newNotifications("shop", 2000)
	receipts := make([]push.Receipt, len(ns))
	f.accept(t, ns...)
	var cancels sync.WaitGroup
	for caller := range 4 {
		cancels.Go(func() {
			for i := caller; i < len(ns); i += 4 {
				i = max(i, (f.sender.sentCount()+rand.IntN(32))/4*4+caller) // skips those already sent
				if i >= len(ns) {
					return
				}
				var err error
				if receipts[i], err = f.Cancel(t.Context(), "shop", ns[i].ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	testwait.Call(t, cancels.Wait, "the end of all cancellations")
	f.journal.waitEnded(t, ns...)
	cancelled, late := 0, 0
	for i, n := range ns {
		sent, is := f.sender.count(n.ID), receipts[i].Status() == push.StatusCancelled
		if is {
			cancelled++
		} else if receipts[i].ID != "" {
			late++
		}
		if is == (sent == 1) || sent > 1 {
			t.Errorf("Cancel returned %s, and the notification was sent %d times: %v", receipts[i].Status(), sent, f.journal.statuses(n.ID))
		}
	}
	t.Logf("%d cancelled, %d too late", cancelled, late)
}

func TestCancelScheduledNotification(t *testing.T) {
	f := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	n, other := newNotification("shop"), newNotification("shop")
	for ahead := 700 * time.Millisecond; ; ahead *= 2 {
		n.SendAt = time.Now().Add(ahead)
		f.accept(t, n)
		r, err := f.Cancel(t.Context(), "shop", n.ID)
		if err == nil && r.Status() == push.StatusCancelled {
			break
		}
		if err != nil || time.Now().Before(n.SendAt) {
			t.Fatal(r.Status(), err)
		}
		n = newNotification("shop") // too slow to cancel in time; try again with more time
	}
	other.SendAt = n.SendAt.Add(100 * time.Millisecond)
	f.accept(t, other)
	f.journal.waitEnded(t, other)
	if f.sender.count(n.ID) != 0 {
		t.Error("the cancelled notification was sent")
	}
}

func TestCancelRefusesSentNotifications(t *testing.T) {
	s := newFakeSender()
	ended, sending := newNotification("shop"), newNotification("shop")
	release := s.blockMatching(func(n *push.Notification) bool { return n.ID == sending.ID })
	f := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	f.accept(t, ended, sending)
	f.journal.waitEnded(t, ended)
	s.waitSent(t, sending)
	for n, want := range map[*push.Notification]push.Status{ended: push.StatusAccepted, sending: push.StatusSending} {
		if r, err := f.Cancel(t.Context(), "shop", n.ID); err != nil || r.Status() != want {
			t.Errorf("%s, %v, want %s", r.Status(), err, want)
		}
	}
	release()
	f.journal.waitEnded(t, sending)
	if _, err := f.Cancel(t.Context(), "news", ended.ID); !errors.Is(err, push.ErrNotFound) {
		t.Error("a notification of another app: ", err)
	}
	if _, err := f.Cancel(t.Context(), "shop", uuid.NewString()); !errors.Is(err, push.ErrNotFound) {
		t.Error("an unknown notification: ", err)
	}
}
