// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
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
	g         *Gateway
	app       string
	config    *config.WebPush // the block that it was built from
	settings  settings        // of all services, except for their base
	publicKey string          // the public VAPID key, which browsers need to subscribe
	provider  *webpush.Provider
	observer  delivery.Observer
	limiter   *limiter

	mu       sync.Mutex
	weights  map[string]int // app weights
	routes   map[string]*delivery.Route
	services []*usedService
}

var _ delivery.Sender = (*originRouter)(nil)

// Send sends c to the push service of its subscription.
func (o *originRouter) Send(ctx context.Context, c *push.Call) *push.Receipt {
	started := time.Now()
	route, outcome := o.route(ctx, c.Notification)
	if route != nil {
		r := route.Send(ctx, c)
		if r.DryRun != nil && r.Verdict == push.Accepted {
			r.DryRun.Payload = string(o.plaintext(c.Notification))
		}
		return r
	}
	c.Receipt = push.Receipt{ID: c.ID, Outcome: outcome}
	if c.DryRun {
		c.Receipt.DryRun = &push.DryRun{Checked: []push.DryRunCheck{}}
		return &c.Receipt
	}
	if o.observer.Ended != nil {
		o.observer.Ended(c.Notification, &c.Receipt, time.Since(started))
	}
	return &c.Receipt
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

// Translate returns the request for n.
func (o *originRouter) Translate(n *push.Notification) (*wire.Request, error) {
	n.Warnings = nil
	return o.provider.Translate(n)
}

// plaintext returns what the valid notification n has in its encrypted body.
func (o *originRouter) plaintext(n *push.Notification) []byte {
	warnings := n.Warnings
	text, _ := o.provider.Plaintext(n) // n has been translated
	n.Warnings = warnings
	return text
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
	s, err := o.newService(origin)
	if err != nil {
		return nil, push.Outcome{Reason: string(wire.DNSFailure)}
	}
	if _, _, err := s.open().resolver.Resolve(ctx); err != nil { // do not keep a pool for a name without a public address
		return nil, push.Outcome{Reason: string(wire.DNSFailure), Detail: err.Error()}
	}
	return o.addRoute(origin, s)
}

func (o *originRouter) cachedRoute(origin string) *delivery.Route {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.routes[origin]
}

// addRoute adds the route to an origin and starts its service. If another call has added one in the
// meantime, it returns that route.
func (o *originRouter) addRoute(origin string, s *service) (*delivery.Route, push.Outcome) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if existing := o.routes[origin]; existing != nil {
		return existing, push.Outcome{}
	}
	if len(o.routes) >= maxOrigins {
		return nil, push.Outcome{Reason: string(wire.QueueFull), RetryAfter: time.Minute}
	}
	s.reconfigure(o.weights)
	o.routes[origin] = s.route(o.provider, &o.config.Retry, o.observer)
	o.services = append(o.services, &usedService{s, []string{o.path()}, &o.config.Quota})
	if s.settings.runsFromStart() {
		s.start()
	}
	return o.routes[origin], push.Outcome{}
}

// path returns the configuration block, such as apps.shop.webpush.
func (o *originRouter) path() string { return "apps." + o.app + ".webpush" }

// allServices returns the services added so far.
func (o *originRouter) allServices() []*usedService {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.services)
}

// newOriginRouter returns the router for an app's Web Push notifications: that of the previous
// snapshot, if only quotas and app weights have changed since.
func (b *builder) newOriginRouter(app string, c *config.WebPush, read *blockFiles) (*originRouter, error) {
	path := "apps." + app + ".webpush"
	if len(c.Endpoints) > 0 && c.URL == "" {
		return nil, keyError(path, "endpoints", errors.New("needs url, because endpoints belong to one service (set url, or remove endpoints to use DNS)"))
	}
	if read.err != nil {
		return nil, read.err
	}
	o := &originRouter{
		g: b.Gateway, app: app, config: c, publicKey: read.vapid.Public(), observer: b.observer(app, push.WebPush),
		settings: settings{
			platform: push.WebPush, endpoints: joinAddrs(c.Endpoints), roots: read.roots, proxy: read.proxy, pool: c.Pool,
			budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor, publicOnly: c.URL == "", maxResponse: maxWebPushResponse,
			dnsServers: joinAddrs(b.next.cfg.DNS.Servers), unregisteredTTL: b.next.cfg.Limits.UnregisteredTTL,
		},
		limiter: &limiter{quota: &c.Quota, weights: b.next.weights}, weights: b.next.weights, routes: map[string]*delivery.Route{},
	}
	if known, ok := b.previous.table[app][push.WebPush].(*originRouter); ok && known.equal(o) {
		return known, nil
	}
	var err error
	if o.provider, err = webpush.New(webpush.Config{
		Key: read.vapid, Subject: c.Subject, Services: c.Services, OriginOverride: string(c.URL),
		Declarative: webpush.Declarative(c.Declarative), Navigate: c.Navigate,
	}); err != nil {
		return nil, keyError(path, "services", err)
	}
	return o, nil
}

// equal reports whether two routers differ at most in quotas and app weights.
func (o *originRouter) equal(other *originRouter) bool {
	block := *o.config
	block.Quota = other.config.Quota
	return o.publicKey == other.publicKey && o.settings == other.settings && reflect.DeepEqual(&block, other.config)
}

// reconfigure changes the quota and the app weights in place.
func (o *originRouter) reconfigure(allowance *config.Allowance, weights map[string]int) {
	o.limiter.reconfigure(allowance, weights)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.weights = weights
	for _, s := range o.services {
		s.reconfigure(weights)
	}
}

// end ends the background work of all services.
func (o *originRouter) end() {
	for _, s := range o.allServices() {
		s.end()
	}
}

// newService returns a service for an origin. All origins share the quota of the VAPID key, but a
// service that limits the sender does not slow down the others.
func (o *originRouter) newService(origin string) (*service, error) {
	want := o.settings
	want.base = config.Base(origin)
	if err := want.validate(); err != nil {
		return nil, keyError(o.path(), "pool", err)
	}
	return &service{
		g: o.g, name: want.poolName(o.app), cred: &credential{id: o.publicKey, label: o.app}, settings: &want, provider: o.provider,
		limiter: &limiter{parent: o.limiter, limit: evenLimit(config.Rate{Count: o.provider.LimitedRate(origin), Per: time.Minute})},
	}, nil
}

// checks returns the checks that are possible before a subscription names an origin.
func (o *originRouter) checks() []Check {
	sign := func(ctx context.Context) (string, error) {
		return "can sign for the public key " + o.publicKey, o.provider.Authorize(ctx)
	}
	reach := func(ctx context.Context) (string, error) {
		s, err := o.newService(cmp.Or(string(o.config.URL), "https://"+webpush.KnownServices[0]))
		if err != nil {
			return "", err
		}
		return s.verifyReachable(ctx)
	}
	return []Check{{Key: o.path(), Verify: sign}, {Key: o.path(), Verify: reach}}
}
