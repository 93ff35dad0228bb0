// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"time"

	"github.com/sluice-push/sluice/push"
)

// ConcurrencyLimit bounds the number of notifications that the whole gateway handles at a time,
// including those that wait for a rate limit, an endpoint, a response or a retry. It bounds the
// memory and, if the machine is overloaded, the latency.
//
// A flow, which is an app on a platform, may have at most four times as many notifications in
// flight as its lane has free: a single flow can use 80 % of its lane's part of the limit, two
// flows four ninths each. Stuck flows therefore cannot use up the limit. These are the dynamic
// thresholds of shared-memory switches (Choudhury and Hahne, 1998). Notifications with CanQueue
// wait, at most Max at a time; others are shed immediately.
//
// The zero value has the defaults; a nil ConcurrencyLimit sets no limit. A ConcurrencyLimit must
// not be copied after first use.
type ConcurrencyLimit struct {
	// Max is the limit; default 10000, about 350 MB with the callers' connections.
	Max int

	fairQueue
}

// thresholdFactor is the maximum ratio of what a flow has in flight to what is free.
const thresholdFactor = 4

// acquire admits n, waits, or returns the cause of the rejection. After ok, the caller must call
// release with the returned usage.
func (c *ConcurrencyLimit) acquire(ctx context.Context, n *push.Notification, maxWait time.Duration) (u *usage, cause push.Outcome, ok bool) {
	if c == nil {
		return nil, push.Outcome{}, true
	}
	u, _, cause = c.fairQueue.acquire(ctx, n, maxWait, c.limit(), c)
	return u, cause, u != nil
}

// admit implements admitter. c.mu is held.
func (c *ConcurrencyLimit) admit(n *push.Notification, u *usage) (cause push.Outcome, ok bool) {
	free := float64(c.limit())*limitFraction(n) - float64(c.inFlight)
	if float64(u.inFlight) >= thresholdFactor*free {
		return push.Outcome{Verdict: push.Unsent, Reason: reasonGatewayFull, RetryAfter: shedRetryAfter}, false
	}
	c.start(u)
	return push.Outcome{}, true
}

// release removes a notification of u from those in flight.
func (c *ConcurrencyLimit) release(u *usage) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(u, c)
}

func (c *ConcurrencyLimit) limit() int { return cmp.Or(c.Max, 10_000) }

// Status returns the current state.
func (c *ConcurrencyLimit) Status() LimitStatus {
	if c == nil {
		return LimitStatus{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return LimitStatus{Limit: c.limit(), InFlight: c.inFlight, Waiting: c.queue.Len(), Shed: c.shed}
}
