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
	hedgeRatio    = 0.05             // of all Sends
	hedgeMinRate  = 0.1              // per second, for clients that send little
	hedgeWindow   = 10 * time.Second // long enough for one hedge at hedgeMinRate
	maxHedgePicks = 8                // to find a gateway that shares its keys with the first
)

// callResult is the result of one of two concurrent calls.
type callResult struct {
	receipt push.Receipt
	err     error
}

// isFinal reports whether there is a verdict that another call with the same key cannot change.
func (r callResult) isFinal() bool { return r.err == nil && r.receipt.Verdict != push.Expired }

// hedge runs first, and sends the same request to a second gateway if that takes long. The gateway
// that claims the key first sends the notification; the other waits for its result. So hedging
// helps if the first gateway did not receive the request or its response is slow, and does not help
// if the provider is slow.
func (c *Client) hedge(ctx context.Context, first *call) (push.Receipt, error) {
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	defer both.Wait()
	defer cancel() // cancels the slower call
	c.hedges.Deposit(1)
	firstResult := make(chan callResult, 1)
	both.Go(func() { firstResult <- newCallResult(first.run(ctx)) })
	res, lease := c.waitFirst(first, firstResult)
	if lease != nil {
		secondResult := make(chan callResult, 1)
		both.Go(func() { secondResult <- newCallResult(first.clone().runAt(ctx, lease)) })
		res = firstFinal(firstResult, secondResult)
	}
	return res.receipt, res.err
}

// waitFirst waits for the result of first, or until it has taken long and a second gateway is
// available.
func (c *Client) waitFirst(first *call, firstResult <-chan callResult) (res callResult, second *pool.Lease) {
	ticker := time.NewTicker(c.cfg.HedgeAfter)
	defer ticker.Stop()
	for second == nil {
		select {
		case res = <-firstResult:
			return res, nil
		case <-ticker.C:
			second = c.pickSecond(first.lease.Load())
		}
	}
	return res, second
}

func newCallResult(receipt push.Receipt, err error) callResult { return callResult{receipt, err} }

// firstFinal returns the first final result. If there is none and either call may have sent the
// notification, it returns that result, whose verdict is unknown.
func firstFinal(first, second <-chan callResult) callResult {
	var r1, r2 callResult
	select {
	case r1 = <-first:
		if r1.isFinal() {
			return r1
		}
		r2 = <-second
	case r2 = <-second:
		if r2.isFinal() {
			return r2
		}
		r1 = <-first
	}
	if r2.isFinal() || !r1.isFinal() && r2.receipt.Verdict == push.Unknown {
		return r2
	}
	return r1
}

// pickSecond leases a gateway that shares its keys with the first, if one is available immediately
// and the budget allows it.
func (c *Client) pickSecond(first *pool.Lease) *pool.Lease {
	if first == nil || idempotencyDomain(first) == "" {
		return nil
	}
	canceled, cancel := context.WithCancel(context.Background())
	cancel() // so that Pick does not wait
	tried := pool.Tried{first.Endpoint()}
	for range maxHedgePicks {
		lease, err := c.pool.Pick(canceled, tried)
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

// clone returns the same call for another gateway.
func (c *call) clone() *call {
	return &call{Client: c.Client, n: c.n, key: c.key, trace: c.trace}
}

// runAt sends the request to this gateway only.
func (c *call) runAt(ctx context.Context, lease *pool.Lease) (push.Receipt, error) {
	var o push.Outcome
	defer func() { lease.Done(o) }()
	request, err := c.request()
	if err != nil {
		return push.Receipt{}, err
	}
	o = c.attempt(ctx, lease, request)
	return c.result(push.Receipt{Outcome: o})
}
