// SPDX-License-Identifier: Apache-2.0

// Package gateway assembles a running gateway from a configuration and owns every long-lived goroutine of it. It decides
// nothing about a notification: that is the work of the rooms that it joins.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/metrics"
	"github.com/sluice-push/sluice/rest"
)

// Gateway is a gateway with everything in it. It is made by New, listens from Listen on and serves while Run runs.
type Gateway struct {
	log     *slog.Logger
	metrics *metrics.Metrics
	ceiling *delivery.ConcurrencyLimit
	house   atomic.Pointer[house]
	signals signals
	memory  rest.IdempotencyCache // what Idempotency-Keys came to, without a queue
	crew    rest.WorkerPool
	durable *durable // nil without a queue

	listener, adminListener net.Listener

	began    atomic.Int64 // when Run began, in UNIX nanoseconds; 0 before
	warm     atomic.Bool  // every service has been ready once, or has had its time
	draining atomic.Bool
	leaving  chan struct{} // closed when the drain begins

	reloading sync.Mutex      // one reload at a time; guards what follows
	base      context.Context // of what runs; nil before
	closed    bool            // no more reloads
	tenants   errgroup.Group  // everything that runs
}

// New reads every key file that cfg names and puts the gateway together. It starts nothing and opens no socket. The error
// names each key of the configuration that is wrong. A nil logger discards.
func New(cfg *config.Config, log *slog.Logger) (*Gateway, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{log: log, metrics: metrics.New(), ceiling: &delivery.ConcurrencyLimit{Max: cfg.Limits.InFlight}, leaving: make(chan struct{})}
	if queued(cfg) {
		g.durable = &durable{}
	}
	g.metrics.WatchConcurrencyLimit(g.ceiling)
	h, err := g.build(cfg, nil)
	if err != nil {
		return nil, err
	}
	g.signals.zone, g.signals.keys, g.signals.concurrency = cfg.Zone, g.durable.keys, cfg.Limits.Concurrency
	g.signals.target, g.signals.max = cfg.Limits.TargetTime, cfg.Limits.SendTime
	g.show(h)
	g.house.Store(h)
	if g.durable != nil {
		g.metrics.WatchStorage(g.stands)
	}
	return g, nil
}

// Listen binds the two addresses. From then on callers can connect; they are answered once Run runs. Run does it if
// nobody has; call it before to learn the addresses, or that one is taken.
func (g *Gateway) Listen() error {
	if g.listener != nil {
		return nil
	}
	api, err := net.Listen("tcp", string(g.house.Load().cfg.Listen))
	if err != nil {
		return fmt.Errorf("gateway: listen: %w", err)
	}
	admin, err := net.Listen("tcp", string(g.house.Load().cfg.Admin.Listen))
	if err != nil {
		return errors.Join(fmt.Errorf("gateway: admin.listen: %w", err), api.Close())
	}
	g.listener, g.adminListener = api, admin
	return nil
}

// Addr is where the API listens, once Listen has returned.
func (g *Gateway) Addr() net.Addr { return g.listener.Addr() }

// AdminAddr is where the admin listener listens, once Listen has returned.
func (g *Gateway) AdminAddr() net.Addr { return g.adminListener.Addr() }

// Run opens the queue and serves until ctx ends, then drains: /readyz says no at once, the queue takes nothing more from
// disk, the listener closes after drain.delay, requests in flight and what the queue is sending may take drain.grace to end,
// and then the pools are drained too. What the queue holds besides stays on disk. It returns when every goroutine has
// ended: nil if everything in flight ended by itself, or why not. If a listener fails it ends as if ctx had.
func (g *Gateway) Run(ctx context.Context) error {
	if err := g.Listen(); err != nil {
		return err
	}
	if err := g.durable.open(ctx, g.house.Load().cfg, g, g.log); err != nil {
		closed := errors.Join(g.listener.Close(), g.adminListener.Close())
		if ctx.Err() != nil { // it was to end before it had begun
			return closed
		}
		return errors.Join(fmt.Errorf("gateway: the queue does not open: %w", err), closed)
	}
	g.began.Store(time.Now().UnixNano())
	ctx, giveUp := context.WithCancel(ctx)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g.open(background)
	admin := g.server(background, g.operations())
	g.tenants.Go(func() error {
		defer giveUp()
		return serve(admin, g.adminListener)
	})
	g.tenants.Go(func() error { return g.crew.Run(background) })
	g.durable.run()
	err := errors.Join(g.serve(ctx, g.front(background)), g.durable.end())
	g.close()
	stop()
	return errors.Join(err, admin.Close(), g.tenants.Wait())
}

// serve serves the API until ctx ends or the listener fails, and lets what is in flight end.
func (g *Gateway) serve(ctx context.Context, api *http.Server) error {
	failed := make(chan error, 1)
	go func() { failed <- serve(api, g.listener) }()
	g.log.Info("gateway: serving", "listen", g.Addr().String(), "admin", g.AdminAddr().String(), "pools", len(g.house.Load().awake()))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	g.draining.Store(true)
	close(g.leaving)
	g.durable.drain()
	d := g.house.Load().cfg.Drain
	g.log.Info("gateway: draining", "delay", d.Delay, "grace", d.Grace)
	time.Sleep(d.Delay)
	return errors.Join(g.drain(api, d.Grace), <-failed)
}

// drain closes the listener and waits for requests in flight.
func (g *Gateway) drain(api *http.Server, longest time.Duration) error {
	grace, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	began := time.Now()
	if err := api.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("gateway: requests were cut after %s (raise drain.grace)", longest), api.Close())
	}
	g.log.Info("gateway: drained", "took", time.Since(began))
	return nil
}
