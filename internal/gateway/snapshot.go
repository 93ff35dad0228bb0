// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// snapshot is everything that is built from one configuration: routes, the services that they
// share, and the API. It does not change after it is published. A reload builds the next snapshot,
// which reuses unchanged services with their connections, tokens and breakers.
type snapshot struct {
	cfg           *config.Config
	services      []*service
	originRouters []*originRouter
	table         delivery.Table
	channels      channelManagers
	webhooks      []*appWebhook
	signers       map[string]*apns.Signer
	api           *api.Handler
	// inUse is read-locked by each notification in progress. Locking it waits until the last one
	// has ended.
	inUse sync.RWMutex
	// onCommit changes reused services. It runs when the new configuration takes effect.
	onCommit []func()
	// drained is closed when the last notification of this snapshot and of all earlier ones has
	// ended. prevDrained is the channel of the previous snapshot; it is nil in the first.
	drained, prevDrained chan struct{}
}

var (
	_ api.Sender      = (*Gateway)(nil)
	_ delivery.Sender = (*Gateway)(nil)
)

// Send sends n with the configuration that is current when Send is called.
func (g *Gateway) Send(ctx context.Context, n *push.Notification) push.Receipt {
	snap := g.acquire()
	defer snap.inUse.RUnlock()
	return snap.table.Send(ctx, n)
}

// Check reports whether n is valid. Its error is a *push.FieldError.
func (g *Gateway) Check(n *push.Notification) error { return g.current.Load().table.Check(n) }

// acquire returns the current snapshot, read-locked. If it is being retired, a newer one is current
// by now.
func (g *Gateway) acquire() *snapshot {
	for {
		if snap := g.current.Load(); snap.inUse.TryRLock() {
			return snap
		}
	}
}

// buildSnapshot builds a snapshot for cfg. It reuses what it can of the previous snapshot, which is
// nil at the start. It starts nothing, so that there is nothing to undo after an error.
func (g *Gateway) buildSnapshot(cfg *config.Config, previous *snapshot) (*snapshot, error) {
	b, err := buildRoutes(cfg, g, previous)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{
		cfg: cfg, services: b.services, originRouters: b.originRouters, table: b.table, channels: b.channels,
		webhooks: b.appWebhooks, signers: b.signers, onCommit: b.onCommit, drained: make(chan struct{}),
	}
	if previous != nil {
		snap.prevDrained = previous.drained
	}
	if snap.api, err = g.newAPI(cfg); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	for _, warning := range Warnings(cfg) {
		g.log.Warn("config: " + warning)
	}
	return snap, nil
}

// startCurrent starts the background work of the current snapshot. From then on, reloads start that
// of the next one.
func (g *Gateway) startCurrent(base context.Context) {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	g.baseCtx = base
	g.startSnapshot(g.current.Load())
}

// stopReloads prevents further reloads.
func (g *Gateway) stopReloads() {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	g.closed = true
}

// startSnapshot starts the services, routers and webhooks of a snapshot that do not run yet. The
// caller holds g.reloadMu.
func (g *Gateway) startSnapshot(snap *snapshot) {
	g.storage.setLimiters(snap)
	for _, s := range snap.services {
		if s.stop == nil {
			s.stop = g.goBackground(func(ctx context.Context) error { return s.run(ctx) })
		}
	}
	for _, o := range snap.originRouters {
		if o.stop == nil {
			o.stop = g.goBackground(o.run)
		}
	}
	g.startWebhooks(snap)
}

// goBackground runs work until the gateway ends or stop is called. An error after stop was called
// is only logged; it does not become an error of Run.
func (g *Gateway) goBackground(work func(context.Context) error) (stop context.CancelFunc) {
	base := g.baseCtx
	ctx, stop := context.WithCancel(base)
	g.background.Go(func() error {
		err := work(ctx)
		if err != nil && base.Err() == nil {
			g.log.Warn("background work failed after a reload had stopped it", "err", err)
			return nil
		}
		return err
	})
	return stop
}

// retire stops the services and routers of the old snapshot that the new one does not use, when no
// notification of the old snapshot or of an earlier one is in progress.
func (g *Gateway) retire(old, next *snapshot) {
	g.background.Go(func() error {
		if old.prevDrained != nil {
			<-old.prevDrained
		}
		old.inUse.Lock() // never unlocked, so that acquire does not return it again
		close(old.drained)
		for _, s := range old.services {
			if !next.contains(s) {
				s.stop()
			}
		}
		for _, o := range old.originRouters {
			if !slices.Contains(next.originRouters, o) {
				o.stop()
				g.unwatchRouter(o) // including services added since the reload
			}
		}
		return nil
	})
}

// contains reports whether the snapshot uses s, or a copy of s with the same pool.
func (snap *snapshot) contains(s *service) bool {
	return slices.ContainsFunc(snap.services, func(own *service) bool { return own.pool == s.pool })
}

// service returns the service for a credential that can be reused with these settings, or nil.
func (snap *snapshot) service(id string, want settings) *service {
	if snap == nil {
		return nil
	}
	for _, s := range snap.services {
		if s.cred.id == id && s.settings.sameConnections(want) {
			return s
		}
	}
	return nil
}

// rateLimiter returns the rate limiter of a quota, or nil.
func (snap *snapshot) rateLimiter(quotaID string) *quota.RateLimiter {
	if snap == nil {
		return nil
	}
	for _, s := range snap.services {
		if s.quotaID == quotaID {
			return s.rateLimiter
		}
	}
	return nil
}

// originRouter returns the router that was built from the same block, key and settings, or nil. The
// quota may differ.
func (snap *snapshot) originRouter(path, publicKey string, block *config.WebPush, want settings) *originRouter {
	if snap == nil {
		return nil
	}
	for _, o := range snap.originRouters {
		was := *o.config
		was.Quota = block.Quota
		if o.path == path && o.publicKey == publicKey && reflect.DeepEqual(&was, block) && o.settings.sameConnections(want) {
			return o
		}
	}
	return nil
}

// watchMetrics adds the services of a snapshot to the metrics.
func (g *Gateway) watchMetrics(snap *snapshot) {
	for _, s := range snap.services {
		g.metrics.Watch(s.metricsService())
	}
	for _, o := range snap.originRouters {
		for _, s := range o.allServices() {
			g.metrics.Watch(s.metricsService())
		}
	}
}

// unwatchMetrics removes the services of a snapshot from the metrics.
func (g *Gateway) unwatchMetrics(snap *snapshot) {
	for _, s := range snap.services {
		g.metrics.Unwatch(s.pool)
	}
	for _, o := range snap.originRouters {
		g.unwatchRouter(o)
	}
}

func (g *Gateway) unwatchRouter(o *originRouter) {
	for _, s := range o.allServices() {
		g.metrics.Unwatch(s.pool)
	}
}
