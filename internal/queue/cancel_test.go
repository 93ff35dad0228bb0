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
	"github.com/sluice-push/sluice/push"
)

// TestCancelAndSendExcludeEachOther cancels right where the queue is sending: whoever is told that it is cancelled is right,
// and so is whoever is not.
func TestCancelAndSendExcludeEachOther(t *testing.T) {
	h := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{InFlight: 8})
	ns := newNotifications("shop", 2000)
	told := make([]push.Receipt, len(ns))
	h.accept(t, ns...)
	var cancels sync.WaitGroup
	for caller := range 4 {
		cancels.Go(func() {
			for i := caller; i < len(ns); i += 4 {
				i = max(i, (h.sender.sentCount()+rand.IntN(32))/4*4+caller) // those before are sent
				if i >= len(ns) {
					return
				}
				var err error
				if told[i], err = h.Cancel(t.Context(), "shop", ns[i].ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	cancels.Wait()
	h.journal.waitEnded(t, ns...)
	cancelled, late := 0, 0
	for i, n := range ns {
		sent, is := h.sender.count(n.ID), told[i].Status() == push.StatusCancelled
		if is {
			cancelled++
		} else if told[i].ID != "" {
			late++
		}
		if is == (sent == 1) || sent > 1 {
			t.Errorf("the caller was told %s, and it was sent %d times: %v", told[i].Status(), sent, h.journal.statuses(n.ID))
		}
	}
	t.Logf("%d were cancelled, %d too late", cancelled, late)
}

func TestCancelScheduledNotification(t *testing.T) {
	h := openQueue(t, t.TempDir(), newMemoryJournal(), newFakeSender(), queue.Config{})
	n, other := newNotification("shop"), newNotification("shop")
	for ahead := 700 * time.Millisecond; ; ahead *= 2 {
		n.SendAt = time.Now().Add(ahead)
		h.accept(t, n)
		r, err := h.Cancel(t.Context(), "shop", n.ID)
		if err == nil && r.Status() == push.StatusCancelled {
			break
		}
		if err != nil || time.Now().Before(n.SendAt) {
			t.Fatal(r.Status(), err)
		}
		n = newNotification("shop") // this machine was too slow to accept and cancel in time
	}
	other.SendAt = n.SendAt.Add(100 * time.Millisecond)
	h.accept(t, other)
	h.journal.waitEnded(t, other)
	if h.sender.count(n.ID) != 0 {
		t.Error("it was sent")
	}
}

func TestCancelRefusesSentNotifications(t *testing.T) {
	s := newFakeSender()
	ended, sending := newNotification("shop"), newNotification("shop")
	release := s.blockMatching(func(n *push.Notification) bool { return n.ID == sending.ID })
	h := openQueue(t, t.TempDir(), newMemoryJournal(), s, queue.Config{})
	h.accept(t, ended, sending)
	h.journal.waitEnded(t, ended)
	s.waitSent(t, sending)
	for n, want := range map[*push.Notification]push.Status{ended: push.StatusAccepted, sending: push.StatusSending} {
		if r, err := h.Cancel(t.Context(), "shop", n.ID); err != nil || r.Status() != want {
			t.Errorf("%s, %v, want %s", r.Status(), err, want)
		}
	}
	release()
	h.journal.waitEnded(t, sending)
	if _, err := h.Cancel(t.Context(), "news", ended.ID); !errors.Is(err, push.ErrNotFound) {
		t.Error("another app's: ", err)
	}
	if _, err := h.Cancel(t.Context(), "shop", uuid.NewString()); !errors.Is(err, push.ErrNotFound) {
		t.Error("nobody's: ", err)
	}
}
