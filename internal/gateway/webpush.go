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

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/wire"
)

// maxOrigins is how many push services one app can have pools for. Few matter, though one of them has dozens of names;
// whoever allows every host must not let strangers fill the memory.
const maxOrigins = 256

// maxWebPushResponse is all that a stranger's service may make us read.
const maxWebPushResponse = 4 << 10

// originRouter carries an app's Web Push notifications: to each push service that its subscriptions name by a route of its
// own, with its own pool and breakers. A service gets them with its first notification and keeps them.
type originRouter struct {
	path        string // of the block, such as apps.shop.webpush
	publicKey   string // the VAPID key that browsers subscribe with
	overrideURL string
	provider    *webpush.Provider
	observer    delivery.Observer
	watch       func(*service) // has the metrics show it
	newRoute    func(origin string) (*service, *delivery.Route, error)
	newServices chan *service // on their way to run
	done        chan struct{}
	config      *config.WebPush    // what it was made from
	settings    settings           // those of the whole configuration
	stop        context.CancelFunc // nil before it runs

	rateLimiter *quota.RateLimiter

	mu       sync.Mutex
	weights  map[string]int // of apps
	routes   map[string]*delivery.Route
	services []*service
}

var _ delivery.Sender = (*originRouter)(nil)

// Send carries n to the push service of its subscription.
func (o *originRouter) Send(ctx context.Context, n *push.Notification) push.Receipt {
	began := time.Now()
	route, cause := o.route(ctx, n)
	if route != nil {
		return route.Send(ctx, n)
	}
	receipt := push.Receipt{ID: n.ID, Outcome: cause}
	if o.observer.Ended != nil {
		o.observer.Ended(n, receipt, time.Since(began))
	}
	return receipt
}

// Check tells whether n could be sent as it is. Its error is a *push.FieldError.
func (o *originRouter) Check(n *push.Notification) error {
	_, err := o.provider.Translate(n)
	return err
}

// route returns the route to n's push service, or why there is none.
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
	if _, _, err := s.resolver.Resolve(ctx); err != nil { // a name without a public address shall cost us no pool
		return nil, push.Outcome{Reason: string(wire.DNSFailure)}
	}
	return o.addRoute(ctx, origin, s, route)
}

func (o *originRouter) cachedRoute(origin string) *delivery.Route {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.routes[origin]
}

// addRoute makes a route the one to origin, unless another was faster, and has its service run.
func (o *originRouter) addRoute(ctx context.Context, origin string, s *service, route *delivery.Route) (*delivery.Route, push.Outcome) {
	o.mu.Lock()
	if known := o.routes[origin]; known != nil {
		o.mu.Unlock()
		return known, push.Outcome{}
	}
	if len(o.routes) >= maxOrigins {
		o.mu.Unlock()
		return nil, push.Outcome{Reason: string(wire.QueueFull), RetryAfter: time.Minute}
	}
	o.routes[origin] = route
	o.services = append(o.services, s)
	s.adaptiveLimiter.SetWeights(o.weights)
	o.mu.Unlock()
	o.watch(s)
	select {
	case o.newServices <- s:
	case <-o.done:
	}
	return route, push.Outcome{}
}

// run runs the services as they come, until ctx ends and all of them have.
func (o *originRouter) run(ctx context.Context) error {
	defer close(o.done)
	var house errgroup.Group
	for {
		select {
		case s := <-o.newServices:
			house.Go(func() error { return s.run(ctx) })
		case <-ctx.Done():
			return house.Wait()
		}
	}
}

// allServices returns the services that there are by now.
func (o *originRouter) allServices() []*service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.services)
}

// buildWebPush returns what carries an app's Web Push notifications.
func (b *builder) buildWebPush(app string, c *config.WebPush) (*originRouter, error) {
	path := "apps." + app + ".webpush"
	if len(c.Endpoints) > 0 && c.URL == "" {
		return nil, keyError(path, "endpoints", errors.New("only for the service at url (set url, or let DNS name each service's endpoints)"))
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
	if known := b.current.originRouter(path, key.Public(), c, shared); known != nil {
		b.onCommit = append(b.onCommit, func() { known.reconfigure(quotaConfig(c.Quota, b.weights)) })
		return known, nil
	}
	provider, err := webpush.New(webpush.Config{Key: key, Subject: c.Subject, Services: c.Services, OriginOverride: string(c.URL)})
	if err != nil {
		return nil, keyError(path, "services", err)
	}
	o := &originRouter{
		path: path, config: c, settings: shared, publicKey: key.Public(), overrideURL: string(c.URL), provider: provider,
		observer: b.metrics.Route(app, push.WebPush), watch: func(s *service) { b.metrics.Watch(s.metricsService()) },
		newServices: make(chan *service), done: make(chan struct{}), routes: map[string]*delivery.Route{},
		rateLimiter: quota.New(quotaConfig(c.Quota, b.weights)), weights: b.weights,
	}
	o.newRoute = b.routeFactory(app, o, c)
	return o, nil
}

// reconfigure changes the quota and the weights of apps in place.
func (o *originRouter) reconfigure(cfg quota.Config) {
	o.rateLimiter.Reconfigure(cfg)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.weights = cfg.Weights
	for _, s := range o.services {
		s.adaptiveLimiter.SetWeights(cfg.Weights)
	}
}

// routeFactory returns what makes the service and the route of an origin. The quota is the key's, whatever the service.
func (b *builder) routeFactory(app string, o *originRouter, c *config.WebPush) func(string) (*service, *delivery.Route, error) {
	return func(origin string) (*service, *delivery.Route, error) {
		want := o.settings
		want.base, want.endpoints, want.caFile, want.pool, want.quota = config.Base(origin), c.Endpoints, c.CAFile, c.Pool, c.Quota
		want.budget, want.budgetFloor, want.publicOnly, want.maxResponse = c.Retry.Budget, c.Retry.BudgetFloor, c.URL == "", maxWebPushResponse
		s, err := b.newService(o.path, credential{id: o.publicKey, label: app}, want)
		if err != nil {
			return nil, nil, err
		}
		s.rateLimiter = o.rateLimiter
		route := b.route(s, o.provider, c.Retry)
		route.Observer = o.observer
		return s, route, nil
	}
}

// checks are what can be tried before a subscription names a service.
func (o *originRouter) checks() []Check {
	sign := func(ctx context.Context) (string, error) {
		return "signs for the key that pages subscribe with, " + o.publicKey, o.provider.Authorize(ctx)
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
