// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"sync/atomic"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/push"
)

// snapshot is everything that is built from one configuration: routes, the services that they
// share, and the API. It does not change after it is published. A reload builds the next snapshot,
// which shares unchanged services with their connections, tokens and breakers.
type snapshot struct {
	cfg           *config.Config
	weights       map[string]int // app weights
	files         *files
	services      []*usedService
	originRouters []*originRouter
	table         delivery.Table
	channels      channelManagers
	webhooks      []*appWebhook
	api           *api.Handler

	// users is the number of calls in progress, plus one while the snapshot is current, plus one
	// while the previous snapshot has users. It never rises again from 0.
	users atomic.Int64
	// next is the snapshot that replaced this one, and removed what it does not share.
	next    *snapshot
	removed []interface{ end() }
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

// release ends one use of the snapshot. The last one ends the services that later snapshots do not
// share. Earlier snapshots, which may share them, have no users by then.
func (snap *snapshot) release() {
	for snap != nil && snap.users.Add(-1) == 0 {
		for _, r := range snap.removed {
			r.end()
		}
		snap = snap.next
	}
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
	old := g.current.Load()
	if g.running {
		next.stopRemovedWebhooks(old)
		g.startSnapshot(next)
	}
	if old == nil {
		g.current.Store(next)
		return
	}
	next.users.Add(1)
	old.next, old.removed = next, old.notIn(next)
	g.current.Store(next)
	old.api.Replace(next.api)
	old.release()
}

// notIn returns the services and routers that next does not share.
func (snap *snapshot) notIn(next *snapshot) (removed []interface{ end() }) {
	shared := make(map[interface{ end() }]bool, len(next.services))
	for _, s := range next.services {
		shared[s.service] = true
	}
	for _, o := range next.originRouters {
		shared[o] = true
	}
	for _, s := range snap.services {
		if !shared[s.service] {
			removed = append(removed, s.service)
		}
	}
	for _, o := range snap.originRouters {
		if !shared[o] {
			removed = append(removed, o)
		}
	}
	return removed
}

// reconfigure sets the quotas and app weights of the snapshot, also in the services and routers
// that it shares with others.
func (snap *snapshot) reconfigure() {
	for _, s := range snap.services {
		s.limiter.reconfigure(s.quota, snap.weights)
		s.reconfigure(snap.weights)
	}
	for _, o := range snap.originRouters {
		o.reconfigure(&snap.cfg.Apps[o.app].WebPush.Quota, snap.weights)
	}
}

// startCurrent starts the background work of the current snapshot. From then on, reloads start that
// of the next one.
func (g *Gateway) startCurrent() {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	g.running = true
	g.startSnapshot(g.current.Load())
}

// stopReloads prevents further reloads.
func (g *Gateway) stopReloads() {
	g.reloadMu.Lock()
	defer g.reloadMu.Unlock()
	g.closed = true
}

// startSnapshot starts the services and webhooks of a snapshot that run from the start and do not run
// yet. The caller holds g.reloadMu.
func (g *Gateway) startSnapshot(snap *snapshot) {
	g.storage.setLimiters(snap)
	for _, s := range snap.services {
		if s.settings.runsFromStart() {
			s.start()
		}
	}
	g.startWebhooks(snap)
}

// goBackground runs work until the gateway or ctx ends. An error or a panic while the gateway runs is
// only logged; it does not become an error of Run. Work that is started after the end does not run.
func (g *Gateway) goBackground(ctx context.Context, work func(context.Context) error) {
	g.backgroundMu.Lock()
	defer g.backgroundMu.Unlock()
	if g.backgroundEnded {
		return
	}
	g.background.Go(func() error {
		err := panics.Recover(g.log, "service", func() error { return work(ctx) })
		if err != nil && g.lifetime.Err() == nil {
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
