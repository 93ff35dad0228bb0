// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/rest"
)

// house is all that a configuration makes: routes, the services that they share, the face of the API. A reload builds
// another, which takes over what stays as it is, with its connections, tokens and breakers.
type house struct {
	cfg      *config.Config
	services []*service
	origins  []*origins
	table    delivery.Table
	channels channels
	hooks    []*hook
	signers  map[string]*apns.Signer
	api      http.Handler
	// inside is read-locked by each notification on its way: whoever gets the lock knows that the last has left.
	inside sync.RWMutex
	// adjust changes what the house has taken over, once it stands.
	adjust []func()
	// cleared is closed when the last has left this house and all that stood before it; before is that of the one before.
	cleared, before chan struct{}
}

var (
	_ rest.Sender     = (*Gateway)(nil)
	_ delivery.Sender = (*Gateway)(nil)
)

// Send carries n to its end by the configuration that is in force when it comes.
func (g *Gateway) Send(ctx context.Context, n *push.Notification) push.Receipt {
	h := g.enter()
	defer h.inside.RUnlock()
	return h.table.Send(ctx, n)
}

// Check tells whether n could be sent as it is. Its error is a *push.FieldError.
func (g *Gateway) Check(n *push.Notification) error { return g.house.Load().table.Check(n) }

// enter returns the house that stands, read-locked. One that is being cleared lets nobody in: another stands by then.
func (g *Gateway) enter() *house {
	for {
		if h := g.house.Load(); h.inside.TryRLock() {
			return h
		}
	}
}

// build makes a house for cfg that takes over what it can of the standing one, which is nil at first. It starts nothing,
// and what it makes anew is lost without a trace if there is an error.
func (g *Gateway) build(cfg *config.Config, standing *house) (*house, error) {
	b, err := build(cfg, g, standing)
	if err != nil {
		return nil, err
	}
	h := &house{cfg: cfg, services: b.services, origins: b.origins, table: b.table, channels: b.channels, hooks: b.hooks, signers: b.signers, adjust: b.adjust, cleared: make(chan struct{})}
	if standing != nil {
		h.before = standing.cleared
	}
	if h.api, err = g.face(cfg); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	for _, warning := range Warnings(cfg) {
		g.log.Warn("config: " + warning)
	}
	return h, nil
}

// open starts what the house needs, and has the reloads to come do the same.
func (g *Gateway) open(base context.Context) {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	g.base = base
	g.start(g.house.Load())
}

// close lets no further reload begin.
func (g *Gateway) close() {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	g.closed = true
}

// start runs those of the house who do not run yet. g.reloading is held.
func (g *Gateway) start(h *house) {
	g.durable.share(h)
	for _, s := range h.services {
		if s.stop == nil {
			s.stop = g.run(func(ctx context.Context) error { return s.run(ctx) })
		}
	}
	for _, o := range h.origins {
		if o.stop == nil {
			o.stop = g.run(o.run)
		}
	}
	g.tell(h)
}

// run runs something until the gateway ends or stop is called. Only what still ran at the end can spoil that.
func (g *Gateway) run(work func(context.Context) error) (stop context.CancelFunc) {
	base := g.base
	ctx, stop := context.WithCancel(base)
	g.tenants.Go(func() error {
		err := work(ctx)
		if err != nil && base.Err() == nil {
			g.log.Warn("gateway: what a reload ended did not end well", "error", err)
			return nil
		}
		return err
	})
	return stop
}

// clear ends those of the old house who are not in the new one, once nothing is on its way through them, be it from the
// house before the old one.
func (g *Gateway) clear(old, h *house) {
	g.tenants.Go(func() error {
		if old.before != nil {
			<-old.before
		}
		old.inside.Lock() // and never unlocked: nobody is to enter again
		close(old.cleared)
		for _, s := range old.services {
			if !h.has(s) {
				s.stop()
			}
		}
		for _, o := range old.origins {
			if !slices.Contains(h.origins, o) {
				o.stop()
				g.unwatch(o) // those too that came while it was cleared
			}
		}
		return nil
	})
}

// has reports whether the house has taken over s.
func (h *house) has(s *service) bool {
	return slices.ContainsFunc(h.services, func(own *service) bool { return own.pool == s.pool })
}

// service returns the standing service for a credential that can become one with these settings, or nil.
func (h *house) service(id string, want settings) *service {
	if h == nil {
		return nil
	}
	for _, s := range h.services {
		if s.cred.id == id && s.shared.connectsLike(want) {
			return s
		}
	}
	return nil
}

// gate returns the standing gate of a quota, or nil.
func (h *house) gate(spends string) *quota.RateLimiter {
	if h == nil {
		return nil
	}
	for _, s := range h.services {
		if s.spends == spends {
			return s.gate
		}
	}
	return nil
}

// webPush returns the standing origins that were made from the same block, key and settings, whatever their quota, or nil.
func (h *house) webPush(path, public string, block *config.WebPush, shared settings) *origins {
	if h == nil {
		return nil
	}
	for _, o := range h.origins {
		was := *o.block
		was.Quota = block.Quota
		if o.path == path && o.public == public && reflect.DeepEqual(&was, block) && o.shared.connectsLike(shared) {
			return o
		}
	}
	return nil
}

// show has the metrics show the house. A pool that was taken over is shown on.
func (g *Gateway) show(h *house) {
	for _, s := range h.services {
		g.metrics.Watch(s.watched())
	}
	for _, o := range h.origins {
		for _, s := range o.all() {
			g.metrics.Watch(s.watched())
		}
	}
}

// hide has the metrics show nothing more of the house.
func (g *Gateway) hide(h *house) {
	for _, s := range h.services {
		g.metrics.Unwatch(s.pool)
	}
	for _, o := range h.origins {
		g.unwatch(o)
	}
}

func (g *Gateway) unwatch(o *origins) {
	for _, s := range o.all() {
		g.metrics.Unwatch(s.pool)
	}
}
