// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/sluice-push/sluice/internal/api"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/keyring"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
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
	apple         map[string]*apnsApp    // by app
	google        map[string]*fcmApp     // by app
	webhooks      map[string]*appWebhook // by name
	auth          *identity.Authenticator
	issuers       []*tokenIssuer     // of auth.oidc
	signIns       []*identity.SignIn // of auth.oidc; nil for an issuer without
	api           *api.Handler
	traceExport   *traceExport   // nil if tracing is off
	keys          *keyring.Ring  // of queue.encryption; nil without keys
	tls           [2]*tls.Config // of the API and the admin listener; nil for plain HTTP

	// users is the number of calls in progress, plus one while the snapshot is current, plus one
	// while the previous snapshot has users. It never rises again from 0.
	users atomic.Int64
	// next is the snapshot that replaced this one, and removed what it does not share.
	next    *snapshot
	removed []part
}

var (
	_ api.Sender      = (*Gateway)(nil)
	_ delivery.Sender = (*Gateway)(nil)
)

// Send sends c with the configuration that is current when Send is called.
func (g *Gateway) Send(ctx context.Context, c *push.Call) *push.Receipt {
	snap := g.acquire()
	defer snap.release()
	g.tracer.Queued(c)
	return snap.table.Sender(c.Notification).Send(ctx, c)
}

// SendAll sends calls with the configuration that is current when SendAll is called.
func (g *Gateway) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	snap := g.acquire()
	defer snap.release()
	g.tracer.Queued(calls...)
	snap.table.Sender(calls[0].Notification).SendAll(ctx, calls, ended)
}

// Check reports whether n is valid. Its error is a *push.FieldError.
func (g *Gateway) Check(n *push.Notification) error { return g.current.Load().table.Sender(n).Check(n) }

// Translate returns the request for n without its credential. The error of an invalid notification is
// a *push.FieldError.
func (g *Gateway) Translate(n *push.Notification) (*wire.Request, error) {
	snap := g.acquire()
	defer snap.release()
	return snap.table.Sender(n).Translate(n)
}

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
		for _, p := range snap.removed {
			p.end()
		}
		snap = snap.next
	}
}

// replace makes next the current snapshot. Calls in progress complete with the old one. It returns
// false if old is not the current snapshot any more, and an error if the gateway is shutting down.
func (g *Gateway) replace(old, next *snapshot) (replaced bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return false, errors.New("gateway: shutting down, configuration not reloaded")
	case g.current.Load() != old:
		return false, nil
	}
	next.reconfigure()
	if g.running {
		g.start(next, old)
	}
	next.users.Store(2)
	old.next, old.removed = next, old.notIn(next)
	g.current.Store(next)
	g.tracer.Use(next.traceExport.pipeline())
	old.api.Replace(next.api)
	old.release()
	return true, nil
}

// startCurrent starts the background work of the current snapshot. From then on, replace starts that
// of the next one.
func (g *Gateway) startCurrent() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = true
	current := g.current.Load()
	g.start(current, &snapshot{})
	g.tracer.Use(current.traceExport.pipeline())
}

// start starts the services and webhooks of a snapshot that do not run yet, and stops the webhooks of
// old that it does not share. g.mu is held.
func (g *Gateway) start(snap, old *snapshot) {
	g.storage.setLimiters(snap)
	g.storage.useKeys(snap.keys)
	for _, s := range snap.services {
		if s.settings.runsFromStart() {
			s.start()
		}
	}
	for _, i := range snap.issuers {
		i.start()
	}
	snap.traceExport.start(g)
	snap.runWebhooks(g.storage, old)
}

// part is what snapshots share. end ends its background work.
type part interface{ end() }

// parts returns the services, routers, issuers of tokens, and the export of traces.
func (snap *snapshot) parts() (all []part) {
	for _, s := range snap.services {
		all = append(all, s.service)
	}
	for _, o := range snap.originRouters {
		all = append(all, o)
	}
	for _, i := range snap.issuers {
		all = append(all, i)
	}
	if snap.traceExport != nil {
		all = append(all, snap.traceExport)
	}
	return all
}

// notIn returns the parts that next does not share.
func (snap *snapshot) notIn(next *snapshot) []part {
	shared := map[part]bool{}
	for _, p := range next.parts() {
		shared[p] = true
	}
	return slices.DeleteFunc(snap.parts(), func(p part) bool { return shared[p] })
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
