// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// newKeyed returns a notification with an Idempotency-Key.
func newKeyed(key, body string) *push.Notification {
	return &push.Notification{ID: newID(), App: "shop", Platform: push.APNs, KeyHash: []byte(key), BodyHash: []byte(body)}
}

// keyedEvent returns an event of n with its key.
func keyedEvent(n *push.Notification, status push.Status) push.Event {
	e := newEvent(n.ID, status)
	e.KeyHash, e.BodyHash = n.KeyHash, n.BodyHash
	return e
}

func (h *testHistory) claim(n *push.Notification, reusable func(*push.Receipt) bool) (done func(), earlier push.Receipt) {
	h.Helper()
	done, earlier, err := h.Claim(h.Context(), n, reusable)
	if err != nil {
		h.Fatal(err)
	}
	return done, earlier
}

func TestClaimReturnsEarlierReceiptAfterRestart(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	n := newKeyed("key", "body")
	done, _ := h.claim(n, nil)
	if err := h.AppendAsync(t.Context(), keyedEvent(n, push.StatusQueued)); err != nil {
		t.Fatal(err)
	}
	done()
	for _, status := range []push.Status{push.StatusQueued, push.StatusAccepted} {
		if status != push.StatusQueued {
			h.appendEvents(keyedEvent(n, push.StatusSending), keyedEvent(n, status))
		}
		if done, earlier := h.claim(newKeyed("key", "body"), nil); done != nil || earlier.ID != n.ID || earlier.Status() != status {
			t.Errorf("%+v, want %s", earlier, status)
		}
	}
	h.stop()
	h = f.open()
	if done, earlier := h.claim(newKeyed("key", "body"), nil); done != nil || earlier.ID != n.ID || len(earlier.Attempts) != 1 {
		t.Errorf("%+v", earlier)
	}
	if _, _, err := h.Claim(t.Context(), newKeyed("key", "other"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
	if done, _ := h.claim(newKeyed("other", "body"), nil); done == nil {
		t.Error("another key is not free")
	}
}

func TestConcurrentClaimsHaveOneOwner(t *testing.T) {
	h := newFixture(t).open()
	var owners atomic.Int64
	var calls sync.WaitGroup
	for range 32 {
		calls.Go(func() {
			n := newKeyed("key", "body")
			done, earlier, err := h.Claim(t.Context(), n, nil)
			switch {
			case err != nil:
				t.Error(err)
			case done == nil && earlier.Status() != push.StatusAccepted:
				t.Errorf("%+v", earlier)
			case done != nil:
				owners.Add(1)
				if _, err := h.Append(t.Context(), keyedEvent(n, push.StatusSending)); err != nil {
					t.Error(err)
				}
				if err := h.AppendAsync(t.Context(), keyedEvent(n, push.StatusAccepted)); err != nil {
					t.Error(err)
				}
				done()
			}
		})
	}
	testwait.Call(t, calls.Wait, "the end of all claims")
	if owners.Load() != 1 {
		t.Errorf("%d calls reserved the key", owners.Load())
	}
}

func TestUnusedKeyIsReleased(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	done, _ := h.claim(newKeyed("key", "body"), nil)
	done()
	n := newKeyed("key", "other body")
	if done = f.claimWhenFree(h, n, nil); done == nil {
		t.Fatal("a call without an event keeps its key")
	}
	h.appendEvents(keyedEvent(n, push.StatusExpired))
	done()
	reusable := func(r *push.Receipt) bool { return r.Status() != push.StatusExpired }
	if f.claimWhenFree(h, newKeyed("key", "third body"), reusable) == nil {
		t.Error("a receipt that is not reusable keeps its key")
	}
}

// claimWhenFree claims a key with a different body than the call before. In a cluster the release
// takes a moment.
func (f *fixture) claimWhenFree(h *testHistory, n *push.Notification, reusable func(*push.Receipt) bool) (done func()) {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() (err error) {
		done, _, err = h.Claim(f.Context(), n, reusable)
		return err
	})
	return done
}

func TestClaimWaitEndsWithContext(t *testing.T) {
	h := newFixture(t).open()
	done, _ := h.claim(newKeyed("key", "body"), nil)
	defer done()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := h.Claim(ctx, newKeyed("key", "body"), nil); !errors.Is(err, push.ErrKeyInUse) {
		t.Error(err)
	}
	if _, _, err := h.Claim(t.Context(), newKeyed("key", "other"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
}

func TestOrphanedSendIsInDoubt(t *testing.T) {
	f, cfg := newFixture(t), history.Config{ClaimTTL: time.Second} // claims in a cluster expire after it
	h := f.openWith(cfg)
	never, may := newKeyed("never", "body"), newKeyed("may", "body")
	for _, n := range []*push.Notification{never, may} {
		_, _ = h.claim(n, nil) // never released, as if the gateway had died
		h.appendEvents(keyedEvent(n, push.StatusSending))
	}
	h.stop()
	h = f.openWith(cfg)
	if done, earlier := h.claim(newKeyed("never", "body"), nil); done != nil || earlier.ID != never.ID || earlier.Status() != push.StatusUnknown {
		t.Errorf("%+v", earlier)
	}
	again := newKeyed("may", "body")
	again.OnUnknown = push.RepeatAlways
	if done, _ := h.claim(again, nil); done == nil {
		t.Error("the key is not reserved although the notification may be repeated")
	}
	for _, n := range []*push.Notification{never, may} {
		if receipt, _ := h.find("shop", n.ID); receipt.Status() != push.StatusUnknown || receipt.Reason != "IN_DOUBT" {
			t.Errorf("%+v", receipt)
		}
	}
}
