// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"time"

	"github.com/sluice-push/sluice/push"
)

// Observer is told what happens on a route. A nil func is not called. They are
// called in the middle of a send, from many goroutines at once: they must be
// quick and keep nothing of the notification, whose target is a secret.
type Observer struct {
	// Attempted follows each attempt; number counts from 1.
	Attempted func(n *push.Notification, number int, a push.Attempt)
	// Ended follows each notification's end; took is the whole time in Send.
	Ended func(n *push.Notification, r push.Receipt, took time.Duration)
	// Gated tells that the gate did not let n pass at once: it has to wait, or
	// is refused and should stay away that long.
	RateLimited func(n *push.Notification, wait time.Duration, admitted bool)
	// Held tells that the brake held n back from a provider that is down.
	Throttled func(n *push.Notification)
	// Shed tells that n was turned away, and why: too much is on the way, or
	// too much of its app's.
	Shed func(n *push.Notification, cause push.Outcome)
	// Denied tells that the policy wanted a retry after o, and the budget or
	// the brake did not grant it.
	RetryDenied func(n *push.Notification, o push.Outcome)
}

func (ob *Observer) attempted(n *push.Notification, number int, a push.Attempt) {
	if ob.Attempted != nil {
		ob.Attempted(n, number, a)
	}
}

func (ob *Observer) ended(n *push.Notification, r push.Receipt, started time.Time) {
	if ob.Ended != nil {
		ob.Ended(n, r, time.Since(started))
	}
}

func (ob *Observer) rateLimited(n *push.Notification, wait time.Duration, admitted bool) {
	if ob.RateLimited != nil {
		ob.RateLimited(n, wait, admitted)
	}
}

func (ob *Observer) throttled(n *push.Notification) {
	if ob.Throttled != nil {
		ob.Throttled(n)
	}
}

func (ob *Observer) shed(n *push.Notification, cause push.Outcome) {
	if ob.Shed != nil && cause.Verdict != push.Abandoned {
		ob.Shed(n, cause)
	}
}

func (ob *Observer) retryDenied(n *push.Notification, o push.Outcome) {
	if ob.RetryDenied != nil {
		ob.RetryDenied(n, o)
	}
}
