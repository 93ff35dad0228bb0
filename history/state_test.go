// SPDX-License-Identifier: Apache-2.0

package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/push"
)

// TestTheOrderOfTheStreamDecides walks what can follow what. A number behind a status is the event's attempt.
func TestTheOrderOfTheStreamDecides(t *testing.T) {
	r := newHouse(t).open()
	for steps, want := range map[string]push.Status{
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
		id := id()
		for word := range strings.FieldsSeq(steps) {
			e := event(id, push.Status(strings.TrimRight(word, "12")))
			e.Attempt = 0
			if n := word[len(word)-1]; n == '1' || n == '2' {
				e.Attempt = int(n - '0')
			}
			r.append(e)
		}
		if got := r.state(id).Status; got != want {
			t.Errorf("%s: %s, want %s", steps, got, want)
		}
	}
}

func TestOfTwoAtTheSameAttemptTheFirstIsAtIt(t *testing.T) {
	r := newHouse(t).open()
	id := id()
	first := r.append(event(id, push.StatusSending))
	second := r.append(event(id, push.StatusSending))
	if got := r.state(id); got.Place != first || got.Place == second {
		t.Errorf("%+v is at it, want %+v", got.Place, first)
	}
}

func TestStatesLeavesOutWhatNobodyHasHeardOf(t *testing.T) {
	r := newHouse(t).open()
	known := id()
	scheduled := event(known, push.StatusScheduled)
	scheduled.SendAt = noon.Add(time.Hour + time.Microsecond)
	r.append(scheduled)
	states, err := r.States(t.Context(), []string{known, id(), "no UUID"})
	if err != nil || len(states) != 1 || !states[known].SendAt.Equal(noon.Add(time.Hour)) || states[known].Ended() {
		t.Errorf("%+v, %v", states, err)
	}
}

func TestManyStatesAreToldAtOnce(t *testing.T) {
	r := newHouse(t).open()
	var ids []string
	var events []push.Event
	for range 500 {
		ids = append(ids, id())
		events = append(events, life(ids[len(ids)-1])...)
	}
	r.append(events...)
	states, err := r.States(t.Context(), ids)
	if err != nil || len(states) != len(ids) {
		t.Fatalf("%d states, %v", len(states), err)
	}
	for id, s := range states {
		if s.Status != push.StatusAccepted || s.Attempt != 1 || !s.Ended() {
			t.Errorf("%s: %+v", id, s)
		}
	}
}

func TestALifeGoesOnInAnIndexThatWasClosed(t *testing.T) {
	h := newHouse(t)
	first, second := id(), id()
	r := h.open()
	r.append(event(first, push.StatusQueued), event(second, push.StatusQueued))
	r.indexed()
	r.stop()
	r = h.open()
	r.append(event(first, push.StatusSending), event(first, push.StatusAccepted))
	r.indexed()
	if receipt, events := r.find("shop", first); receipt.Status() != push.StatusAccepted || len(events) != 3 {
		t.Errorf("%s after %d events", receipt.Status(), len(events))
	}
}
