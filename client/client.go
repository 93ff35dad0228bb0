// SPDX-License-Identifier: Apache-2.0

// Package client sends notifications through a group of gateways. It prefers gateways in its own
// zone, avoids gateways that fail or drain, and tries another gateway only if nothing was sent. It
// does not connect to push services and does not store anything; the gateways retry failed attempts
// at the push services.
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

// Client sends notifications of one app. It is safe for concurrent use. Make one with Open, New or
// Direct and keep it, because it holds the connections.
type Client struct {
	cfg      Config
	path     string // prefix of the app's endpoints
	resolver *resolver
	pool     *pool.Pool
	executor *delivery.Executor
	hedges   retry.Budget
	direct   Sender // replaces the gateways; nil for a client with gateways
	close    func() error
	log      *slog.Logger
}

// New validates cfg. It starts no goroutine: the client works while Run runs. Open combines both.
func New(cfg Config) (*Client, error) {
	gateways, err := cfg.check()
	if err != nil {
		return nil, err
	}
	cfg.fill()
	c := &Client{
		cfg: cfg, path: "/v1/apps/" + cfg.App + "/", resolver: gateways, hedges: retry.Budget{Ratio: hedgeRatio, PerSecond: hedgeMinRate, Window: hedgeWindow},
		log: cfg.Logger, close: func() error { return nil },
	}
	c.pool, err = pool.New(pool.Config{
		Name: "gateways", Size: maxGateways, MaxInFlight: cfg.InFlight, PruneUnlisted: true, WaitForReady: true, MaxRedialDelay: maxRedialDelay,
		Resolver: gateways, Zone: gateways.zone, Dial: c.dial, Picker: zone.Prefer(cfg.Zone, pool.BoundedRoundRobin{}),
		Outlier: pool.Outlier{Disabled: true}, // how slow a gateway is depends on the notifications it gets
		Observe: cfg.Observe, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	c.executor = &delivery.Executor{
		Pool: c.pool, Budget: new(retry.Budget), Logger: cfg.Logger,
		Retry: retry.Policy{Attempts: cfg.Attempts, AttemptTimeout: defaultAttemptTimeout},
	}
	return c, nil
}

// Run connects to the gateways and maintains the connections until ctx ends. Then it rejects new
// calls, waits for the calls in progress, and returns when all its goroutines have exited.
func (c *Client) Run(ctx context.Context) error {
	if c.direct != nil {
		<-ctx.Done()
		return nil
	}
	return c.pool.Run(ctx)
}

// Open makes a client and runs it until Close. It does not wait for connections: calls do, until
// their context ends.
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

// Close stops a client that was made by Open, after at most ten seconds for the calls in progress.
// It does nothing for other clients.
func (c *Client) Close() error { return c.close() }

// Status returns the state of the gateways and their connections.
func (c *Client) Status() pool.Status {
	if c.direct != nil {
		return pool.Status{Name: "direct", Ready: true}
	}
	return c.pool.Status()
}

// Send sends n and returns its receipt. If the error is nil, there is a verdict on the
// notification, which can be negative: check the receipt's Verdict. Otherwise the error is an
// *Error that says what to do, and the receipt's Verdict says whether the notification may have
// been sent (push.Unknown).
//
// Send tries another gateway only if the first one has certainly sent nothing, or if the connection
// was lost and n.MayRetryUnknown allows it. If n.ID is set, it is the Idempotency-Key: use an ID
// that survives a crash, such as the ID of the order that n is about. Otherwise each Send generates
// one. Config.Timeout applies if the context has no deadline.
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

// Enqueue stores n in a gateway's queue and returns as soon as it is stored. The gateway sends it
// as soon as possible, or at n.SendAt. The receipt contains the ID of the notification, and Events
// reports its result.
func (c *Client) Enqueue(ctx context.Context, n *push.Notification) (push.Receipt, error) {
	if c.direct != nil {
		return push.Receipt{}, errNeedsGateway
	}
	ctx, cancel := c.withTimeout(ctx)
	defer cancel()
	return c.send(ctx, n, true)
}

// withTimeout adds Config.Timeout to a context without a deadline.
func (c *Client) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.cfg.Timeout)
}

// send sends one notification as a single request.
func (c *Client) send(ctx context.Context, n *push.Notification, async bool) (push.Receipt, error) {
	return c.call(ctx, n, async).run(ctx)
}

// gatewayLost reports whether a call failed because the connection to its only gateway was lost.
// Such a call is repeated once, regardless of the retry budget: when a zone fails, all calls in
// flight to it fail at the same time, which is a third of all calls if there are three zones. This
// causes no retry storm, because each call is repeated only once, and only after its connection was
// closed.
func gatewayLost(r push.Receipt) bool {
	return r.Verdict == push.Unknown && len(r.Attempts) == 1 &&
		(r.Reason == string(wire.PingTimeout) || r.Reason == string(wire.LostAfterWrite))
}

// mergeReceipts returns the receipt of a call that was made twice. Unless the second was accepted,
// the outcome of the first stays: it may have been delivered.
func mergeReceipts(first, second push.Receipt) push.Receipt {
	merged := second
	if second.Verdict != push.Accepted {
		merged = first
	}
	merged.Attempts = append(first.Attempts, second.Attempts...)
	return merged
}

// propagate returns the tracing headers for a call.
func (c *Client) propagate(ctx context.Context) http.Header {
	if c.cfg.Propagate == nil {
		return nil
	}
	h := http.Header{}
	c.cfg.Propagate(ctx, h)
	return h
}
