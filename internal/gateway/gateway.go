// SPDX-License-Identifier: Apache-2.0

// Package gateway assembles a gateway from a configuration, and owns all its long-lived goroutines.
// It makes no decisions about notifications; the packages that it connects do.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/internal/auditlog"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/idempotency"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/internal/tracing"
)

// Gateway is a complete gateway. Listen opens its listeners, and Run serves.
type Gateway struct {
	log          *slog.Logger
	metrics      *metrics.Metrics
	tracer       tracing.Tracer
	traceCounts  tracing.Counts
	traceMetrics func() // adds the metrics of the export, once
	concurrency  *delivery.ConcurrencyLimit
	current      atomic.Pointer[snapshot]
	loadReporter loadReporter
	idempotency  idempotency.Memory // used if there is no queue
	storage      *storage           // nil without a queue
	audit        *auditlog.Log      // nil if it is off

	conns, adminConns *connLimiter // the listeners; Listen opens them

	startedAt    atomic.Int64 // start of Run in Unix nanoseconds; 0 before
	joined       atomic.Bool  // has had its share of the quotas, or joinTimeout has passed
	draining     atomic.Bool
	drainStarted chan struct{} // closed when draining starts

	dev *console.Dev // nil except in gateway dev

	background *tasks // of the services and the admin server; the storage has its own

	stateChanged func(State) // may be nil
	stateMu      sync.Mutex  // guards state and the calls of stateChanged
	state        State       // empty before Run serves

	mu      sync.Mutex // guards the replacement of current and the fields below
	running bool       // Run has started the current snapshot
	closed  bool       // current is not replaced any more
}

// New reads all files that cfg refers to and builds a gateway. It starts nothing and opens no
// socket. The error names every invalid configuration key. A nil logger discards all messages.
func New(cfg *config.Config, log *slog.Logger) (*Gateway, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{log: log, metrics: metrics.New(log), concurrency: &delivery.ConcurrencyLimit{Max: cfg.Limits.InFlight}, drainStarted: make(chan struct{}),
		conns: newConnLimiter(connectionLimit(cfg.Limits.Connections)), adminConns: newConnLimiter(maxAdminConns), background: newTasks()}
	g.traceMetrics = sync.OnceFunc(func() {
		g.metrics.WatchTraces(g.traceCounts.Exported.Load, g.traceCounts.BufferFull.Load, g.traceCounts.ExportFailed.Load)
	})
	if a := cfg.AuditLog; a.Enabled {
		g.audit = auditlog.New(auditlog.Config{MaxAge: a.MaxAge, MaxBytes: int64(a.MaxBytes), Gateway: gatewayName(), Logger: log}, hasQueue(cfg))
		g.metrics.WatchAudit(g.audit.Lost)
	}
	if hasQueue(cfg) {
		g.storage = newStorage()
		g.storage.audit = g.audit
	}
	g.metrics.WatchConcurrencyLimit(g.concurrency)
	g.metrics.WatchConnections(g.conns.count.Load, g.conns.limit, g.conns.evicted.Load)
	snap, err := g.buildSnapshot(cfg, &snapshot{})
	if err != nil {
		return nil, err
	}
	engine, _ := storageConfig(cfg)
	if err := engine.Auth.Check(); err != nil {
		return nil, fmt.Errorf("config: queue.nats.%w", err)
	}
	g.loadReporter.zone, g.loadReporter.idempotencyDomain, g.loadReporter.concurrency = cfg.Zone, g.storage.idempotencyDomain, cfg.Limits.Concurrency
	g.loadReporter.conns = &g.conns.count
	g.loadReporter.target, g.loadReporter.max = cfg.Limits.TargetLatency, cfg.Limits.SendTimeout
	g.logWarnings(cfg)
	g.logProxies(snap)
	snap.users.Store(1)
	g.current.Store(snap)
	g.metrics.WatchServices(g.metricsServices)
	g.metrics.WatchCallers(g.keyExpiries, g.issuerStatuses)
	if g.storage != nil {
		g.metrics.WatchStorage(g.metricsStatus)
		g.metrics.WatchStorageHealth(g.storage.health)
		g.metrics.WatchBroadcasts(g.storage.broadcastStatus)
	}
	return g, nil
}

// State is what a gateway does.
type State string

// States of a gateway. After Draining there is no other.
const (
	Serving   State = "serving"
	Reloading State = "reloading"
	Draining  State = "draining"
)

// WatchState sets the function that is called with each change of the state, one call at a time. Call
// it before Run. The first state is Serving, when clients get responses.
func (g *Gateway) WatchState(changed func(State)) { g.stateChanged = changed }

// setState changes the state and reports it. If from is set and not the current state, it does nothing.
func (g *Gateway) setState(s State, from ...State) {
	g.stateMu.Lock()
	defer g.stateMu.Unlock()
	if len(from) > 0 && !slices.Contains(from, g.state) {
		return
	}
	g.state = s
	if g.stateChanged != nil {
		g.stateChanged(s)
	}
}

// WatchLog sets the function that returns the number of dropped log records, for the metrics.
func (g *Gateway) WatchLog(dropped func() int) { g.metrics.WatchLog(dropped) }

// Listen opens the listeners of the API and of the admin server. From then on clients can connect,
// but requests wait for Run. Run calls Listen if necessary; call it earlier to get the addresses,
// or an error if one is in use.
func (g *Gateway) Listen() error {
	if g.conns.Listener != nil {
		return nil
	}
	cfg := g.current.Load().cfg
	api, err := listen(context.Background(), cfg.Listen, cfg.SocketMode)
	if err != nil {
		return fmt.Errorf("gateway: listen: %w", err)
	}
	admin, err := listen(context.Background(), cfg.Admin.Listen, cfg.Admin.SocketMode)
	if err != nil {
		return errors.Join(fmt.Errorf("gateway: admin.listen: %w", err), api.Close())
	}
	g.conns.Listener, g.adminConns.Listener = api, admin
	return nil
}

// Addr returns the address of the API. Call it after Listen.
func (g *Gateway) Addr() net.Addr { return g.conns.Addr() }

// AdminAddr returns the address of the admin server. Call it after Listen.
func (g *Gateway) AdminAddr() net.Addr { return g.adminConns.Addr() }

// Run opens the queue and serves until ctx ends or a listener fails. Then it drains: /readyz
// immediately reports not ready, the queue stops reading from disk, and the listener closes after
// drain.delay. Requests in flight and notifications that the queue is sending have drain.grace to
// complete; then the pools are drained. All other queued notifications stay on disk. Run returns
// when every goroutine has ended. The error is nil if everything in flight completed.
func (g *Gateway) Run(ctx context.Context) error {
	if err := g.Listen(); err != nil {
		return err
	}
	if err := g.storage.open(ctx, g.current.Load(), g, g.log); err != nil {
		closed := errors.Join(g.conns.Close(), g.adminConns.Close())
		if ctx.Err() != nil { // stopped during the start
			return closed
		}
		return errors.Join(fmt.Errorf("gateway: cannot open the queue: %w", err), closed)
	}
	g.startedAt.Store(time.Now().UnixNano())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.startCurrent()
	g.audit.Add(auditlog.Record{Action: "gateway.start", Result: "ok"})
	g.background.start(g.watchKeys)
	admin := g.newServer(g.background.ctx, g.adminHandler(), g.adminConns)
	g.setTLS(admin, 1)
	g.background.start(func(context.Context) error {
		defer cancel()
		return serve(admin, g.adminConns)
	})
	g.storage.run()
	err := g.serveAPI(ctx, g.apiServer(g.background.ctx))
	g.audit.Add(auditlog.Record{Action: "gateway.stop", Result: resultOf(err)})
	err = errors.Join(err, g.storage.stop())
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	return errors.Join(err, admin.Close(), g.background.end())
}

// serveAPI serves the API until ctx ends or the listener fails. When ctx ends it drains.
func (g *Gateway) serveAPI(ctx context.Context, api *http.Server) error {
	failed := make(chan error, 1)
	go func() { failed <- serve(api, g.conns) }()
	g.setState(Serving)
	g.log.Info("serving", "listen", addrText(g.Addr()), "admin", addrText(g.AdminAddr()), "max_connections", g.conns.limit, "pools", len(g.current.Load().activeServices()))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	g.draining.Store(true)
	g.setState(Draining)
	close(g.drainStarted)
	g.storage.drain()
	drain := g.current.Load().cfg.Drain
	g.log.Info("draining", "delay", drain.Delay.String(), "grace", drain.Grace.String())
	time.Sleep(drain.Delay)
	return errors.Join(g.shutdownAPI(api, drain.Grace), <-failed)
}

// shutdownAPI closes the listener and waits up to grace for requests in flight.
func (g *Gateway) shutdownAPI(api *http.Server, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	started := time.Now()
	if err := api.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("gateway: requests aborted after %s (raise drain.grace)", grace), api.Close())
	}
	g.log.Info("drained", "took", time.Since(started).String())
	return nil
}
