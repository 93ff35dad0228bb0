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

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/wire"
)

// mostOrigins is how many push services one app can have pools for. Few matter, though one of them has dozens of names;
// whoever allows every host must not let strangers fill the memory.
const mostOrigins = 256

// maxWebPushAnswer is all that a stranger's service may make us read.
const maxWebPushAnswer = 4 << 10

// origins carries an app's Web Push notifications: to each push service that its subscriptions name by a route of its
// own, with its own pool and breakers. A service gets them with its first notification and keeps them.
type origins struct {
	path     string // of the block, such as apps.shop.webpush
	public   string // the VAPID key that browsers subscribe with
	standIn  string
	provider *webpush.Provider
	observer delivery.Observer
	watch    func(*service) // has the metrics show it
	make     func(origin string) (*service, *delivery.Route, error)
	arrivals chan *service // on their way to run
	ended    chan struct{}
	block    *config.WebPush    // what it was made from
	shared   settings           // those of the whole configuration
	stop     context.CancelFunc // nil before it runs

	gate *quota.RateLimiter

	mu       sync.Mutex
	weights  map[string]int // of apps
	known    map[string]*delivery.Route
	services []*service
}

var _ delivery.Sender = (*origins)(nil)

// Send carries n to the push service of its subscription.
func (o *origins) Send(ctx context.Context, n *push.Notification) push.Receipt {
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
func (o *origins) Check(n *push.Notification) error {
	_, err := o.provider.Translate(n)
	return err
}

// route returns the route to n's push service, or why there is none.
func (o *origins) route(ctx context.Context, n *push.Notification) (*delivery.Route, push.Outcome) {
	origin, err := o.provider.Origin(n)
	if err != nil {
		return nil, push.InvalidNotification(err)
	}
	if route := o.find(origin); route != nil {
		return route, push.Outcome{}
	}
	s, route, err := o.make(origin)
	if err != nil {
		return nil, push.Outcome{Reason: string(wire.DNSFailure)}
	}
	if _, _, err := s.resolver.Resolve(ctx); err != nil { // a name without a public address shall cost us no pool
		return nil, push.Outcome{Reason: string(wire.DNSFailure)}
	}
	return o.enter(ctx, origin, s, route)
}

func (o *origins) find(origin string) *delivery.Route {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.known[origin]
}

// enter makes a route the one to origin, unless another was faster, and has its service run.
func (o *origins) enter(ctx context.Context, origin string, s *service, route *delivery.Route) (*delivery.Route, push.Outcome) {
	o.mu.Lock()
	if known := o.known[origin]; known != nil {
		o.mu.Unlock()
		return known, push.Outcome{}
	}
	if len(o.known) >= mostOrigins {
		o.mu.Unlock()
		return nil, push.Outcome{Reason: string(wire.QueueFull), RetryAfter: time.Minute}
	}
	o.known[origin] = route
	o.services = append(o.services, s)
	s.admission.SetWeights(o.weights)
	o.mu.Unlock()
	o.watch(s)
	select {
	case o.arrivals <- s:
	case <-o.ended:
	}
	return route, push.Outcome{}
}

// run runs the services as they come, until ctx ends and all of them have.
func (o *origins) run(ctx context.Context) error {
	defer close(o.ended)
	var house errgroup.Group
	for {
		select {
		case s := <-o.arrivals:
			house.Go(func() error { return s.run(ctx) })
		case <-ctx.Done():
			return house.Wait()
		}
	}
}

// all returns the services that there are by now.
func (o *origins) all() []*service {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.services)
}

// webPush returns what carries an app's Web Push notifications.
func (b *builder) webPush(app string, c *config.WebPush) (*origins, error) {
	path := "apps." + app + ".webpush"
	if len(c.Endpoints) > 0 && c.URL == "" {
		return nil, keyError(path, "endpoints", errors.New("only for the service at url (set url, or let DNS name each service's endpoints)"))
	}
	roots, err := authorities(path, c.CAFile)
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
	shared := b.whole(settings{platform: push.WebPush}, roots)
	if known := b.standing.webPush(path, key.Public(), c, shared); known != nil {
		b.adjust = append(b.adjust, func() { known.adjust(quotas(c.Quota, b.weights)) })
		return known, nil
	}
	provider, err := webpush.New(webpush.Config{Key: key, Subject: c.Subject, Services: c.Services, OriginOverride: string(c.URL)})
	if err != nil {
		return nil, keyError(path, "services", err)
	}
	o := &origins{
		path: path, block: c, shared: shared, public: key.Public(), standIn: string(c.URL), provider: provider,
		observer: b.metrics.Route(app, push.WebPush), watch: func(s *service) { b.metrics.Watch(s.watched()) },
		arrivals: make(chan *service), ended: make(chan struct{}), known: map[string]*delivery.Route{},
		gate: quota.New(quotas(c.Quota, b.weights)), weights: b.weights,
	}
	o.make = b.origin(app, o, c)
	return o, nil
}

// adjust changes the quota and the weights of apps in place.
func (o *origins) adjust(cfg quota.Config) {
	o.gate.Reconfigure(cfg)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.weights = cfg.Weights
	for _, s := range o.services {
		s.admission.SetWeights(cfg.Weights)
	}
}

// origin returns what makes the service and the route of an origin. The quota is the key's, whatever the service.
func (b *builder) origin(app string, o *origins, c *config.WebPush) func(string) (*service, *delivery.Route, error) {
	return func(origin string) (*service, *delivery.Route, error) {
		want := o.shared
		want.base, want.endpoints, want.caFile, want.pool, want.quota = config.Base(origin), c.Endpoints, c.CAFile, c.Pool, c.Quota
		want.budget, want.floor, want.stranger, want.maxAnswer = c.Retry.Budget, c.Retry.BudgetFloor, c.URL == "", maxWebPushAnswer
		s, err := b.newService(o.path, credential{id: o.public, name: app}, want)
		if err != nil {
			return nil, nil, err
		}
		s.gate = o.gate
		route := b.route(s, o.provider, c.Retry)
		route.Observer = o.observer
		return s, route, nil
	}
}

// checks are what can be tried before a subscription names a service.
func (o *origins) checks() []Check {
	sign := func(ctx context.Context) (string, error) {
		return "signs for the key that pages subscribe with, " + o.public, o.provider.Authorize(ctx)
	}
	reach := func(ctx context.Context) (string, error) {
		s, _, err := o.make(cmp.Or(o.standIn, "https://"+webpush.KnownServices[0]))
		if err != nil {
			return "", err
		}
		return s.reachable(ctx)
	}
	return []Check{{o.path, sign}, {o.path, reach}}
}
