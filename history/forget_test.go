// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sluice-push/sluice/engine/enginetest"
	"github.com/sluice-push/sluice/history"
	"github.com/sluice-push/sluice/push"
)

// drop has the stream forget everything below a sequence, as age or size do.
func (h *house) drop(below uint64) {
	h.Helper()
	enginetest.Insist(h, h.where, func() error {
		stream, err := h.engine.JetStream().Stream(h.Context(), history.Stream)
		if err != nil {
			return err
		}
		return stream.Purge(h.Context(), jetstream.WithPurgeSequence(below))
	})
}

// untilForgotten asks until the notification is not found any more.
func (r *running) untilForgotten(id string) {
	r.Helper()
	for {
		if _, _, err := r.Find(r.Context(), "shop", id); errors.Is(err, push.ErrNotFound) {
			return
		} else if err != nil {
			r.Fatal(err)
		}
	}
}

// first returns the first thing that a feed behind the cursor yields.
func (r *running) first(after string) (push.Event, error) {
	for e, err := range r.Feed(r.Context(), "shop", after, nil) {
		return e, err
	}
	return push.Event{}, nil
}

func TestTheIndexForgetsWhatTheStreamForgets(t *testing.T) {
	house := newHouse(t)
	r := house.open()
	var old []string
	for n := range 30 {
		old = append(old, id())
		keyed := event(old[n], push.StatusQueued)
		keyed.KeyHash, keyed.BodyHash = []byte(old[n]), []byte("body")
		r.append(keyed, event(old[n], push.StatusSending), event(old[n], push.StatusAccepted))
	}
	half, beside := id(), id()
	last := r.append(event(half, push.StatusQueued), event(beside, push.StatusQueued))
	r.append(event(half, push.StatusSending), event(half, push.StatusAccepted))
	r.stop()
	house.drop(last.Seq + 1)
	r = house.open()
	for _, gone := range append(old, beside) {
		r.untilForgotten(gone)
	}
	if receipt, events := r.find("shop", half); receipt.Status() != push.StatusAccepted || len(events) != 2 {
		t.Errorf("%+v %+v", receipt, events)
	}
	if e, err := r.first(history.Oldest); err != nil || e.ID != half || e.Status != push.StatusSending {
		t.Errorf("the oldest is %+v, %v", e, err)
	}
	for cursor, want := range map[string]error{"1.0": push.ErrCursorExpired, fmt.Sprintf("%d.0", last.Seq): push.ErrCursorExpired, fmt.Sprintf("%d.1", last.Seq): nil} {
		if _, err := r.first(cursor); !errors.Is(err, want) {
			t.Errorf("behind %s: %v, want %v", cursor, err, want)
		}
	}
	if done, _ := r.claim(&push.Notification{ID: id(), App: "shop", KeyHash: []byte(old[0]), BodyHash: []byte("other")}, nil); done == nil {
		t.Error("a forgotten key is not free")
	}
}

func TestWhatWasForgottenBeforeItWasHeardIsAGap(t *testing.T) {
	house := newHouse(t)
	r := house.open()
	before := r.append(life(id())...)
	r.stop()
	dir := house.dir
	house.dir = t.TempDir() // another gateway goes on, while ours is away
	other := house.open()
	gone := id()
	dropped := other.append(life(gone)...)
	kept := id()
	other.append(life(kept)...)
	other.stop()
	house.drop(dropped.Seq + 1)
	house.dir = dir
	r = house.open()
	if receipt, _ := r.find("shop", kept); receipt.Status() != push.StatusAccepted {
		t.Error(receipt.Status())
	}
	r.untilForgotten(gone)
	if _, err := r.first(fmt.Sprintf("%d.%d", before.Seq, before.Index)); !errors.Is(err, push.ErrCursorExpired) {
		t.Errorf("the gap was not told: %v", err)
	}
}

func TestAnEmptyStreamKeepsNobodyWaiting(t *testing.T) {
	house := newHouse(t)
	r := house.open()
	gone := id()
	last := r.append(life(gone)...)
	r.stop()
	house.drop(last.Seq + 1)
	for _, dir := range []string{house.dir, t.TempDir()} {
		house.dir = dir
		r = house.open()
		if err := r.Caught(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.untilForgotten(gone)
		r.stop()
	}
	r = house.open()
	now := id()
	r.append(life(now)...)
	if receipt, _ := r.find("shop", now); receipt.Status() != push.StatusAccepted {
		t.Error(receipt.Status())
	}
}
