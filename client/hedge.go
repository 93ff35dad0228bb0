// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"sync"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

const (
	hedgeRatio = 0.05 // of all Sends
	hedgeFloor = 0.1  // a second, for those who send little
	hedgeLooks = 8    // at gateways for one that shares its keys with the first
)

// end is what one of two calls came to.
type end struct {
	receipt push.Receipt
	err     error
}

// settles reports whether the notification has a verdict that no other call with its key can have another one of.
func (e end) settles() bool { return e.err == nil && e.receipt.Verdict != push.Expired }

// hedge carries first, and asks a second gateway for the same should that take long. The key is claimed by whichever comes
// to it first, so there is one send: the other waits for its end. So a hedge gains where the first gateway has not heard of
// the call, or where its answer is slow in coming back, and nothing where it waits for the service itself.
func (c *Client) hedge(ctx context.Context, first *call) (push.Receipt, error) {
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	defer both.Wait()
	defer cancel() // the loser
	c.hedges.Earn()
	ends := make(chan end, 1)
	both.Go(func() { ends <- endOf(first.carry(ctx)) })
	e, lease := c.alone(first, ends)
	if lease != nil {
		others := make(chan end, 1)
		both.Go(func() { others <- endOf(first.again().at(ctx, lease)) })
		e = firstOf(ends, others)
	}
	return e.receipt, e.err
}

// alone waits for first's end, or until it has taken long and a second gateway is to be had.
func (c *Client) alone(first *call, ended <-chan end) (e end, second *pool.Lease) {
	late := time.NewTicker(c.cfg.HedgeAfter)
	defer late.Stop()
	for second == nil {
		select {
		case e = <-ended:
			return e, nil
		case <-late.C:
			second = c.another(first.asking.Load())
		}
	}
	return e, second
}

func endOf(receipt push.Receipt, err error) end { return end{receipt, err} }

// firstOf returns the first end that settles it. If none does, what either may have done stays unknown.
func firstOf(first, second <-chan end) end {
	var one, other end
	select {
	case one = <-first:
		if one.settles() {
			return one
		}
		other = <-second
	case other = <-second:
		if other.settles() {
			return other
		}
		one = <-first
	}
	if other.settles() || !one.settles() && other.receipt.Verdict == push.Unknown {
		return other
	}
	return one
}

// another leases a gateway that shares its keys with the one that is being asked, if one has room at once and the budget
// allows it.
func (c *Client) another(first *pool.Lease) *pool.Lease {
	if first == nil || keysOf(first) == "" {
		return nil
	}
	now, cancel := context.WithCancel(context.Background())
	cancel() // Pick does not wait then
	tried := pool.Tried{first.Endpoint()}
	for range hedgeLooks {
		lease, err := c.pool.Pick(now, tried)
		switch {
		case err != nil:
			return nil
		case !tried.Has(lease.Endpoint()) && keysOf(lease) == keysOf(first) && c.hedges.Take(push.Outcome{Verdict: push.Unknown}):
			return lease
		}
		lease.Done(push.Outcome{Verdict: push.Abandoned})
		tried = append(tried, lease.Endpoint())
	}
	return nil
}

func keysOf(l *pool.Lease) string { return l.Conn().(*link).told.Load().keys }

// again is the same call, to be made elsewhere.
func (c *call) again() *call {
	return &call{Client: c.Client, n: c.n, key: c.key, trace: c.trace}
}

// at makes the call at one gateway and nowhere else.
func (c *call) at(ctx context.Context, lease *pool.Lease) (push.Receipt, error) {
	var o push.Outcome
	defer func() { lease.Done(o) }()
	request, err := c.Translate(c.n)
	if err != nil {
		return push.Receipt{}, err
	}
	request.Timeout = c.route.Retry.Timeout()
	o = c.Send(ctx, lease, c.n, request)
	return c.conclude(push.Receipt{Outcome: o})
}
