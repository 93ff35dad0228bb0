// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/push"
)

// TestStateFollowsStreamOrder applies sequences of events. A digit after a status is the number of
// the attempt.
func TestStateFollowsStreamOrder(t *testing.T) {
	h := newFixture(t).open()
	for sequence, want := range map[string]push.Status{
		"queued":                                 push.StatusQueued,
		"scheduled sending1":                     push.StatusSending,
		"queued cancelled":                       push.StatusCancelled,
		"queued cancelled sending1":              push.StatusCancelled,
		"queued cancelled sending1 accepted":     push.StatusCancelled,
		"queued sending1 cancelled":              push.StatusSending,
		"queued sending1 cancelled accepted":     push.StatusAccepted,
		"queued sending1 queued1":                push.StatusQueued,
		"queued sending1 queued1 cancelled":      push.StatusCancelled,
		"queued sending1 scheduled1 sending2":    push.StatusSending,
		"queued sending1 sending2 queued1":       push.StatusSending,
		"sending1 queued":                        push.StatusSending,
		"accepted queued":                        push.StatusAccepted,
		"sending1 accepted queued sending2":      push.StatusAccepted,
		"queued sending1 accepted unregistered":  push.StatusAccepted,
		"queued sending1 unregistered cancelled": push.StatusUnregistered,
	} {
		id := newID()
		for event := range strings.FieldsSeq(sequence) {
			e := newEvent(id, push.Status(strings.TrimRight(event, "12")))
			e.Attempt = 0
			if n := event[len(event)-1]; n == '1' || n == '2' {
				e.Attempt = int(n - '0')
			}
			h.appendEvents(e)
		}
		if got := h.state(id).Status; got != want {
			t.Errorf("%s: %s, want %s", sequence, got, want)
		}
	}
}

func TestFirstOfTwoEqualAttemptsWins(t *testing.T) {
	h := newFixture(t).open()
	id := newID()
	first := h.appendEvents(newEvent(id, push.StatusSending))
	second := h.appendEvents(newEvent(id, push.StatusSending))
	if got := h.state(id); got.Offset != first || got.Offset == second {
		t.Errorf("the state comes from %+v, want %+v", got.Offset, first)
	}
}

func TestStatesOmitsUnknownIDs(t *testing.T) {
	h := newFixture(t).open()
	known := newID()
	scheduled := newEvent(known, push.StatusScheduled)
	scheduled.SendAt = eventTime.Add(time.Hour + time.Microsecond)
	h.appendEvents(scheduled)
	states, err := h.States(t.Context(), []string{known, newID(), "no UUID"})
	if err != nil || len(states) != 1 || !states[known].SendAt.Equal(eventTime.Add(time.Hour)) || states[known].Ended() {
		t.Errorf("%+v, %v", states, err)
	}
}

func TestStatesOfManyIDs(t *testing.T) {
	h := newFixture(t).open()
	var ids []string
	var events []push.Event
	for range 500 {
		ids = append(ids, newID())
		events = append(events, lifecycle(ids[len(ids)-1])...)
	}
	h.appendEvents(events...)
	states, err := h.States(t.Context(), ids)
	if err != nil || len(states) != len(ids) {
		t.Fatalf("%d states, %v", len(states), err)
	}
	for id, s := range states {
		if s.Status != push.StatusAccepted || s.Attempt != 1 || !s.Ended() {
			t.Errorf("%s: %+v", id, s)
		}
	}
}

func TestLifecycleContinuesAfterReopen(t *testing.T) {
	f := newFixture(t)
	first, second := newID(), newID()
	h := f.open()
	h.appendEvents(newEvent(first, push.StatusQueued), newEvent(second, push.StatusQueued))
	h.waitIndexed()
	h.stop()
	h = f.open()
	h.appendEvents(newEvent(first, push.StatusSending), newEvent(first, push.StatusAccepted))
	h.waitIndexed()
	if receipt, events := h.find("shop", first); receipt.Status() != push.StatusAccepted || len(events) != 3 {
		t.Errorf("%s after %d events", receipt.Status(), len(events))
	}
}
