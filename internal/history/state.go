// SPDX-License-Identifier: Apache-2.0

package history

import (
	"time"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/push"
)

// State is where a notification stands: what its events come to, in the order of the stream.
type State struct {
	// Status is empty for one that nobody has heard of.
	Status push.Status
	// Attempt counts the attempts that have begun.
	Attempt int
	// At is when it came to this, and SendAt when it is due, if it waits for that.
	At, SendAt time.Time
	// Place is that of the event that made it so; zero as long as the stream has not told it.
	Offset jetstream.Offset
}

// Ended reports whether nothing more will become of it.
func (s State) Ended() bool { return s.Status != "" && isEnd(s.Status) }

func isEnd(s push.Status) bool {
	switch s {
	case push.StatusQueued, push.StatusScheduled, push.StatusSending:
		return false
	default:
		return true
	}
}

// apply goes on with the next step, and reports whether that made the state. The first end stays. What is being sent cannot
// be cancelled any more, and what is cancelled does not come back by being sent. An attempt with a number that another has
// had does not count: two are at it, and the other was first. One that waits again after an attempt says how many it has
// had; without that, the step only tells late that it was taken.
func (s *State) apply(next *eventHeader) bool {
	switch {
	case s.Ended():
		return false
	case next.status == push.StatusCancelled && s.Status == push.StatusSending:
		return false
	case next.status == push.StatusSending && s.Attempt > 0 && next.attempt <= s.Attempt:
		return false
	case isWaiting(next.status) && s.Status != "" && (next.attempt == 0 || next.attempt < s.Attempt):
		return false
	}
	*s = State{
		Status: next.status, Attempt: max(s.Attempt, next.attempt), At: next.at, SendAt: next.sendAt, Offset: next.offset,
	}
	return true
}

func isWaiting(s push.Status) bool { return s == push.StatusQueued || s == push.StatusScheduled }
