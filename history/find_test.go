// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/sluice-push/sluice/push"
)

func TestAnEventIsFoundRightAfterItWasAppended(t *testing.T) {
	r := newHouse(t).open()
	for range 200 {
		id := id()
		for i, e := range life(id) {
			if _, err := r.Append(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			if got, events := r.find("shop", id); got.Status() != e.Status || len(events) != i+1 {
				t.Fatalf("after %s: %+v %+v", e.Status, got, events)
			}
		}
	}
}

func TestANoteIsFoundAtOnceAndStaysFound(t *testing.T) {
	house := newHouse(t)
	r := house.open()
	id := id()
	if err := r.Note(t.Context(), life(id)...); err != nil {
		t.Fatal(err)
	}
	if got, events := r.find("shop", id); got.Status() != push.StatusAccepted || len(events) != 3 {
		t.Fatalf("%+v %+v", got, events)
	}
	r.stop() // writes what was noted
	r = house.open()
	got, events := r.find("shop", id)
	if got.Status() != push.StatusAccepted || len(events) != 3 || events[2].Cursor == "" {
		t.Fatalf("%+v %+v", got, events)
	}
	if len(got.Attempts) != 1 || got.Attempts[0].Endpoint != "17.188.143.98:443" {
		t.Errorf("%+v", got)
	}
}

func TestANotificationBelongsToItsAppAlone(t *testing.T) {
	r := newHouse(t).open()
	id := id()
	r.append(life(id)...)
	for _, ask := range [][2]string{{"other", id}, {"shop", "no UUID"}, {"shop", "019ab5a4-0000-7000-8000-000000000000"}} {
		if _, _, err := r.Find(t.Context(), ask[0], ask[1]); !errors.Is(err, push.ErrNotFound) {
			t.Errorf("%s: %v", ask, err)
		}
	}
}

func TestAHistoryThatNobodyAsksSaysWhenItHasCaughtUp(t *testing.T) {
	r := newHouse(t).open()
	if _, err := r.Append(t.Context(), life(id())...); err != nil {
		t.Fatal(err)
	}
	for !r.Status().CaughtUp {
		runtime.Gosched()
	}
	for s := r.Status(); s.Events != 3 || s.Behind != 0; s = r.Status() {
		runtime.Gosched()
	}
}

func TestAnEventWithoutANameIsRefused(t *testing.T) {
	r := newHouse(t).open()
	for _, e := range []push.Event{{}, {ID: "x", App: "shop", Status: push.StatusQueued}, {ID: id(), Status: push.StatusQueued}, {ID: id(), App: "shop"}} {
		if _, err := r.Append(t.Context(), e); err == nil {
			t.Errorf("appended %+v", e)
		}
		if err := r.Note(t.Context(), e); err == nil {
			t.Errorf("noted %+v", e)
		}
	}
}
