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

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/metrics"
)

// Gateway is a gateway with everything in it. It is made by New, listens from Listen on and serves while Run runs.
type Gateway struct {
	log          *slog.Logger
	metrics      *metrics.Metrics
	concurrency  *delivery.ConcurrencyLimit
	current      atomic.Pointer[snapshot]
	loadReporter loadReporter
	idempotency  api.IdempotencyCache // what Idempotency-Keys came to, without a queue
	workers      api.WorkerPool
	storage      *storage // nil without a queue

	listener, adminListener net.Listener

	startedAt    atomic.Int64 // when Run began, in UNIX nanoseconds; 0 before
	warmedUp     atomic.Bool  // every service has been ready once, or has had its time
	draining     atomic.Bool
	drainStarted chan struct{} // closed when the drain begins

	reloadMu   sync.Mutex      // one reload at a time; guards what follows
	baseCtx    context.Context // of what runs; nil before
	closed     bool            // no more reloads
	background errgroup.Group  // everything that runs
}

// New reads every key file that cfg names and puts the gateway together. It starts nothing and opens no socket. The error
// names each key of the configuration that is wrong. A nil logger discards.
func New(cfg *config.Config, log *slog.Logger) (*Gateway, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{log: log, metrics: metrics.New(), concurrency: &delivery.ConcurrencyLimit{Max: cfg.Limits.InFlight}, drainStarted: make(chan struct{})}
	if hasQueue(cfg) {
		g.storage = &storage{}
	}
	g.metrics.WatchConcurrencyLimit(g.concurrency)
	h, err := g.buildSnapshot(cfg, nil)
	if err != nil {
		return nil, err
	}
	g.loadReporter.zone, g.loadReporter.idempotencyDomain, g.loadReporter.concurrency = cfg.Zone, g.storage.idempotencyDomain, cfg.Limits.Concurrency
	g.loadReporter.target, g.loadReporter.max = cfg.Limits.TargetLatency, cfg.Limits.SendTimeout
	g.watchMetrics(h)
	g.current.Store(h)
	if g.storage != nil {
		g.metrics.WatchStorage(g.metricsStatus)
	}
	return g, nil
}

// Listen binds the two addresses. From then on callers can connect; they are answered once Run runs. Run does it if
// nobody has; call it before to learn the addresses, or that one is taken.
func (g *Gateway) Listen() error {
	if g.listener != nil {
		return nil
	}
	api, err := net.Listen("tcp", string(g.current.Load().cfg.Listen))
	if err != nil {
		return fmt.Errorf("gateway: listen: %w", err)
	}
	admin, err := net.Listen("tcp", string(g.current.Load().cfg.Admin.Listen))
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
	if err := g.storage.open(ctx, g.current.Load().cfg, g, g.log); err != nil {
		closed := errors.Join(g.listener.Close(), g.adminListener.Close())
		if ctx.Err() != nil { // it was to end before it had begun
			return closed
		}
		return errors.Join(fmt.Errorf("gateway: the queue does not open: %w", err), closed)
	}
	g.startedAt.Store(time.Now().UnixNano())
	ctx, giveUp := context.WithCancel(ctx)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g.startCurrent(background)
	admin := g.newServer(background, g.adminHandler())
	g.background.Go(func() error {
		defer giveUp()
		return serve(admin, g.adminListener)
	})
	g.background.Go(func() error { return g.workers.Run(background) })
	g.storage.run()
	err := errors.Join(g.serveAPI(ctx, g.apiServer(background)), g.storage.stop())
	g.stopReloads()
	stop()
	return errors.Join(err, admin.Close(), g.background.Wait())
}

// serveAPI serves the API until ctx ends or the listener fails, and lets what is in flight end.
func (g *Gateway) serveAPI(ctx context.Context, api *http.Server) error {
	failed := make(chan error, 1)
	go func() { failed <- serve(api, g.listener) }()
	g.log.Info("gateway: serving", "listen", g.Addr().String(), "admin", g.AdminAddr().String(), "pools", len(g.current.Load().activeServices()))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	g.draining.Store(true)
	close(g.drainStarted)
	g.storage.drain()
	d := g.current.Load().cfg.Drain
	g.log.Info("gateway: draining", "delay", d.Delay, "grace", d.Grace)
	time.Sleep(d.Delay)
	return errors.Join(g.shutdownAPI(api, d.Grace), <-failed)
}

// shutdownAPI closes the listener and waits for requests in flight.
func (g *Gateway) shutdownAPI(api *http.Server, longest time.Duration) error {
	grace, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	began := time.Now()
	if err := api.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("gateway: requests were cut after %s (raise drain.grace)", longest), api.Close())
	}
	g.log.Info("gateway: drained", "took", time.Since(began))
	return nil
}
