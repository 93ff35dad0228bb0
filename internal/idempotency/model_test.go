// SPDX-License-Identifier: Apache-2.0

package idempotency_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/push"
)

// store is an implementation under test.
type store struct {
	idempotency.Store
	history *fakeHistory // of a Log; nil for a Memory
}

func newStore(log bool) *store {
	s := &store{Store: new(idempotency.Memory)}
	if log {
		s.history = &fakeHistory{}
		s.restart()
	}
	return s
}

// restart replaces a Log by another one with the same history, as after kill -9.
func (s *store) restart() {
	l, err := idempotency.NewLog(context.Background(), idempotency.LogConfig{History: s.history, Queue: fullQueue{}})
	if err != nil {
		panic(err)
	}
	s.Store = l
}

// record appends an event of a request, which the sender of a gateway with a history does.
func (s *store) record(n *push.Notification, status push.Status, r *push.Receipt) {
	if s.history != nil {
		_, _ = s.history.Append(context.Background(), push.Event{
			ID: n.ID, App: n.App, At: time.Now(), Status: status, Receipt: r, KeyHash: n.KeyHash, BodyHash: n.BodyHash,
		})
	}
}

// modelStep is one step of the test.
type modelStep struct {
	action string
	key    string
	body   string
	ending string
	hours  int
}

func drawSteps(r *rapid.T) []modelStep {
	return rapid.SliceOfN(rapid.Custom(func(r *rapid.T) modelStep {
		return modelStep{
			action: rapid.SampledFrom([]string{"claim", "claim", "claim", "release", "release", "cancel", "sleep", "kill"}).Draw(r, "action"),
			key:    rapid.SampledFrom([]string{"key", "key", "key", "other key"}).Draw(r, "key"),
			body:   rapid.SampledFrom([]string{"body", "body", "body", "other body"}).Draw(r, "body"),
			ending: rapid.SampledFrom([]string{"nothing", "accepted", "queued", "unknown", "throttled", "expired", "rejected", "panic"}).Draw(r, "ending"),
			hours:  rapid.IntRange(1, 30).Draw(r, "hours"),
		}
	}), 1, 40).Draw(r, "steps")
}

// endingOf returns the receipt of a request, and whether it keeps the key.
func endingOf(n *push.Notification, ending string) (r *push.Receipt, keepsKey bool) {
	switch ending {
	case "accepted":
		return newReceipt(n, push.Accepted, push.Unavailable, push.Accepted), true
	case "queued":
		return &push.Receipt{ID: n.ID, State: push.StatusQueued}, true
	case "unknown":
		return newReceipt(n, push.Unavailable, push.Unknown, push.Unavailable), true
	case "rejected":
		return newReceipt(n, push.Unregistered, push.Unregistered), true
	case "panic":
		return newReceipt(n, push.Unknown), true
	case "throttled":
		return newReceipt(n, push.Throttled, push.Throttled), false
	case "expired":
		return newReceipt(n, push.Expired), false
	default:
		return nil, false
	}
}

// model is what a Store must do.
type model struct {
	*store
	fail  func(format string, args ...any)
	calls []*modelCall // that have not ended
	used  map[string]*modelUse
}

// modelCall is a call of Claim, and the request after it.
type modelCall struct {
	n        *push.Notification
	cancel   context.CancelFunc
	returned chan struct{}
	release  func(*push.Receipt)
	earlier  push.Receipt
	err      error
}

// modelUse is the earlier use of a key.
type modelUse struct {
	id, body string
	at       time.Time
	inDoubt  bool // its gateway was killed, and no request has found that yet
}

// owner returns the request that has the key, or nil.
func (m *model) owner(key string) *modelCall {
	for _, c := range m.calls {
		if c.release != nil && string(c.n.KeyHash) == key {
			return c
		}
	}
	return nil
}

// remove removes a call.
func (m *model) remove(c *modelCall) {
	for i, other := range m.calls {
		if other == c {
			m.calls = append(m.calls[:i:i], m.calls[i+1:]...)
			return
		}
	}
}

// waiting returns the calls that wait for the key.
func (m *model) waiting(key string) (calls []*modelCall) {
	for _, c := range m.calls {
		if c.release == nil && string(c.n.KeyHash) == key {
			calls = append(calls, c)
		}
	}
	return calls
}

func (m *model) claim(key, body string) {
	owner, use := m.owner(key), m.used[key]
	ctx, cancel := context.WithCancel(context.Background())
	c := &modelCall{n: newKeyed(key, body), cancel: cancel, returned: make(chan struct{})}
	store := m.Store
	go func() {
		defer close(c.returned)
		c.release, c.earlier, c.err = store.Claim(ctx, c.n)
	}()
	synctest.Wait()
	known := use != nil && time.Since(use.at) <= 24*time.Hour
	switch {
	case owner != nil && string(owner.n.BodyHash) != body, owner == nil && known && use.body != body:
		m.expect(c, "key reused", errors.Is(c.err, push.ErrKeyReused))
	case owner != nil:
		m.expectWaiting(c)
		m.calls = append(m.calls, c)
	case known:
		m.expect(c, "the earlier receipt", c.err == nil && c.release == nil && c.earlier.ID == use.id && (!use.inDoubt || c.earlier.Status() == push.StatusUnknown))
		if use.inDoubt { // the key is remembered from the end that Claim appends
			use.inDoubt, use.at = false, time.Now()
		}
	default:
		m.expect(c, "the key", c.err == nil && c.release != nil)
		m.calls = append(m.calls, c)
	}
}

func (m *model) release(key, ending string) {
	owner := m.owner(key)
	if owner == nil {
		return
	}
	r, keepsKey := endingOf(owner.n, ending)
	if r != nil {
		m.record(owner.n, r.Status(), r)
	}
	if keepsKey {
		m.used[key] = &modelUse{id: r.ID, body: string(owner.n.BodyHash), at: time.Now()}
	}
	m.remove(owner)
	waiting := m.waiting(key)
	owner.release(r)
	synctest.Wait()
	if keepsKey || r != nil && m.history == nil { // those that wait for a Memory get any receipt
		for _, c := range waiting {
			m.expect(c, "the receipt of the request in progress", c.err == nil && c.release == nil && c.earlier.ID == r.ID)
			m.remove(c)
		}
		return
	}
	owners := 0
	for _, c := range waiting {
		select {
		case <-c.returned:
			m.expect(c, "the key", c.err == nil && c.release != nil)
			owners++
		default:
		}
	}
	if owners != min(1, len(waiting)) {
		m.fail("%d of %d waiting calls got the key", owners, len(waiting))
	}
}

// cancel cancels the first call that waits for the key.
func (m *model) cancel(key string) {
	for _, c := range m.waiting(key)[:min(1, len(m.waiting(key)))] {
		c.cancel()
		synctest.Wait()
		m.expect(c, "key in use", errors.Is(c.err, push.ErrKeyInUse))
		m.remove(c)
	}
}

// kill replaces the store. The requests in progress were sent and have no end.
func (m *model) kill() {
	if m.history == nil {
		return
	}
	for _, c := range m.calls {
		if c.release != nil {
			m.record(c.n, push.StatusSending, nil)
			m.used[string(c.n.KeyHash)] = &modelUse{id: c.n.ID, body: string(c.n.BodyHash), at: time.Now(), inDoubt: true}
		}
		c.cancel()
	}
	synctest.Wait()
	m.calls = nil
	m.restart()
}

func (m *model) expect(c *modelCall, what string, ok bool) {
	select {
	case <-c.returned:
		if !ok {
			m.fail("%s %s: want %s, got claimed: %t, %+v, %v", c.n.KeyHash, c.n.BodyHash, what, c.release != nil, c.earlier, c.err)
		}
	default:
		m.fail("%s %s: Claim waits, want %s", c.n.KeyHash, c.n.BodyHash, what)
	}
}

func (m *model) expectWaiting(c *modelCall) {
	select {
	case <-c.returned:
		m.fail("%s %s: Claim returned while another request has the key", c.n.KeyHash, c.n.BodyHash)
	default:
	}
}

// TestStoresFollowOneModel runs random requests against both implementations. They differ in one point:
// requests that wait for a Memory share the receipt of the request in progress even if it leaves the
// key free; with a Log, one of them has the key then.
func TestStoresFollowOneModel(t *testing.T) {
	for name, log := range map[string]bool{"memory": false, "log": true} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(r *rapid.T) {
				steps, failure := drawSteps(r), ""
				synctest.Test(t, func(*testing.T) {
					m := &model{store: newStore(log), used: map[string]*modelUse{}}
					step := 0
					m.fail = func(format string, args ...any) {
						if failure == "" {
							failure = fmt.Sprintf("step %d: ", step) + fmt.Sprintf(format, args...)
						}
					}
					for i, s := range steps {
						if step = i; failure != "" {
							break
						}
						switch s.action {
						case "claim":
							m.claim(s.key, s.body)
						case "release":
							m.release(s.key, s.ending)
						case "cancel":
							m.cancel(s.key)
						case "sleep":
							time.Sleep(time.Duration(s.hours) * time.Hour)
						case "kill":
							m.kill()
						}
					}
					for _, c := range m.calls {
						c.cancel()
					}
					synctest.Wait()
				})
				if failure != "" {
					r.Fatal(failure)
				}
			})
		})
	}
}
