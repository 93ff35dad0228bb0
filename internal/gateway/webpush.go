// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/wire"
)

// maxOrigins limits the number of push services per app. Only a few exist, although one of them
// uses dozens of host names. If an app allows every host, subscriptions must not be able to exhaust
// the memory.
const maxOrigins = 256

// maxWebPushResponse is the maximum size of a response in bytes. The services are not trusted.
const maxWebPushResponse = 4 << 10

// originRouter sends an app's Web Push notifications to the push services (origins) that the
// subscriptions name. Each origin has its own route, pool and breakers, which are created with its
// first notification.
type originRouter struct {
	app         string
	path        string // the configuration block, such as apps.shop.webpush
	publicKey   string // the public VAPID key, which browsers need to subscribe
	overrideURL string // the only origin, such as a mock; empty for those of the subscriptions
	provider    *webpush.Provider
	observer    delivery.Observer
	newRoute    func(origin string) (*service, *delivery.Route, error)
	config      *config.WebPush // the block that it was built from
	settings    settings        // the global ones only; see withGlobals
	background  *background

	rateLimiter *quota.RateLimiter

	mu       sync.Mutex
	weights  map[string]int // app weights
	routes   map[string]*delivery.Route
	services []*service
}

var _ delivery.Sender = (*originRouter)(nil)

// Send sends c to the push service of its subscription.
func (o *originRouter) Send(ctx context.Context, c *push.Call) push.Receipt {
	started := time.Now()
	route, outcome := o.route(ctx, c.Notification)
	if route != nil {
		return route.Send(ctx, c)
	}
	receipt := push.Receipt{ID: c.ID, Outcome: outcome}
	if o.observer.Ended != nil {
		o.observer.Ended(c.Notification, receipt, time.Since(started))
	}
	return receipt
}

// SendAll sends each call separately: the encryption of its payload costs more than a run would save.
func (o *originRouter) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	push.SendEach(ctx, calls, ended, o.Send)
}

// Check reports whether n is valid. Its error is a *push.FieldError. A subscription that is known to
// have ended is valid: Send then reports that it is unregistered.
func (o *originRouter) Check(n *push.Notification) error {
	n.Warnings = nil
	_, err := o.provider.Translate(n)
	if field, ok := errors.AsType[*push.FieldError](err); ok && field.Unregistered {
		return nil
	}
	return err
}

// route returns the route to n's push service, or an outcome that says why there is none.
func (o *originRouter) route(ctx context.Context, n *push.Notification) (*delivery.Route, push.Outcome) {
	origin, err := o.provider.Origin(n)
	if err != nil {
		return nil, push.InvalidNotification(err)
	}
	if route := o.cachedRoute(origin); route != nil {
		return route, push.Outcome{}
	}
	s, route, err := o.newRoute(origin)
	if err != nil {
		return nil, push.Outcome{Reason: string(wire.DNSFailure)}
	}
	if _, _, err := s.resolver.Resolve(ctx); err != nil { // do not create a pool for a name without a public address
		return nil, push.Outcome{Reason: string(wire.DNSFailure), Detail: err.Error()}
	}
	return o.addRoute(origin, s, route)
}

func (o *originRouter) cachedRoute(origin string) *delivery.Route {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.routes[origin]
}

// addRoute adds the route to an origin and starts its service. If another call has added one in the
// meantime, it returns that route.
func (o *originRouter) addRoute(origin string, s *service, route *delivery.Route) (*delivery.Route, push.Outcome) {
	o.mu.Lock()
	if existing := o.routes[origin]; existing != nil {
		o.mu.Unlock()
		return existing, push.Outcome{}
	}
	if len(o.routes) >= maxOrigins {
		o.mu.Unlock()
		return nil, push.Outcome{Reason: string(wire.QueueFull), RetryAfter: time.Minute}
	}
	o.routes[origin] = route
	o.services = append(o.services, s)
	s.adaptiveLimiter.SetWeights(o.weights)
	o.mu.Unlock()
	if s.runsFromStart() {
		o.background.start(s.run)
	}
	return route, push.Outcome{}
}

// allServices returns the services added so far.
func (o *originRouter) allServices() []*service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.services)
}

// buildWebPush returns the router for an app's Web Push notifications.
func (b *builder) buildWebPush(app string, c *config.WebPush) (*originRouter, error) {
	path := "apps." + app + ".webpush"
	if len(c.Endpoints) > 0 && c.URL == "" {
		return nil, keyError(path, "endpoints", errors.New("needs url, because endpoints belong to one service (set url, or remove endpoints to use DNS)"))
	}
	roots, err := loadRoots(path, c.CAFile)
	if err != nil {
		return nil, err
	}
	text, err := readFile(path, "vapid_key_file", c.VAPIDKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := webpush.ParseKey(text)
	if err != nil {
		return nil, keyError(path, "vapid_key_file", fmt.Errorf("%q: %w", string(c.VAPIDKeyFile), err))
	}
	shared := b.withGlobals(settings{platform: push.WebPush}, roots)
	if current := b.current.originRouter(path, key.Public(), c, shared); current != nil {
		return current, nil
	}
	provider, err := webpush.New(webpush.Config{Key: key, Subject: c.Subject, Services: c.Services, OriginOverride: string(c.URL)})
	if err != nil {
		return nil, keyError(path, "services", err)
	}
	o := &originRouter{
		app: app, path: path, config: c, settings: shared, publicKey: key.Public(), overrideURL: string(c.URL), provider: provider,
		observer:    b.metrics.Route(app, push.WebPush),
		routes:      map[string]*delivery.Route{},
		rateLimiter: quota.New(quotaConfig(c.Quota, b.weights)), weights: b.weights,
	}
	o.newRoute, o.background = b.routeFactory(app, o, c), &background{}
	return o, nil
}

// reconfigure changes the quota and the app weights in place.
func (o *originRouter) reconfigure(cfg quota.Config) {
	o.rateLimiter.Reconfigure(cfg)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.weights = cfg.Weights
	for _, s := range o.services {
		s.adaptiveLimiter.SetWeights(cfg.Weights)
	}
}

// routeFactory returns a function that builds the service and the route for an origin. All origins
// share the quota of the VAPID key, but a service that limits the sender does not slow down the
// others.
func (b *builder) routeFactory(app string, o *originRouter, c *config.WebPush) func(string) (*service, *delivery.Route, error) {
	return func(origin string) (*service, *delivery.Route, error) {
		want := o.settings
		want.base, want.endpoints, want.caFile, want.pool, want.quota = config.Base(origin), c.Endpoints, c.CAFile, c.Pool, c.Quota
		want.budget, want.budgetFloor, want.publicOnly, want.maxResponse = c.Retry.Budget, c.Retry.BudgetFloor, c.URL == "", maxWebPushResponse
		s, err := b.newService(o.path, credential{id: o.publicKey, label: app}, want)
		if err != nil {
			return nil, nil, err
		}
		s.rateLimiter = o.rateLimiter.Service(evenLimit(config.Rate{Count: o.provider.LimitedRate(origin), Per: time.Minute}))
		s.background = o.background
		route := b.route(s, o.provider, c.Retry)
		route.Observer = o.observer
		return s, route, nil
	}
}

// checks returns the checks that are possible before a subscription names an origin.
func (o *originRouter) checks() []Check {
	sign := func(ctx context.Context) (string, error) {
		return "can sign for the public key " + o.publicKey, o.provider.Authorize(ctx)
	}
	reach := func(ctx context.Context) (string, error) {
		s, _, err := o.newRoute(cmp.Or(o.overrideURL, "https://"+webpush.KnownServices[0]))
		if err != nil {
			return "", err
		}
		return s.verifyReachable(ctx)
	}
	return []Check{{o.path, sign}, {o.path, reach}}
}
