// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// Observer holds callbacks for the events of a route. A nil func is not called. The callbacks run
// during a send, from many goroutines: they must return quickly and must not keep any part of the
// notification, whose target is a secret.
type Observer struct {
	// Attempted is called after each attempt; number starts at 1. conn is the connection that it used.
	Attempted func(n *push.Notification, number int, a *push.Attempt, conn pool.Conn)
	// Ended is called when a notification has its final outcome; took is the duration of Send. It is not
	// called after a dry run.
	Ended func(n *push.Notification, r *push.Receipt, took time.Duration)
	// RateLimited is called when the rate limiter does not allow an attempt immediately. wait is
	// the time that n waited if admitted is true, and otherwise the time until a retry makes sense.
	RateLimited func(n *push.Notification, wait time.Duration, admitted bool)
	// Waited is called for a notification whose trace is sampled, if it has waited at least a
	// millisecond at one of the waiting places, whether it was admitted then or not.
	Waited func(n *push.Notification, at WaitingPlace, since time.Time)
	// Throttled is called when the throttler rejects n.
	Throttled func(n *push.Notification)
	// Shed is called when the concurrency limit or the adaptive limit rejects n.
	Shed func(n *push.Notification, cause push.Outcome)
	// RetryDenied is called when the budget or the throttler denies a retry, after o, that the
	// policy allows.
	RetryDenied func(n *push.Notification, o push.Outcome)
}

// WaitingPlace is a place where notifications wait.
type WaitingPlace string

// The waiting places.
const (
	WaitConcurrencyLimit WaitingPlace = "concurrency limit"
	WaitRateLimit        WaitingPlace = "rate limit"
	WaitEndpoint         WaitingPlace = "endpoint"
)

// minReportedWait is the shortest wait that is reported.
const minReportedWait = time.Millisecond

func (ob *Observer) attempted(n *push.Notification, number int, a *push.Attempt, conn pool.Conn) {
	if ob.Attempted != nil {
		ob.Attempted(n, number, a, conn)
	}
}

// startWait returns the time if the wait of n would be reported, else zero.
func (ob *Observer) startWait(n *push.Notification) (since time.Time) {
	if ob.Waited != nil && n.Trace.Sampled() {
		since = time.Now()
	}
	return since
}

// waited reports a wait that startWait has started.
func (ob *Observer) waited(n *push.Notification, at WaitingPlace, since time.Time) {
	if !since.IsZero() && time.Since(since) >= minReportedWait {
		ob.Waited(n, at, since)
	}
}

// startWaitAll is startWait for notifications that wait together.
func (ob *Observer) startWaitAll(items []item) (since time.Time) {
	for _, i := range items {
		if since = ob.startWait(i.Notification); !since.IsZero() {
			return since
		}
	}
	return since
}

// waitedAll is waited for notifications that have waited together.
func (ob *Observer) waitedAll(items []item, at WaitingPlace, since time.Time) {
	if since.IsZero() {
		return
	}
	for _, i := range items {
		if i.Trace.Sampled() {
			ob.waited(i.Notification, at, since)
		}
	}
}

func (ob *Observer) ended(c *push.Call, start time.Time) {
	if ob.Ended != nil && !c.DryRun {
		ob.Ended(c.Notification, &c.Receipt, time.Since(start))
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
