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
	"github.com/sluice-push/sluice/push"
)

// newKeyed is a notification that came with an Idempotency-Key.
func newKeyed(key, body string) *push.Notification {
	return &push.Notification{ID: newID(), App: "shop", Platform: push.APNs, KeyHash: []byte(key), BodyHash: []byte(body)}
}

// keyedEvent is the event that n has come to that status.
func keyedEvent(n *push.Notification, status push.Status) push.Event {
	e := newEvent(n.ID, status)
	e.KeyHash, e.BodyHash = n.KeyHash, n.BodyHash
	return e
}

func (r *testHistory) claim(n *push.Notification, stands func(*push.Receipt) bool) (done func(), earlier push.Receipt) {
	r.Helper()
	done, earlier, err := r.Claim(r.Context(), n, stands)
	if err != nil {
		r.Fatal(err)
	}
	return done, earlier
}

func TestClaimReturnsEarlierReceiptAfterRestart(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	n := newKeyed("key", "body")
	done, _ := r.claim(n, nil)
	if err := r.AppendAsync(t.Context(), keyedEvent(n, push.StatusQueued)); err != nil {
		t.Fatal(err)
	}
	done()
	for _, status := range []push.Status{push.StatusQueued, push.StatusAccepted} {
		if status != push.StatusQueued {
			r.appendEvents(keyedEvent(n, push.StatusSending), keyedEvent(n, status))
		}
		if done, earlier := r.claim(newKeyed("key", "body"), nil); done != nil || earlier.ID != n.ID || earlier.Status() != status {
			t.Errorf("%+v, want %s", earlier, status)
		}
	}
	r.stop()
	r = house.open()
	if done, earlier := r.claim(newKeyed("key", "body"), nil); done != nil || earlier.ID != n.ID || len(earlier.Attempts) != 1 {
		t.Errorf("%+v", earlier)
	}
	if _, _, err := r.Claim(t.Context(), newKeyed("key", "other"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
	if done, _ := r.claim(newKeyed("other", "body"), nil); done == nil {
		t.Error("another key is not free")
	}
}

func TestConcurrentClaimsHaveOneOwner(t *testing.T) {
	r := newFixture(t).open()
	var firsts atomic.Int64
	var calls sync.WaitGroup
	for range 32 {
		calls.Go(func() {
			n := newKeyed("key", "body")
			done, earlier, err := r.Claim(t.Context(), n, nil)
			switch {
			case err != nil:
				t.Error(err)
			case done == nil && earlier.Status() != push.StatusAccepted:
				t.Errorf("%+v", earlier)
			case done != nil:
				firsts.Add(1)
				if _, err := r.Append(t.Context(), keyedEvent(n, push.StatusSending)); err != nil {
					t.Error(err)
				}
				if err := r.AppendAsync(t.Context(), keyedEvent(n, push.StatusAccepted)); err != nil {
					t.Error(err)
				}
				done()
			}
		})
	}
	calls.Wait()
	if firsts.Load() != 1 {
		t.Errorf("%d calls were sent", firsts.Load())
	}
}

func TestUnusedKeyIsReleased(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	done, _ := r.claim(newKeyed("key", "body"), nil)
	done()
	n := newKeyed("key", "other body")
	if done = house.claimWhenFree(r, n, nil); done == nil {
		t.Fatal("a call that told nothing keeps its key")
	}
	r.appendEvents(keyedEvent(n, push.StatusExpired))
	done()
	falls := func(r *push.Receipt) bool { return r.Status() != push.StatusExpired }
	if house.claimWhenFree(r, newKeyed("key", "third body"), falls) == nil {
		t.Error("an end that does not stand keeps its key")
	}
}

// claimWhenFree claims a key with another body than the call before, of which a cluster may hear a moment later that it has
// ended.
func (h *fixture) claimWhenFree(r *testHistory, n *push.Notification, stands func(*push.Receipt) bool) (done func()) {
	h.Helper()
	jetstreamtest.Retry(h, h.engineConfig, func() (err error) {
		done, _, err = r.Claim(h.Context(), n, stands)
		return err
	})
	return done
}

func TestClaimWaitEndsWithContext(t *testing.T) {
	r := newFixture(t).open()
	done, _ := r.claim(newKeyed("key", "body"), nil)
	defer done()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Claim(ctx, newKeyed("key", "body"), nil); !errors.Is(err, push.ErrKeyInUse) {
		t.Error(err)
	}
	if _, _, err := r.Claim(t.Context(), newKeyed("key", "other"), nil); !errors.Is(err, push.ErrKeyReused) {
		t.Error(err)
	}
}

func TestOrphanedSendIsInDoubt(t *testing.T) {
	house, cfg := newFixture(t), history.Config{ClaimTTL: time.Second} // a cluster keeps its claims for so long
	r := house.openWith(cfg)
	never, may := newKeyed("never", "body"), newKeyed("may", "body")
	for _, n := range []*push.Notification{never, may} {
		_, _ = r.claim(n, nil) // and then the gateway dies
		r.appendEvents(keyedEvent(n, push.StatusSending))
	}
	r.stop()
	r = house.openWith(cfg)
	if done, earlier := r.claim(newKeyed("never", "body"), nil); done != nil || earlier.ID != never.ID || earlier.Status() != push.StatusUnknown {
		t.Errorf("%+v", earlier)
	}
	again := newKeyed("may", "body")
	again.OnUnknown = push.RepeatAlways
	if done, _ := r.claim(again, nil); done == nil {
		t.Error("it may be repeated, and is not")
	}
	for _, n := range []*push.Notification{never, may} {
		if receipt, _ := r.find("shop", n.ID); receipt.Status() != push.StatusUnknown || receipt.Reason != "IN_DOUBT" {
			t.Errorf("%+v", receipt)
		}
	}
}
