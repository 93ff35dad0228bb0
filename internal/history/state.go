// SPDX-License-Identifier: Apache-2.0

package history

import (
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// State is the result of a notification's events, applied in the order of the stream.
type State struct {
	// Status is empty for an unknown notification.
	Status push.Status
	// Attempt is the number of attempts started.
	Attempt int
	// At is the time of the last change, and SendAt the due time of a scheduled notification.
	At, SendAt time.Time
	// Offset is the offset of the event that led to this state; zero until that event is received
	// from the stream.
	Offset jetstream.Offset
}

// Ended reports whether the notification has ended.
func (s State) Ended() bool { return s.Status != "" && isEnd(s.Status) }

func isEnd(s push.Status) bool {
	switch s {
	case push.StatusQueued, push.StatusScheduled, push.StatusSending:
		return false
	default:
		return true
	}
}

// apply applies the next event and reports whether it changed the state:
//   - The first end is final.
//   - A notification that is being sent cannot be cancelled, and does not end without an attempt.
//   - An attempt is ignored if its number is not above that of the previous one: another copy of
//     the task was first.
//   - A queued or scheduled event changes a known state only if it reports the current number of
//     attempts. An event without a number reports only the acceptance, which is known already.
func (s *State) apply(hdr *eventHeader) bool {
	switch {
	case s.Ended():
		return false
	case hdr.unsent && s.Status == push.StatusSending:
		return false
	case hdr.status == push.StatusSending && s.Attempt > 0 && hdr.attempt <= s.Attempt:
		return false
	case isWaiting(hdr.status) && s.Status != "" && (hdr.attempt == 0 || hdr.attempt < s.Attempt):
		return false
	}
	*s = State{
		Status: hdr.status, Attempt: max(s.Attempt, hdr.attempt), At: hdr.at, SendAt: hdr.sendAt, Offset: hdr.offset,
	}
	return true
}

func isWaiting(s push.Status) bool { return s == push.StatusQueued || s == push.StatusScheduled }

// unfinishedAt reports whether an event up to message seq led to a state other than an end.
func (s State) unfinishedAt(seq uint64) bool {
	return !s.Ended() && s.Offset.Seq > 0 && s.Offset.Seq <= seq
}
