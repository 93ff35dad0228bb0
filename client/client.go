// SPDX-License-Identifier: Apache-2.0

// Package client sends notifications through a fleet of gateways: it keeps near, leaves a gateway that is sick or takes
// its leave, and asks another only where nothing was sent. It speaks to no push service, keeps nothing on disk, and
// leaves the retries at the services to the gateways.
package client

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
	"github.com/sluice-push/sluice/zone"
)

// Client sends for one app. It may be used by any number of goroutines. Make one with Open, New or Direct, and keep it: it
// holds the connections.
type Client struct {
	cfg      Config
	path     string // of the app's notifications
	resolver *resolver
	pool     *pool.Pool
	route    delivery.Route // without its Provider, which is each send's own
	hedges   retry.Budget
	direct   Sender // instead of all these; nil where there are gateways
	close    func() error
	log      *slog.Logger
}

// New checks cfg and starts nothing: the client works while Run runs. Use Open to have both in one.
func New(cfg Config) (*Client, error) {
	fleet, err := cfg.check()
	if err != nil {
		return nil, err
	}
	cfg.fill()
	c := &Client{
		cfg: cfg, path: "/v1/apps/" + cfg.App + "/", resolver: fleet, hedges: retry.Budget{Ratio: hedgeRatio, PerSecond: hedgeMinRate},
		log: cfg.Logger, close: func() error { return nil },
	}
	c.pool, err = pool.New(pool.Config{
		Name: "gateways", Size: maxGateways, MaxInFlight: cfg.InFlight, PruneUnlisted: true, MaxRedialDelay: maxRedialDelay,
		Resolver: fleet, Zone: fleet.zone, Dial: c.dial, Picker: zone.Prefer(cfg.Zone, pool.BoundedRoundRobin{}),
		Outlier: pool.Outlier{Disabled: true}, // who is slow is so by what he was given to send
		Observe: cfg.Observe, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	c.route = delivery.Route{
		Pool: c.pool, Budget: new(retry.Budget), Logger: cfg.Logger,
		Retry: retry.Policy{Attempts: cfg.Attempts, AttemptTimeout: defaultAttemptTimeout},
	}
	return c, nil
}

// Run connects to the gateways and keeps the connections until ctx ends; then it takes no more calls, lets those under way
// end, and returns when everything that it began has ended.
func (c *Client) Run(ctx context.Context) error {
	if c.direct != nil {
		<-ctx.Done()
		return nil
	}
	return c.pool.Run(ctx)
}

// Open makes a client and runs it until Close. It does not wait for the gateways: calls do, as long as their context
// lasts.
func Open(cfg Config) (*Client, error) {
	c, err := New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err = c.Run(ctx)
	}()
	c.close = func() error {
		cancel()
		<-ended
		return err
	}
	return c, nil
}

// Close ends a client that Open made, once the calls under way have ended, within ten seconds. It does nothing to others.
func (c *Client) Close() error { return c.close() }

// Status tells how the gateways stand.
func (c *Client) Status() pool.Status {
	if c.direct != nil {
		return pool.Status{Name: "direct", Ready: true}
	}
	return c.pool.Status()
}

// Send sends n and returns when its end is known. Without an error there is a verdict on the notification, though it may
// be a bad one: look at the receipt's Verdict. The error is an *Error, and says what to do next; the receipt tells then
// whether it may have been sent all the same (push.Unknown).
//
// It asks another gateway only if the first provably sent nothing, or if it was lost and n.MayRepeat. n.ID, where it is
// set, is the Idempotency-Key: set it to something of your own that outlives a crash, such as the ID of the order that n is
// about. Otherwise each Send makes one. A context without a deadline is given Config.Timeout.
func (c *Client) Send(ctx context.Context, n *push.Notification) (push.Receipt, error) {
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	if c.direct != nil {
		return c.sendDirect(ctx, n)
	}
	if c.cfg.HedgeAfter > 0 {
		return c.hedge(ctx, c.call(ctx, n, false))
	}
	return c.send(ctx, n, false)
}

// Enqueue hands n to a gateway's queue and returns as soon as it is safe there; the gateway sends it when it can, or at
// n.SendAt. The receipt holds its ID, and Events tells what becomes of it.
func (c *Client) Enqueue(ctx context.Context, n *push.Notification) (push.Receipt, error) {
	if c.direct != nil {
		return push.Receipt{}, errNeedsGateway
	}
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	return c.send(ctx, n, true)
}

// withTimeout gives a call its time.
func (c *Client) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.cfg.Timeout)
}

// send carries one notification by a call of its own.
func (c *Client) send(ctx context.Context, n *push.Notification, async bool) (push.Receipt, error) {
	return c.call(ctx, n, async).run(ctx)
}

// gatewayLost reports whether the one gateway that was asked was lost with its connection. Such a call is made once more, whatever
// the budget says: with a zone all calls that are on their way to it are lost at once, a third of all where there are
// three. As each is made once more only, and not before its connection has been given up, no storm comes of it.
func gatewayLost(asked push.Receipt) bool {
	return asked.Verdict == push.Unknown && len(asked.Attempts) == 1 &&
		(asked.Reason == string(wire.PingTimeout) || asked.Reason == string(wire.LostAfterWrite))
}

// mergeReceipts is the end of a call that was made twice: what the first may have done, a failure of the second undoes not.
func mergeReceipts(first, second push.Receipt) push.Receipt {
	end := second
	if second.Verdict != push.Accepted {
		end = first
	}
	end.Attempts = append(first.Attempts, second.Attempts...)
	return end
}

// propagate returns the trace's headers of a call.
func (c *Client) propagate(ctx context.Context) http.Header {
	if c.cfg.Propagate == nil {
		return nil
	}
	h := http.Header{}
	c.cfg.Propagate(ctx, h)
	return h
}
