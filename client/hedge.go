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
	hedgeRatio    = 0.05 // of all Sends
	hedgeMinRate  = 0.1  // a second, for those who send little
	maxHedgePicks = 8    // at gateways for one that shares its keys with the first
)

// callResult is what one of two calls came to.
type callResult struct {
	receipt push.Receipt
	err     error
}

// isFinal reports whether the notification has a verdict that no other call with its key can have another one of.
func (e callResult) isFinal() bool { return e.err == nil && e.receipt.Verdict != push.Expired }

// hedge carries first, and asks a second gateway for the same should that take long. The key is claimed by whichever comes
// to it first, so there is one send: the other waits for its end. So a hedge gains where the first gateway has not heard of
// the call, or where its answer is slow in coming back, and nothing where it waits for the service itself.
func (c *Client) hedge(ctx context.Context, first *call) (push.Receipt, error) {
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	defer both.Wait()
	defer cancel() // the loser
	c.hedges.Deposit()
	ends := make(chan callResult, 1)
	both.Go(func() { ends <- newCallResult(first.run(ctx)) })
	e, lease := c.waitFirst(first, ends)
	if lease != nil {
		others := make(chan callResult, 1)
		both.Go(func() { others <- newCallResult(first.clone().runAt(ctx, lease)) })
		e = firstFinal(ends, others)
	}
	return e.receipt, e.err
}

// waitFirst waits for first's end, or until it has taken long and a second gateway is to be had.
func (c *Client) waitFirst(first *call, ended <-chan callResult) (e callResult, second *pool.Lease) {
	late := time.NewTicker(c.cfg.HedgeAfter)
	defer late.Stop()
	for second == nil {
		select {
		case e = <-ended:
			return e, nil
		case <-late.C:
			second = c.pickSecond(first.lease.Load())
		}
	}
	return e, second
}

func newCallResult(receipt push.Receipt, err error) callResult { return callResult{receipt, err} }

// firstFinal returns the first end that settles it. If none does, what either may have done stays unknown.
func firstFinal(first, second <-chan callResult) callResult {
	var one, other callResult
	select {
	case one = <-first:
		if one.isFinal() {
			return one
		}
		other = <-second
	case other = <-second:
		if other.isFinal() {
			return other
		}
		one = <-first
	}
	if other.isFinal() || !one.isFinal() && other.receipt.Verdict == push.Unknown {
		return other
	}
	return one
}

// pickSecond leases a gateway that shares its keys with the one that is being asked, if one has room at once and the budget
// allows it.
func (c *Client) pickSecond(first *pool.Lease) *pool.Lease {
	if first == nil || idempotencyDomain(first) == "" {
		return nil
	}
	now, cancel := context.WithCancel(context.Background())
	cancel() // Pick does not wait then
	tried := pool.Tried{first.Endpoint()}
	for range maxHedgePicks {
		lease, err := c.pool.Pick(now, tried)
		switch {
		case err != nil:
			return nil
		case !tried.Has(lease.Endpoint()) && idempotencyDomain(lease) == idempotencyDomain(first) && c.hedges.Withdraw(push.Outcome{Verdict: push.Unknown}):
			return lease
		}
		lease.Done(push.Outcome{Verdict: push.Abandoned})
		tried = append(tried, lease.Endpoint())
	}
	return nil
}

func idempotencyDomain(l *pool.Lease) string {
	return l.Conn().(*gatewayConn).state.Load().idempotencyDomain
}

// clone is the same call, to be made elsewhere.
func (c *call) clone() *call {
	return &call{Client: c.Client, n: c.n, key: c.key, trace: c.trace}
}

// runAt makes the call at one gateway and nowhere else.
func (c *call) runAt(ctx context.Context, lease *pool.Lease) (push.Receipt, error) {
	var o push.Outcome
	defer func() { lease.Done(o) }()
	request, err := c.Translate(c.n)
	if err != nil {
		return push.Receipt{}, err
	}
	request.Timeout = c.route.Retry.Timeout()
	o = c.Send(ctx, lease, c.n, request)
	return c.result(push.Receipt{Outcome: o})
}
