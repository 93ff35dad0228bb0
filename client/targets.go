// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"sync"

	"github.com/sluice-push/sluice/push"
)

// SendEach sends n to each target in one request, and returns one receipt for each, in their order. n
// has no target of its own. There may be 1,000 targets, which are all tokens, all installations or all
// subscriptions; SendBatch has no limit. If the error is nil, check the Verdict of each receipt, as for
// an error of Send: a target with push.Unknown may have been reached. Otherwise there are no receipts,
// and the *Error applies to all targets.
//
// If n.ID is set, it is the Idempotency-Key of the call: a repeated call returns the receipts of the
// targets that have a result, and sends n to the others. Without it, the gateway sends in runs, which
// cost less, and cancels what has not been sent when ctx ends.
func (c *Client) SendEach(ctx context.Context, n *push.Notification, targets []push.Target) ([]push.Receipt, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	if c.direct != nil {
		return c.sendEachDirect(ctx, n, targets), nil
	}
	return c.sendEach(ctx, n, targets, false)
}

// EnqueueEach stores n for each target in a gateway's queue, as Enqueue does. A receipt with the verdict
// push.Unsent or push.Refused is that of a target for which n is not stored.
func (c *Client) EnqueueEach(ctx context.Context, n *push.Notification, targets []push.Target) ([]push.Receipt, error) {
	if c.direct != nil {
		return nil, errNeedsGateway
	}
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	return c.sendEach(ctx, n, targets, true)
}

func (c *Client) sendEach(ctx context.Context, n *push.Notification, targets []push.Target, async bool) ([]push.Receipt, error) {
	call := c.call(ctx, n, async)
	if call.several, call.targets = true, targets; !async {
		call.key = n.ID
	}
	if _, err := call.run(ctx); err != nil {
		return nil, err
	}
	return call.response.each, nil
}

// sendEachDirect is SendEach for a direct client.
func (c *Client) sendEachDirect(ctx context.Context, n *push.Notification, targets []push.Target) []push.Receipt {
	receipts, slots := make([]push.Receipt, len(targets)), make(chan struct{}, maxDirectInFlight)
	var all sync.WaitGroup
	for i := range targets {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			each := *n
			each.ID, each.Target = "", targets[i]
			receipts[i], _ = c.sendDirect(ctx, &each) // the receipt says the same as the error
			receipts[i].TargetIndex = &i
		})
	}
	all.Wait()
	return receipts
}

// withTargets is the body of a request with a list of targets.
type withTargets struct {
	*push.Notification
	Tokens        []string             `json:"tokens,omitzero"`
	Installations []string             `json:"installations,omitzero"`
	Subscriptions []*push.Subscription `json:"subscriptions,omitzero"`
}

func newWithTargets(n *push.Notification, targets []push.Target) (*withTargets, error) {
	body := &withTargets{Notification: n}
	if len(targets) == 0 {
		body.Tokens = []string{} // which the gateway refuses
	}
	for _, t := range targets {
		switch t.Kind() {
		case push.ToToken:
			body.Tokens = append(body.Tokens, t.Token)
		case push.ToInstallation:
			body.Installations = append(body.Installations, t.Installation)
		case push.ToSubscription:
			body.Subscriptions = append(body.Subscriptions, t.Subscription)
		default:
			return nil, &push.FieldError{Field: "targets", Reason: "InvalidTarget", Allowed: "tokens, installations or subscriptions"}
		}
	}
	return body, nil
}
