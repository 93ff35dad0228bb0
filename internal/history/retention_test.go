// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"fmt"
	"testing"

	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/jetstream/jetstreamtest"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// purgeBelow deletes all messages of the stream before a sequence, as retention by age or size
// does.
func (f *fixture) purgeBelow(below uint64) {
	f.Helper()
	jetstreamtest.Retry(f, f.engineConfig, func() error {
		stream, err := f.engine.JetStream().Stream(f.Context(), history.Stream)
		if err != nil {
			return err
		}
		return stream.Purge(f.Context(), natsjs.WithPurgeSequence(below))
	})
}

// waitExpired waits until the notification is no longer found.
func (h *testHistory) waitExpired(id string) {
	h.Helper()
	testwait.Until(h, func() bool {
		_, _, err := h.Find(h.Context(), "shop", id)
		if err != nil && !errors.Is(err, push.ErrNotFound) {
			h.Fatal(err)
		}
		return err != nil
	}, "the notification has expired")
}

// firstEvent returns the first event or error of a feed after a cursor.
func (h *testHistory) firstEvent(after string) (push.Event, error) {
	for e, err := range h.Feed(h.Context(), "shop", after, nil) {
		return e, err
	}
	return push.Event{}, nil
}

func TestIndexDropsExpiredEvents(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	var old []string
	for n := range 30 {
		old = append(old, newID())
		keyed := newEvent(old[n], push.StatusQueued)
		keyed.KeyHash, keyed.BodyHash = []byte(old[n]), []byte("body")
		h.appendEvents(keyed, newEvent(old[n], push.StatusSending), newEvent(old[n], push.StatusAccepted))
	}
	partial, single := newID(), newID()
	last := h.appendEvents(newEvent(partial, push.StatusQueued), newEvent(single, push.StatusQueued))
	h.appendEvents(newEvent(partial, push.StatusSending), newEvent(partial, push.StatusAccepted))
	h.stop()
	f.purgeBelow(last.Seq + 1)
	h = f.open()
	for _, expired := range append(old, single) {
		h.waitExpired(expired)
	}
	if receipt, events := h.find("shop", partial); receipt.Status() != push.StatusAccepted || len(events) != 2 {
		t.Errorf("%+v %+v", receipt, events)
	}
	if e, err := h.firstEvent(history.Oldest); err != nil || e.ID != partial || e.Status != push.StatusSending {
		t.Errorf("the oldest event is %+v, %v", e, err)
	}
	for cursor, want := range map[string]error{"1.0": push.ErrCursorExpired, fmt.Sprintf("%d.0", last.Seq): push.ErrCursorExpired, fmt.Sprintf("%d.1", last.Seq): nil} {
		if _, err := h.firstEvent(cursor); !errors.Is(err, want) {
			t.Errorf("after %s: %v, want %v", cursor, err, want)
		}
	}
	if use, err := h.LastUse(t.Context(), []byte(old[0])); use != nil || err != nil {
		t.Errorf("an expired key was used by %+v, %v", use, err)
	}
}

func TestEventsExpiredBeforeReadAreAGap(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	before := h.appendEvents(lifecycle(newID())...)
	h.stop()
	dir := f.dir
	f.dir = t.TempDir() // for another gateway that runs while ours is down
	other := f.open()
	expired := newID()
	dropped := other.appendEvents(lifecycle(expired)...)
	remaining := newID()
	other.appendEvents(lifecycle(remaining)...)
	other.stop()
	f.purgeBelow(dropped.Seq + 1)
	f.dir = dir
	h = f.open()
	if receipt, _ := h.find("shop", remaining); receipt.Status() != push.StatusAccepted {
		t.Error(receipt.Status())
	}
	h.waitExpired(expired)
	if _, err := h.firstEvent(fmt.Sprintf("%d.%d", before.Seq, before.Index)); !errors.Is(err, push.ErrCursorExpired) {
		t.Errorf("the feed did not report the gap: %v", err)
	}
}

// TestTrimKeepsWhatIsAsked deletes the oldest events in steps, and none from a time on.
func TestTrimKeepsWhatIsAsked(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	var ids []string
	var offsets []jetstream.Offset
	for range 40 {
		ids = append(ids, newID())
		offsets = append(offsets, h.appendEvents(lifecycle(ids[len(ids)-1])...))
	}
	stream, err := f.engine.JetStream().Stream(t.Context(), history.Stream)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := stream.GetMsg(t.Context(), offsets[20].Seq)
	if err != nil {
		t.Fatal(err)
	}
	trim := func(before time.Time) (trimmed bool) {
		jetstreamtest.Retry(t, f.engineConfig, func() (err error) {
			trimmed, err = h.Trim(t.Context(), before)
			return err
		})
		return trimmed
	}
	steps := 0
	for trim(kept.Time) {
		if steps++; steps > 100 {
			t.Fatal("no end")
		}
	}
	if steps < 2 {
		t.Errorf("deleted in %d steps", steps)
	}
	for _, id := range ids[:20] {
		h.waitExpired(id)
	}
	for _, id := range ids[20:] {
		if r, events := h.find("shop", id); r.Status() != push.StatusAccepted || len(events) != 3 {
			t.Fatalf("%+v after %d events", r, len(events))
		}
	}
	if trim(time.Time{}) {
		t.Error("deleted events that were stored later")
	}
	for trim(time.Now().Add(time.Hour)) {
	}
	for _, id := range ids {
		h.waitExpired(id)
	}
}

func TestEmptyStreamIsCaughtUp(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	expired := newID()
	last := h.appendEvents(lifecycle(expired)...)
	h.stop()
	f.purgeBelow(last.Seq + 1)
	for _, dir := range []string{f.dir, t.TempDir()} {
		f.dir = dir
		h = f.open()
		if err := h.WaitCaughtUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.waitExpired(expired)
		h.stop()
	}
	h = f.open()
	recent := newID()
	h.appendEvents(lifecycle(recent)...)
	if receipt, _ := h.find("shop", recent); receipt.Status() != push.StatusAccepted {
		t.Error(receipt.Status())
	}
}
