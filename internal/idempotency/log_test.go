// SPDX-License-Identifier: Apache-2.0

package idempotency_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestClaimReturnsEarlierReceiptAfterRestart(t *testing.T) {
	f := newFixture(t)
	l := f.open()
	n := newKeyed("key", "body")
	release, _ := l.claim(n)
	if err := l.history.AppendAsync(t.Context(), keyedEvent(n, push.StatusQueued)); err != nil {
		t.Fatal(err)
	}
	release(nil)
	for _, status := range []push.Status{push.StatusQueued, push.StatusAccepted} {
		if status != push.StatusQueued {
			l.appendEvents(keyedEvent(n, push.StatusSending), keyedEvent(n, status))
		}
		if release, earlier := l.claim(newKeyed("key", "body")); release != nil || earlier.ID != n.ID || earlier.Status() != status {
			t.Errorf("%+v, want %s", earlier, status)
		}
	}
	l.stop()
	l = f.open()
	if release, earlier := l.claim(newKeyed("key", "body")); release != nil || earlier.ID != n.ID || len(earlier.Attempts) != 1 {
		t.Errorf("%+v", earlier)
	}
	if _, _, err := l.Claim(t.Context(), newKeyed("key", "other")); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
	if release, _ := l.claim(newKeyed("other", "body")); release == nil {
		t.Error("another key is not free")
	}
}

func TestConcurrentClaimsHaveOneOwner(t *testing.T) {
	l := newFixture(t).open()
	var owners atomic.Int64
	var calls sync.WaitGroup
	for range 32 {
		calls.Go(func() {
			n := newKeyed("key", "body")
			release, earlier, err := l.Claim(t.Context(), n)
			switch {
			case err != nil:
				t.Error(err)
			case release == nil && earlier.Status() != push.StatusAccepted:
				t.Errorf("%+v", earlier)
			case release != nil:
				owners.Add(1)
				if _, err := l.history.Append(t.Context(), keyedEvent(n, push.StatusSending)); err != nil {
					t.Error(err)
				}
				if err := l.history.AppendAsync(t.Context(), keyedEvent(n, push.StatusAccepted)); err != nil {
					t.Error(err)
				}
				release(nil)
			}
		})
	}
	testwait.Call(t, calls.Wait, "the end of all claims")
	if owners.Load() != 1 {
		t.Errorf("%d calls claimed the key", owners.Load())
	}
}

func TestUnusedKeyIsReleased(t *testing.T) {
	f := newFixture(t)
	l := f.open()
	release, _ := l.claim(newKeyed("key", "body"))
	release(nil)
	n := newKeyed("key", "other body")
	if release = f.claimWhenFree(l, n); release == nil {
		t.Fatal("a call without an event keeps its key")
	}
	l.appendEvents(keyedEvent(n, push.StatusExpired))
	release(nil)
	if f.claimWhenFree(l, newKeyed("key", "third body")) == nil {
		t.Error("a notification that expired without an attempt keeps its key")
	}
}

func TestClaimWaitEndsWithContext(t *testing.T) {
	l := newFixture(t).open()
	release, _ := l.claim(newKeyed("key", "body"))
	defer release(nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.Claim(ctx, newKeyed("key", "body")); !errors.Is(err, push.ErrKeyInUse) {
		t.Error(err)
	}
	if _, _, err := l.Claim(t.Context(), newKeyed("key", "other")); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
}

func TestOrphanedSendIsInDoubt(t *testing.T) {
	f := newFixture(t)
	f.claimTTL = time.Second // claims in a cluster expire after it
	l := f.open()
	never, may := newKeyed("never", "body"), newKeyed("may", "body")
	for _, n := range []*push.Notification{never, may} {
		_, _ = l.claim(n) // never released, as if the gateway had died
		l.appendEvents(keyedEvent(n, push.StatusSending))
	}
	l.stop()
	l = f.open()
	if release, earlier := l.claim(newKeyed("never", "body")); release != nil || earlier.ID != never.ID || earlier.Status() != push.StatusUnknown {
		t.Errorf("%+v", earlier)
	}
	again := newKeyed("may", "body")
	again.OnUnknown = push.RepeatAlways
	if release, _ := l.claim(again); release == nil {
		t.Error("the key is not claimed although the notification may be repeated")
	}
	for _, n := range []*push.Notification{never, may} {
		if receipt := l.find(n.ID); receipt.Status() != push.StatusUnknown || receipt.Reason != "IN_DOUBT" {
			t.Errorf("%+v", receipt)
		}
	}
}

// lossyQueue is a queue that has lost a notification, which it ends when it is asked.
type lossyQueue struct {
	fullQueue
	*fakeHistory
	err error
}

func (q *lossyQueue) Confirm(ctx context.Context, id string) (bool, error) {
	if q.err != nil {
		return false, q.err
	}
	notStored := &push.Receipt{ID: id, Outcome: push.Outcome{Verdict: push.Unknown, Reason: "NOT_STORED"}}
	_, err := q.Append(ctx, push.Event{ID: id, Status: push.StatusUnknown, Receipt: notStored})
	return false, err
}

// TestClaimConfirmsWaitingNotification repeats a request whose notification the history knows and the
// queue does not.
func TestClaimConfirmsWaitingNotification(t *testing.T) {
	h := &fakeHistory{}
	q := &lossyQueue{fakeHistory: h, err: errors.New("queue unavailable")}
	l, err := idempotency.NewLog(t.Context(), idempotency.LogConfig{History: h, Queue: q})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Append(t.Context(), keyedEvent(newKeyed("key", "body"), push.StatusQueued)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Claim(t.Context(), newKeyed("key", "body")); !errors.Is(err, q.err) {
		t.Error(err)
	}
	q.err = nil
	if release, earlier, err := l.Claim(t.Context(), newKeyed("key", "body")); release == nil || err != nil {
		t.Errorf("%+v, %v", earlier, err)
	}
}

// TestSendEndedByQueueCanBeRepeated claims the keys of synchronous sends that the queue has ended as in
// doubt after a crash. Only those that may be repeated are sent again, and none that was queued.
func TestSendEndedByQueueCanBeRepeated(t *testing.T) {
	l := newFixture(t).open()
	end := func(n *push.Notification, statuses ...push.Status) {
		for _, status := range statuses {
			l.appendEvents(keyedEvent(n, status))
		}
		e := push.Event{ID: n.ID, App: "shop", At: time.Now(), Status: push.StatusUnknown, Receipt: &push.Receipt{
			ID: n.ID, Outcome: push.Outcome{Verdict: push.Unknown, Reason: "IN_DOUBT"}, Attempts: []push.Attempt{{Outcome: push.Outcome{Verdict: push.Unknown}}},
		}}
		l.appendEvents(e)
	}
	for key, repeated := range map[string]bool{"never": false, "may": true, "queued": false} {
		n, again := newKeyed(key, "body"), newKeyed(key, "body")
		switch key {
		case "never":
			end(n, push.StatusSending)
		case "may":
			again.OnUnknown = push.RepeatAlways
			end(n, push.StatusSending)
		case "queued": // all of its attempts were made
			again.OnUnknown, again.Retry = push.RepeatAlways, &push.Retry{Attempts: 1}
			end(n, push.StatusQueued, push.StatusSending)
		}
		switch release, earlier := l.claim(again); {
		case (release != nil) != repeated:
			t.Errorf("%s: claimed %t", key, release != nil)
		case repeated:
			release(nil)
		case earlier.ID != n.ID || earlier.Reason != "IN_DOUBT":
			t.Errorf("%s: %+v", key, earlier)
		}
	}
}

// TestKeyOfMissingTaskStaysInUse claims the key of a notification that a cluster may have lost.
func TestKeyOfMissingTaskStaysInUse(t *testing.T) {
	l := newFixture(t).open()
	n := newKeyed("key", "body")
	l.appendEvents(keyedEvent(n, push.StatusQueued))
	l.appendEvents(push.Event{ID: n.ID, App: "shop", At: time.Now(), Status: push.StatusUnknown, Receipt: &push.Receipt{
		ID: n.ID, Outcome: push.Outcome{Verdict: push.Unknown, Reason: push.ReasonTaskMissing},
	}})
	if release, earlier := l.claim(newKeyed("key", "body")); release != nil || earlier.ID != n.ID || earlier.Reason != push.ReasonTaskMissing {
		t.Errorf("%+v", earlier)
	}
}
