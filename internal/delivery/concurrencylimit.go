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

// acquire waits for places for count notifications like n, and returns for how many, or a *push.RejectedError.
func (c *ConcurrencyLimit) acquire(ctx context.Context, n *push.Call, count int, maxWait time.Duration) (p permit, granted int, err error) {
	if c == nil {
		return permit{}, count, nil
	}
	return c.fairQueue.acquire(ctx, n, count, maxWait, c.limit(), c)
}

// admit implements limiter.
func (c *ConcurrencyLimit) admit(n *push.Call, count, own int) (granted int, cause push.Outcome) {
	usable := float64(c.limit()) * limitFraction(n)
	for ; granted < count; granted++ {
		if free := usable - float64(c.inFlight+granted); float64(own+granted) >= thresholdFactor*free {
			return granted, push.Outcome{Verdict: push.Unsent, Reason: reasonGatewayFull, RetryAfter: shedRetryAfter}
		}
	}
	return granted, push.Outcome{}
}

// release implements limiter.
func (c *ConcurrencyLimit) release(flow flowKey, count int, _, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(flow, count, c)
}

func (c *ConcurrencyLimit) limit() int { return cmp.Or(c.Max, 10_000) }

// Status returns the current state.
func (c *ConcurrencyLimit) Status() LimitStatus {
	if c == nil {
		return LimitStatus{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return LimitStatus{Limit: c.limit(), InFlight: c.inFlight, Waiting: c.waiting, Shed: c.shed}
}
