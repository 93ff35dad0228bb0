// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"errors"
	"testing"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

func TestFindAfterAppend(t *testing.T) {
	h := newFixture(t).open()
	for range 200 {
		id := newID()
		for i, e := range lifecycle(id) {
			if _, err := h.Append(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			if got, events := h.find("shop", id); got.Status() != e.Status || len(events) != i+1 {
				t.Fatalf("after %s: %+v %+v", e.Status, got, events)
			}
		}
	}
}

func TestFindAfterAppendAsync(t *testing.T) {
	f := newFixture(t)
	h := f.open()
	id := newID()
	if err := h.AppendAsync(t.Context(), lifecycle(id)...); err != nil {
		t.Fatal(err)
	}
	if got, events := h.find("shop", id); got.Status() != push.StatusAccepted || len(events) != 3 {
		t.Fatalf("%+v %+v", got, events)
	}
	h.stop() // writes the pending events, unless the log does
	if f.log != nil {
		testwait.Until(t, func() bool { return f.log.LastSeq() > 0 }, "the log has written the events")
	}
	h = f.open()
	got, events := h.find("shop", id)
	if got.Status() != push.StatusAccepted || len(events) != 3 || events[2].Cursor == "" {
		t.Fatalf("%+v %+v", got, events)
	}
	if len(got.Attempts) != 1 || got.Attempts[0].Endpoint != "17.188.143.98:443" {
		t.Errorf("%+v", got)
	}
}

func TestFindChecksApp(t *testing.T) {
	h := newFixture(t).open()
	id := newID()
	h.appendEvents(lifecycle(id)...)
	for _, query := range [][2]string{{"other", id}, {"shop", "no UUID"}, {"shop", "019ab5a4-0000-7000-8000-000000000000"}} {
		if _, _, err := h.Find(t.Context(), query[0], query[1]); !errors.Is(err, push.ErrNotFound) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

func TestStatusReportsCaughtUpWithoutQueries(t *testing.T) {
	h := newFixture(t).open()
	if _, err := h.Append(t.Context(), lifecycle(newID())...); err != nil {
		t.Fatal(err)
	}
	testwait.Until(t, func() bool {
		s := h.Status()
		return s.CaughtUp && s.Events == 3 && s.LagBatches == 0
	}, "the status reports all events")
}

func TestAppendRejectsInvalidEvents(t *testing.T) {
	h := newFixture(t).open()
	for _, e := range []push.Event{{}, {ID: "x", App: "shop", Status: push.StatusQueued}, {ID: newID(), Status: push.StatusQueued}, {ID: newID(), App: "shop"}} {
		if _, err := h.Append(t.Context(), e); err == nil {
			t.Errorf("appended %+v", e)
		}
		if err := h.AppendAsync(t.Context(), e); err == nil {
			t.Errorf("accepted %+v", e)
		}
	}
}
