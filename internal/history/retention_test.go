// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"fmt"
	"testing"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/push"
)

// purgeBelow has the stream forget everything below a sequence, as age or size do.
func (h *fixture) purgeBelow(below uint64) {
	h.Helper()
	jetstreamtest.Retry(h, h.engineConfig, func() error {
		stream, err := h.engine.JetStream().Stream(h.Context(), history.Stream)
		if err != nil {
			return err
		}
		return stream.Purge(h.Context(), natsjs.WithPurgeSequence(below))
	})
}

// waitExpired asks until the notification is not found any more.
func (r *testHistory) waitExpired(id string) {
	r.Helper()
	for {
		if _, _, err := r.Find(r.Context(), "shop", id); errors.Is(err, push.ErrNotFound) {
			return
		} else if err != nil {
			r.Fatal(err)
		}
	}
}

// firstEvent returns the first thing that a feed behind the cursor yields.
func (r *testHistory) firstEvent(after string) (push.Event, error) {
	for e, err := range r.Feed(r.Context(), "shop", after, nil) {
		return e, err
	}
	return push.Event{}, nil
}

func TestIndexDropsExpiredEvents(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	var old []string
	for n := range 30 {
		old = append(old, newID())
		keyed := newEvent(old[n], push.StatusQueued)
		keyed.KeyHash, keyed.BodyHash = []byte(old[n]), []byte("body")
		r.appendEvents(keyed, newEvent(old[n], push.StatusSending), newEvent(old[n], push.StatusAccepted))
	}
	half, beside := newID(), newID()
	last := r.appendEvents(newEvent(half, push.StatusQueued), newEvent(beside, push.StatusQueued))
	r.appendEvents(newEvent(half, push.StatusSending), newEvent(half, push.StatusAccepted))
	r.stop()
	house.purgeBelow(last.Seq + 1)
	r = house.open()
	for _, gone := range append(old, beside) {
		r.waitExpired(gone)
	}
	if receipt, events := r.find("shop", half); receipt.Status() != push.StatusAccepted || len(events) != 2 {
		t.Errorf("%+v %+v", receipt, events)
	}
	if e, err := r.firstEvent(history.Oldest); err != nil || e.ID != half || e.Status != push.StatusSending {
		t.Errorf("the oldest is %+v, %v", e, err)
	}
	for cursor, want := range map[string]error{"1.0": push.ErrCursorExpired, fmt.Sprintf("%d.0", last.Seq): push.ErrCursorExpired, fmt.Sprintf("%d.1", last.Seq): nil} {
		if _, err := r.firstEvent(cursor); !errors.Is(err, want) {
			t.Errorf("behind %s: %v, want %v", cursor, err, want)
		}
	}
	if done, _ := r.claim(&push.Notification{ID: newID(), App: "shop", KeyHash: []byte(old[0]), BodyHash: []byte("other")}, nil); done == nil {
		t.Error("a forgotten key is not free")
	}
}

func TestEventsExpiredBeforeReadAreAGap(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	before := r.appendEvents(lifecycle(newID())...)
	r.stop()
	dir := house.dir
	house.dir = t.TempDir() // another gateway goes on, while ours is away
	other := house.open()
	gone := newID()
	dropped := other.appendEvents(lifecycle(gone)...)
	kept := newID()
	other.appendEvents(lifecycle(kept)...)
	other.stop()
	house.purgeBelow(dropped.Seq + 1)
	house.dir = dir
	r = house.open()
	if receipt, _ := r.find("shop", kept); receipt.Status() != push.StatusAccepted {
		t.Error(receipt.Status())
	}
	r.waitExpired(gone)
	if _, err := r.firstEvent(fmt.Sprintf("%d.%d", before.Seq, before.Index)); !errors.Is(err, push.ErrCursorExpired) {
		t.Errorf("the gap was not told: %v", err)
	}
}

func TestEmptyStreamIsCaughtUp(t *testing.T) {
	house := newFixture(t)
	r := house.open()
	gone := newID()
	last := r.appendEvents(lifecycle(gone)...)
	r.stop()
	house.purgeBelow(last.Seq + 1)
	for _, dir := range []string{house.dir, t.TempDir()} {
		house.dir = dir
		r = house.open()
		if err := r.WaitCaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.waitExpired(gone)
		r.stop()
	}
	r = house.open()
	now := newID()
	r.appendEvents(lifecycle(now)...)
	if receipt, _ := r.find("shop", now); receipt.Status() != push.StatusAccepted {
		t.Error(receipt.Status())
	}
}
