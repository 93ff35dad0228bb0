// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/push"
)

// readFeed returns the first most events of a feed.
func (h *testHistory) readFeed(app, after string, count int) (events []push.Event) {
	h.Helper()
	ctx, done := context.WithCancel(h.Context())
	defer done()
	for e, err := range h.Feed(ctx, app, after, nil) {
		if err != nil {
			h.Fatal(err)
		}
		if events = append(events, e); len(events) == count {
			break
		}
	}
	return events
}

func TestFeedResumesAtEveryCursor(t *testing.T) {
	h := newFixture(t).open()
	var written []push.Event
	for n := range 20 { // messages with three and with more events
		var events []push.Event
		for range n%3 + 1 {
			events = append(events, lifecycle(newID())...)
		}
		h.appendEvents(events...)
		written = append(written, events...)
	}
	all := h.readFeed("shop", history.Oldest, len(written))
	for i, e := range all {
		if e.ID != written[i].ID || e.Status != written[i].Status {
			t.Fatalf("event %d is %s %s, want %s %s", i, e.ID, e.Status, written[i].ID, written[i].Status)
		}
	}
	for i, e := range all[:len(all)-1] {
		rest := h.readFeed("shop", e.Cursor, len(all)-i-1)
		if !slices.EqualFunc(rest, all[i+1:], func(a, b push.Event) bool { return a.Cursor == b.Cursor }) {
			t.Fatalf("wrong events after event %d (%s)", i, e.Cursor)
		}
	}
}

func TestFeedFiltersByApp(t *testing.T) {
	h := newFixture(t).open()
	other := newEvent(newID(), push.StatusQueued)
	other.App = "a.b"
	mine := newEvent(newID(), push.StatusQueued)
	h.appendEvents(other, mine, other, mine)
	for app, want := range map[string]string{"shop": mine.ID, "a.b": other.ID} {
		for _, e := range h.readFeed(app, history.Oldest, 2) {
			if e.ID != want || e.App != app {
				t.Errorf("the feed of %s yields %+v", app, e)
			}
		}
	}
	if all := h.readFeed("", history.Oldest, 4); all[0].App != "a.b" || all[1].App != "shop" {
		t.Errorf("the feed of all apps is not in the stream's order: %+v", all)
	}
}

func TestFeedWithoutCursorStartsAtNextEvent(t *testing.T) {
	h := newFixture(t).open()
	old := newID()
	h.appendEvents(lifecycle(old)...)
	feed := openFeed(t, h, "", nil)
	events := make(chan push.Event)
	go func() { events <- feed.next() }()
	for {
		select {
		case got := <-events:
			if got.ID == old {
				t.Errorf("%+v", got)
			}
			return
		default: // append until the feed has started
			h.appendEvents(newEvent(newID(), push.StatusQueued))
		}
	}
}

func TestFeedFollowsNewEvents(t *testing.T) {
	h := newFixture(t).open()
	feed := openFeed(t, h, history.Oldest, nil)
	for range 50 {
		e := newEvent(newID(), push.StatusQueued)
		h.appendEvents(e)
		if got := feed.next(); got.ID != e.ID {
			t.Fatalf("%s, want %s", got.ID, e.ID)
		}
	}
}

func TestSlowFeedDoesNotBlockOthers(t *testing.T) {
	h := newFixture(t).open()
	slow := openFeed(t, h, history.Oldest, nil)
	first := newEvent(newID(), push.StatusQueued)
	h.appendEvents(first)
	slow.next() // and then it stops reading
	quick := openFeed(t, h, history.Oldest, nil)
	quick.next()
	var last string
	for range 40 {
		var events []push.Event
		for range 100 {
			events = append(events, newEvent(newID(), push.StatusQueued))
		}
		h.appendEvents(events...)
		for range events {
			last = quick.next().ID
		}
		if last != events[99].ID {
			t.Fatal("the quick reader missed events")
		}
	}
	for range 4000 {
		if got := slow.next().ID; got == last {
			return
		}
	}
	t.Error("the slow reader did not reach the end")
}

func TestFilteredFeedYieldsPositionMarks(t *testing.T) {
	h := newFixture(t).open()
	unregistered := newEvent(newID(), push.StatusUnregistered)
	h.appendEvents(unregistered)
	last := h.appendEvents(lifecycle(newID())...)
	feed := openFeed(t, h, history.Oldest, func(e *push.Event) bool { return e.ID == "" || e.Status == push.StatusUnregistered })
	if got := feed.next(); got.ID != unregistered.ID || got.Target == nil || got.Target.Token != "unregistered" {
		t.Errorf("%+v", got)
	}
	mark := feed.next()
	if want := fmt.Sprintf("%d.%d", last.Seq, last.Index); mark.ID != "" || mark.Cursor != want {
		t.Errorf("the position mark is %+v, want the cursor %s", mark, want)
	}
	next := newEvent(newID(), push.StatusUnregistered)
	h.appendEvents(next)
	if got := h.readFeed("shop", mark.Cursor, 1); got[0].ID != next.ID {
		t.Errorf("after the position mark: %+v", got[0])
	}
}

func TestFeedRejectsInvalidCursor(t *testing.T) {
	h := newFixture(t).open()
	h.appendEvents(lifecycle(newID())...)
	for cursor, want := range map[string]error{
		"x": push.ErrInvalidCursor, "1": push.ErrInvalidCursor, "1.": push.ErrInvalidCursor, "-1.0": push.ErrInvalidCursor, "1.0.0": push.ErrInvalidCursor, "1.99999999999": push.ErrInvalidCursor,
		"100.0": push.ErrCursorExpired, // beyond the end: of a recreated stream
	} {
		for e, err := range h.Feed(t.Context(), "shop", cursor, nil) {
			if !errors.Is(err, want) {
				t.Errorf("%q: %+v, %v", cursor, e, err)
			}
		}
	}
}

func TestFeedEndsWithContext(t *testing.T) {
	h := newFixture(t).open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for e, err := range h.Feed(ctx, "shop", history.Oldest, nil) {
		t.Errorf("%+v, %v", e, err)
	}
}

// testFeed reads a feed event by event.
type testFeed struct {
	*testing.T
	pull func() (push.Event, error, bool)
}

func openFeed(t *testing.T, h *testHistory, after string, match func(*push.Event) bool) *testFeed {
	ctx, cancel := context.WithCancel(context.Background())
	next, stop := iter.Pull2(h.Feed(ctx, "shop", after, match))
	t.Cleanup(func() { cancel(); stop() })
	return &testFeed{T: t, pull: next}
}

func (f *testFeed) next() push.Event {
	f.Helper()
	e, err, ok := f.pull()
	if err != nil || !ok {
		f.Fatal(err, ok)
	}
	return e
}
