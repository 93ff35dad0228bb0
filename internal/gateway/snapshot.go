// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"net/http"
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

// snapshot is all that a configuration makes: routes, the services that they share, the face of the API. A reload builds
// another, which takes over what stays as it is, with its connections, tokens and breakers.
type snapshot struct {
	cfg           *config.Config
	services      []*service
	originRouters []*originRouter
	table         delivery.Table
	channels      channelManagers
	webhooks      []*appWebhook
	signers       map[string]*apns.Signer
	api           http.Handler
	// inside is read-locked by each notification on its way: whoever gets the lock knows that the last has left.
	inUse sync.RWMutex
	// adjust changes what the house has taken over, once it stands.
	onCommit []func()
	// cleared is closed when the last has left this house and all that stood before it; before is that of the one before.
	drained, prevDrained chan struct{}
}

var (
	_ api.Sender      = (*Gateway)(nil)
	_ delivery.Sender = (*Gateway)(nil)
)

// Send carries n to its end by the configuration that is in force when it comes.
func (g *Gateway) Send(ctx context.Context, n *push.Notification) push.Receipt {
	h := g.acquire()
	defer h.inUse.RUnlock()
	return h.table.Send(ctx, n)
}

// Check tells whether n could be sent as it is. Its error is a *push.FieldError.
func (g *Gateway) Check(n *push.Notification) error { return g.current.Load().table.Check(n) }

// acquire returns the house that stands, read-locked. One that is being cleared lets nobody in: another stands by then.
func (g *Gateway) acquire() *snapshot {
	for {
		if h := g.current.Load(); h.inUse.TryRLock() {
			return h
		}
	}
}

// buildSnapshot makes a house for cfg that takes over what it can of the standing one, which is nil at first. It starts nothing,
// and what it makes anew is lost without a trace if there is an error.
func (g *Gateway) buildSnapshot(cfg *config.Config, standing *snapshot) (*snapshot, error) {
	b, err := buildRoutes(cfg, g, standing)
	if err != nil {
		return nil, err
	}
	h := &snapshot{cfg: cfg, services: b.services, originRouters: b.originRouters, table: b.table, channels: b.channels, webhooks: b.appWebhooks, signers: b.signers, onCommit: b.onCommit, drained: make(chan struct{})}
	if standing != nil {
		h.prevDrained = standing.drained
	}
	if h.api, err = g.newAPI(cfg); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	for _, warning := range Warnings(cfg) {
		g.log.Warn("config: " + warning)
	}
	return h, nil
}

// startCurrent starts what the house needs, and has the reloads to come do the same.
func (g *Gateway) startCurrent(base context.Context) {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	g.baseCtx = base
	g.startSnapshot(g.current.Load())
}

// stopReloads lets no further reload begin.
func (g *Gateway) stopReloads() {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	g.closed = true
}

// startSnapshot runs those of the house who do not run yet. g.reloading is held.
func (g *Gateway) startSnapshot(h *snapshot) {
	g.storage.setLimiters(h)
	for _, s := range h.services {
		if s.stop == nil {
			s.stop = g.goBackground(func(ctx context.Context) error { return s.run(ctx) })
		}
	}
	for _, o := range h.originRouters {
		if o.stop == nil {
			o.stop = g.goBackground(o.run)
		}
	}
	g.startWebhooks(h)
}

// goBackground runs something until the gateway ends or stop is called. Only what still ran at the end can spoil that.
func (g *Gateway) goBackground(work func(context.Context) error) (stop context.CancelFunc) {
	base := g.baseCtx
	ctx, stop := context.WithCancel(base)
	g.background.Go(func() error {
		err := work(ctx)
		if err != nil && base.Err() == nil {
			g.log.Warn("gateway: what a reload ended did not end well", "error", err)
			return nil
		}
		return err
	})
	return stop
}

// retire ends those of the old house who are not in the new one, once nothing is on its way through them, be it from the
// house before the old one.
func (g *Gateway) retire(old, h *snapshot) {
	g.background.Go(func() error {
		if old.prevDrained != nil {
			<-old.prevDrained
		}
		old.inUse.Lock() // and never unlocked: nobody is to enter again
		close(old.drained)
		for _, s := range old.services {
			if !h.contains(s) {
				s.stop()
			}
		}
		for _, o := range old.originRouters {
			if !slices.Contains(h.originRouters, o) {
				o.stop()
				g.unwatchRouter(o) // those too that came while it was cleared
			}
		}
		return nil
	})
}

// contains reports whether the house has taken over s.
func (h *snapshot) contains(s *service) bool {
	return slices.ContainsFunc(h.services, func(own *service) bool { return own.pool == s.pool })
}

// service returns the standing service for a credential that can become one with these settings, or nil.
func (h *snapshot) service(id string, want settings) *service {
	if h == nil {
		return nil
	}
	for _, s := range h.services {
		if s.cred.id == id && s.settings.sameConnections(want) {
			return s
		}
	}
	return nil
}

// rateLimiter returns the standing gate of a quota, or nil.
func (h *snapshot) rateLimiter(spends string) *quota.RateLimiter {
	if h == nil {
		return nil
	}
	for _, s := range h.services {
		if s.quotaID == spends {
			return s.rateLimiter
		}
	}
	return nil
}

// originRouter returns the standing origins that were made from the same block, key and settings, whatever their quota, or nil.
func (h *snapshot) originRouter(path, public string, block *config.WebPush, shared settings) *originRouter {
	if h == nil {
		return nil
	}
	for _, o := range h.originRouters {
		was := *o.config
		was.Quota = block.Quota
		if o.path == path && o.publicKey == public && reflect.DeepEqual(&was, block) && o.settings.sameConnections(shared) {
			return o
		}
	}
	return nil
}

// watchMetrics has the metrics show the house. A pool that was taken over is shown on.
func (g *Gateway) watchMetrics(h *snapshot) {
	for _, s := range h.services {
		g.metrics.Watch(s.metricsService())
	}
	for _, o := range h.originRouters {
		for _, s := range o.allServices() {
			g.metrics.Watch(s.metricsService())
		}
	}
}

// unwatchMetrics has the metrics show nothing more of the house.
func (g *Gateway) unwatchMetrics(h *snapshot) {
	for _, s := range h.services {
		g.metrics.Unwatch(s.pool)
	}
	for _, o := range h.originRouters {
		g.unwatchRouter(o)
	}
}

func (g *Gateway) unwatchRouter(o *originRouter) {
	for _, s := range o.allServices() {
		g.metrics.Unwatch(s.pool)
	}
}
