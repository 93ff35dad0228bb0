// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/x509"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/fcm"
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
	weights       map[string]int // app weights
	api           *api.Handler
	// users is the number of calls in progress, plus one while the snapshot is current. The last
	// user releases what the snapshot shares with others; users never rises again from 0.
	users atomic.Int64
}

var (
	_ api.Sender      = (*Gateway)(nil)
	_ delivery.Sender = (*Gateway)(nil)
)

// Send sends c with the configuration that is current when Send is called.
func (g *Gateway) Send(ctx context.Context, c *push.Call) push.Receipt {
	snap := g.acquire()
	defer snap.release()
	return snap.table.Sender(c.Notification).Send(ctx, c)
}

// SendAll sends calls with the configuration that is current when SendAll is called.
func (g *Gateway) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	snap := g.acquire()
	defer snap.release()
	snap.table.Sender(calls[0].Notification).SendAll(ctx, calls, ended)
}

// Check reports whether n is valid. Its error is a *push.FieldError.
func (g *Gateway) Check(n *push.Notification) error { return g.current.Load().table.Sender(n).Check(n) }

// acquire returns the current snapshot. The caller releases it. If its last user has left it
// meanwhile, a newer one is current by now.
func (g *Gateway) acquire() *snapshot {
	for {
		snap := g.current.Load()
		if users := snap.users.Load(); users > 0 && snap.users.CompareAndSwap(users, users+1) {
			return snap
		}
	}
}

// release ends one use of the snapshot. The last one releases the services and routers.
func (snap *snapshot) release() {
	if snap.users.Add(-1) > 0 {
		return
	}
	for _, b := range snap.background() {
		b.release()
	}
}

// background returns the background work of the services and routers.
func (snap *snapshot) background() []*background {
	var all []*background
	for _, s := range snap.services {
		all = append(all, s.background)
	}
	for _, o := range snap.originRouters {
		all = append(all, o.background)
	}
	return all
}

// background is the work of a service or router, which can run while a published snapshot contains
// it. Copies of the service or router in later snapshots share it.
type background struct {
	snapshots atomic.Int64
	stop      context.CancelFunc // nil until the snapshot is started

	mu      sync.Mutex
	launch  func(work func(context.Context) error) // nil until the snapshot is started
	pending []func(context.Context) error          // started before that
}

// start runs work in a goroutine, at the earliest when the snapshot is started.
func (b *background) start(work func(context.Context) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.launch == nil {
		b.pending = append(b.pending, work)
		return
	}
	b.launch(work)
}

// enable sets the function that launches work, and launches the pending work.
func (b *background) enable(launch func(work func(context.Context) error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.launch = launch
	for _, work := range b.pending {
		launch(work)
	}
	b.pending = nil
}

// release removes one snapshot. Without any, it stops the work.
func (b *background) release() {
	if b.snapshots.Add(-1) == 0 && b.stop != nil {
		b.stop()
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
		webhooks: b.appWebhooks, signers: b.signers, weights: b.weights,
	}
	if snap.api, err = g.newAPI(cfg); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return snap, nil
}

// publish makes a snapshot the current one. Calls in progress complete with the old one. The caller
// holds g.reloadMu, except in New.
func (g *Gateway) publish(next *snapshot) {
	for _, warning := range Warnings(next.cfg) {
		g.log.Warn("config: " + warning)
	}
	for _, check := range timeoutChecks(next.cfg) {
		_, err := check.Verify(context.Background())
		g.log.Warn("config: "+check.Key, "err", err)
	}
	next.reconfigure()
	next.users.Store(1)
	for _, b := range next.background() {
		b.snapshots.Add(1)
	}
	old := g.current.Load()
	if g.baseCtx != nil {
		next.stopRemovedWebhooks(old)
		g.startSnapshot(next)
	}
	g.current.Store(next)
	if old != nil {
		old.api.Replace(next.api)
		old.release()
	}
}

// reconfigure sets the quotas and app weights of the snapshot, also in the services and routers
// that it reuses.
func (snap *snapshot) reconfigure() {
	for _, s := range snap.services {
		s.rateLimiter.Reconfigure(quotaConfig(s.settings.quota, snap.weights))
		s.adaptiveLimiter.SetWeights(snap.weights)
	}
	for _, o := range snap.originRouters {
		o.reconfigure(quotaConfig(snap.cfg.Apps[o.app].WebPush.Quota, snap.weights))
	}
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
	for _, b := range snap.background() {
		if b.stop == nil {
			ctx, stop := context.WithCancel(g.baseCtx)
			b.stop = stop
			base := g.baseCtx
			b.enable(func(work func(context.Context) error) { g.goBackground(base, ctx, work) })
		}
	}
	g.startWebhooks(snap)
}

// goBackground runs work until the gateway ends (base) or ctx, which is derived from it. An error or
// a panic while the gateway runs is only logged; it does not become an error of Run. Work that is
// started after the end does not run.
func (g *Gateway) goBackground(base, ctx context.Context, work func(context.Context) error) {
	g.backgroundMu.Lock()
	defer g.backgroundMu.Unlock()
	if g.backgroundEnded {
		return
	}
	g.background.Go(func() error {
		err := panics.Recover(g.log, "service or router", func() error { return work(ctx) })
		if err != nil && base.Err() == nil {
			g.log.Warn("background work failed", "err", err)
			return nil
		}
		return err
	})
}

// waitBackground waits for all background work. No further work starts.
func (g *Gateway) waitBackground() error {
	g.backgroundMu.Lock()
	g.backgroundEnded = true
	g.backgroundMu.Unlock()
	return g.background.Wait()
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

// fcmProvider returns the FCM provider of a credential that trusts these roots, or nil.
func (snap *snapshot) fcmProvider(id string, roots *x509.CertPool) *fcm.Provider {
	if snap == nil {
		return nil
	}
	for _, s := range snap.services {
		if s.fcmProvider != nil && s.cred.id == id && s.settings.roots.Equal(roots) {
			return s.fcmProvider
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
