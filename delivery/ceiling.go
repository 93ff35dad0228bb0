// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Ceiling bounds what a whole gateway carries at a time, over all its credentials and whatever it waits for: a quota, an
// endpoint, an answer, a retry. It is what keeps the memory within the machine's, and in an overload of the machine itself
// the latency within what Most takes to be worked off.
//
// What one sender, an app on a platform, may have inside is four times what is free in its lane's part: 80 % of it alone,
// four ninths each beside another. So no number of stuck senders fills the house for the rest. (The dynamic thresholds of
// switches with a shared memory; Choudhury and Hahne, 1998.) Patient notifications wait outside for a place, as many as
// Most at a time; the others are turned away at once. The zero value is the default, a nil one sets no bound. It must not
// be copied once in use.
type Ceiling struct {
	// Most is the bound; default 10000, some 350 MB with the callers' connections.
	Most int

	door
}

const greed = 4 // times what is free is the most that one sender may have

// enter lets n in, or returns why not. After ok, leave is to be called with what it returned.
func (c *Ceiling) enter(ctx context.Context, n *push.Notification, patience time.Duration) (p *party, cause push.Outcome, ok bool) {
	if c == nil {
		return nil, push.Outcome{}, true
	}
	p, _, cause = c.door.enter(ctx, n, patience, c.most(), c)
	return p, cause, p != nil
}

// take is the rule. c.mu is held.
func (c *Ceiling) take(n *push.Notification, p *party) (cause push.Outcome, ok bool) {
	free := float64(c.most())*part(n) - float64(c.inside)
	if float64(p.inside) >= greed*free {
		return push.Outcome{Verdict: push.Unsent, Reason: gatewayFull, RetryAfter: shedAwhile}, false
	}
	c.in(p)
	return push.Outcome{}, true
}

// leave lets one of p out.
func (c *Ceiling) leave(p *party) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out(p, c)
}

func (c *Ceiling) most() int { return cmp.Or(c.Most, 10_000) }

// Status returns the state now.
func (c *Ceiling) Status() AdmissionStatus {
	if c == nil {
		return AdmissionStatus{}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return AdmissionStatus{Limit: c.most(), InFlight: c.inside, Waiting: c.line.length, Shed: c.shed}
}
