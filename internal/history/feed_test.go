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

// readFeed takes so many events from a feed.
func (r *testHistory) readFeed(app, after string, most int) (events []push.Event) {
	r.Helper()
	ctx, done := context.WithCancel(r.Context())
	defer done()
	for e, err := range r.Feed(ctx, app, after, nil) {
		if err != nil {
			r.Fatal(err)
		}
		if events = append(events, e); len(events) == most {
			break
		}
	}
	return events
}

func TestFeedResumesAtEveryCursor(t *testing.T) {
	r := newFixture(t).open()
	var written []push.Event
	for n := range 20 { // chunks of one event and of several
		var events []push.Event
		for range n%3 + 1 {
			events = append(events, lifecycle(newID())...)
		}
		r.appendEvents(events...)
		written = append(written, events...)
	}
	all := r.readFeed("shop", history.Oldest, len(written))
	for i, e := range all {
		if e.ID != written[i].ID || e.Status != written[i].Status {
			t.Fatalf("event %d is %s %s, want %s %s", i, e.ID, e.Status, written[i].ID, written[i].Status)
		}
	}
	for i, e := range all[:len(all)-1] {
		rest := r.readFeed("shop", e.Cursor, len(all)-i-1)
		if !slices.EqualFunc(rest, all[i+1:], func(a, b push.Event) bool { return a.Cursor == b.Cursor }) {
			t.Fatalf("behind event %d (%s) something else comes", i, e.Cursor)
		}
	}
}

func TestFeedFiltersByApp(t *testing.T) {
	r := newFixture(t).open()
	other := newEvent(newID(), push.StatusQueued)
	other.App = "a.b"
	mine := newEvent(newID(), push.StatusQueued)
	r.appendEvents(other, mine, other, mine)
	for app, want := range map[string]string{"shop": mine.ID, "a.b": other.ID} {
		for _, e := range r.readFeed(app, history.Oldest, 2) {
			if e.ID != want || e.App != app {
				t.Errorf("%s was told %+v", app, e)
			}
		}
	}
	if all := r.readFeed("", history.Oldest, 4); all[0].App != "a.b" || all[1].App != "shop" {
		t.Errorf("the feed of all apps is not in the stream's order: %+v", all)
	}
}

func TestFeedWithoutCursorStartsAtNextEvent(t *testing.T) {
	r := newFixture(t).open()
	old := newID()
	r.appendEvents(lifecycle(old)...)
	feed := openFeed(t, r, "", nil)
	told := make(chan push.Event)
	go func() { told <- feed.next() }()
	for {
		select {
		case got := <-told:
			if got.ID == old {
				t.Errorf("%+v", got)
			}
			return
		default: // whether the reader has begun cannot be seen from here
			r.appendEvents(newEvent(newID(), push.StatusQueued))
		}
	}
}

func TestFeedFollowsNewEvents(t *testing.T) {
	r := newFixture(t).open()
	feed := openFeed(t, r, history.Oldest, nil)
	for range 50 {
		e := newEvent(newID(), push.StatusQueued)
		r.appendEvents(e)
		if got := feed.next(); got.ID != e.ID {
			t.Fatalf("%s, want %s", got.ID, e.ID)
		}
	}
}

func TestSlowFeedDoesNotBlockOthers(t *testing.T) {
	r := newFixture(t).open()
	slow := openFeed(t, r, history.Oldest, nil)
	first := newEvent(newID(), push.StatusQueued)
	r.appendEvents(first)
	slow.next() // and then it reads nothing more, in the middle of its feed
	quick := openFeed(t, r, history.Oldest, nil)
	quick.next()
	var last string
	for range 40 {
		var events []push.Event
		for range 100 {
			events = append(events, newEvent(newID(), push.StatusQueued))
		}
		r.appendEvents(events...)
		for range events {
			last = quick.next().ID
		}
		if last != events[99].ID {
			t.Fatal("the quick reader lost its place")
		}
	}
	for range 4000 {
		if got := slow.next().ID; got == last {
			return
		}
	}
	t.Error("the slow reader never came to the end")
}

func TestFilteredFeedYieldsPositionMarks(t *testing.T) {
	r := newFixture(t).open()
	dead := newEvent(newID(), push.StatusUnregistered)
	r.appendEvents(dead)
	last := r.appendEvents(lifecycle(newID())...)
	feed := openFeed(t, r, history.Oldest, func(e *push.Event) bool { return e.ID == "" || e.Status == push.StatusUnregistered })
	if got := feed.next(); got.ID != dead.ID || got.Target == nil || got.Target.Token != "dead" {
		t.Errorf("%+v", got)
	}
	mark := feed.next()
	if want := fmt.Sprintf("%d.%d", last.Seq, last.Index); mark.ID != "" || mark.Cursor != want {
		t.Errorf("the mark is %+v, want the cursor %s", mark, want)
	}
	again := newEvent(newID(), push.StatusUnregistered)
	r.appendEvents(again)
	if got := r.readFeed("shop", mark.Cursor, 1); got[0].ID != again.ID {
		t.Errorf("behind the mark comes %+v", got[0])
	}
}

func TestFeedRejectsInvalidCursor(t *testing.T) {
	r := newFixture(t).open()
	r.appendEvents(lifecycle(newID())...)
	for cursor, want := range map[string]error{
		"x": push.ErrInvalidCursor, "1": push.ErrInvalidCursor, "1.": push.ErrInvalidCursor, "-1.0": push.ErrInvalidCursor, "1.0.0": push.ErrInvalidCursor, "1.99999999999": push.ErrInvalidCursor,
		"100.0": push.ErrCursorExpired, // of a stream that is no more
	} {
		for e, err := range r.Feed(t.Context(), "shop", cursor, nil) {
			if !errors.Is(err, want) {
				t.Errorf("%q: %+v, %v", cursor, e, err)
			}
		}
	}
}

func TestFeedEndsWithContext(t *testing.T) {
	r := newFixture(t).open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for e, err := range r.Feed(ctx, "shop", history.Oldest, nil) {
		t.Errorf("%+v, %v", e, err)
	}
}

// testFeed is a feed that a test reads event by event.
type testFeed struct {
	*testing.T
	pull func() (push.Event, error, bool)
}

func openFeed(t *testing.T, r *testHistory, after string, want func(*push.Event) bool) *testFeed {
	ctx, cancel := context.WithCancel(context.Background())
	next, stop := iter.Pull2(r.Feed(ctx, "shop", after, want))
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
