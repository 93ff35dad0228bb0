// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"time"

	"github.com/sluice-push/sluice/push"
)

// ConcurrencyLimit bounds what a whole gateway carries at a time, over all its credentials and whatever it waits for: a quota, an
// endpoint, an answer, a retry. It is what keeps the memory within the machine's, and in an overload of the machine itself
// the latency within what Most takes to be worked off.
//
// What one sender, an app on a platform, may have inside is four times what is free in its lane's part: 80 % of it alone,
// four ninths each beside another. So no number of stuck senders fills the house for the rest. (The dynamic thresholds of
// switches with a shared memory; Choudhury and Hahne, 1998.) Patient notifications wait outside for a place, as many as
// Most at a time; the others are turned away at once. The zero value is the default, a nil one sets no bound. It must not
// be copied once in use.
type ConcurrencyLimit struct {
	// Most is the bound; default 10000, some 350 MB with the callers' connections.
	Max int

	fairQueue
}

const thresholdFactor = 4 // times what is free is the most that one sender may have

// acquire lets n in, or returns why not. After ok, leave is to be called with what it returned.
func (c *ConcurrencyLimit) acquire(ctx context.Context, n *push.Notification, patience time.Duration) (p *usage, cause push.Outcome, ok bool) {
	if c == nil {
		return nil, push.Outcome{}, true
	}
	p, _, cause = c.fairQueue.acquire(ctx, n, patience, c.limit(), c)
	return p, cause, p != nil
}

// admit is the rule. c.mu is held.
func (c *ConcurrencyLimit) admit(n *push.Notification, p *usage) (cause push.Outcome, ok bool) {
	free := float64(c.limit())*limitFraction(n) - float64(c.inFlight)
	if float64(p.inFlight) >= thresholdFactor*free {
		return push.Outcome{Verdict: push.Unsent, Reason: reasonGatewayFull, RetryAfter: shedRetryAfter}, false
	}
	c.start(p)
	return push.Outcome{}, true
}

// release lets one of p out.
func (c *ConcurrencyLimit) release(p *usage) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finish(p, c)
}

func (c *ConcurrencyLimit) limit() int { return cmp.Or(c.Max, 10_000) }

// Status returns the state now.
func (c *ConcurrencyLimit) Status() LimitStatus {
	if c == nil {
		return LimitStatus{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return LimitStatus{Limit: c.limit(), InFlight: c.inFlight, Waiting: c.queue.length, Shed: c.shed}
}
