// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/sluice-push/sluice/config"
	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/metrics"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
)

var (
	_ delivery.Provider = (*apns.Provider)(nil)
	_ delivery.Provider = (*fcm.Provider)(nil)
	_ delivery.Provider = (*webpush.Provider)(nil)
)

// builder turns a configuration into routes, each app's providers on their own, and shares what a credential has in
// common.
type builder struct {
	log      *slog.Logger
	metrics  *metrics.Metrics
	servers  []string // to ask for addresses; none: the system's
	signers  map[string]*apns.Signer
	accounts map[string]*fcm.Provider
	services []*service
	origins  []*origins
	table    delivery.Table
	channels channels
	hooks    []*hook
	durable  *durable
	later    []func() error // once every app has what it needs for sure
	weights  map[string]int
	keepDead time.Duration
	ceiling  *delivery.ConcurrencyLimit
	standing *house   // to take over from; nil at first
	adjust   []func() // changes what is taken over, once the configuration is in force
	problems []error
}

// build makes a route for every app and provider. It reads key files and starts nothing. The error names every key of
// the configuration that is wrong.
func build(cfg *config.Config, g *Gateway, standing *house) (*builder, error) {
	b := &builder{
		log: g.log, metrics: g.metrics, ceiling: g.ceiling, durable: g.durable, standing: standing, keepDead: cfg.Limits.DeadTokens,
		signers: map[string]*apns.Signer{}, accounts: map[string]*fcm.Provider{}, table: delivery.Table{}, channels: channels{}, weights: map[string]int{},
	}
	for _, server := range cfg.DNS.Servers {
		b.servers = append(b.servers, server.String())
	}
	for name, app := range cfg.Apps {
		if app.Weight != 1 { // so that an app that comes or goes changes nothing for the others
			b.weights[name] = app.Weight
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		b.app(name, cfg.Apps[name])
		b.webhooks(name, cfg.Apps[name].Webhooks)
	}
	for _, complete := range b.later {
		if err := complete(); err != nil {
			b.problems = append(b.problems, err)
		}
	}
	return b, errors.Join(b.problems...)
}

func (b *builder) app(name string, app *config.App) {
	routes := map[push.Platform]*delivery.Route{}
	path := "apps." + name
	carriers := map[push.Platform]delivery.Sender{}
	if app.APNs != nil {
		e, err := b.apns(name, app.APNs)
		if err != nil {
			b.problems = append(b.problems, err)
		} else {
			carriers[push.APNs] = e
		}
	}
	if app.FCM != nil {
		b.add(routes, push.FCM, func() (*delivery.Route, error) { return b.fcm(path+".fcm", app.FCM) })
	}
	if app.WebPush != nil {
		o, err := b.webPush(name, app.WebPush)
		if err != nil {
			b.problems = append(b.problems, err)
		} else {
			carriers[push.WebPush], b.origins = o, append(b.origins, o)
		}
	}
	for platform, route := range routes {
		route.Observer = b.metrics.Route(name, platform)
		carriers[platform] = route
	}
	b.table[name] = carriers
}

func (b *builder) add(routes map[push.Platform]*delivery.Route, platform push.Platform, route func() (*delivery.Route, error)) {
	r, err := route()
	if err != nil {
		b.problems = append(b.problems, err)
		return
	}
	routes[platform] = r
}

// maxFCMStreams is how many requests FCM lets a connection have in flight; one more, and it closes the connection.
const maxFCMStreams = 100

func (b *builder) fcm(path string, c *config.FCM) (*delivery.Route, error) {
	roots, err := authorities(path, c.CAFile)
	if err != nil {
		return nil, err
	}
	provider, cred, err := b.account(path, c, roots)
	if err != nil {
		return nil, err
	}
	s, err := b.service(path, cred, settings{
		base: c.URL, endpoints: c.Endpoints, caFile: c.CAFile, pool: c.Pool, quota: c.Quota,
		budget: c.Retry.Budget, floor: c.Retry.BudgetFloor, platform: push.FCM, maxStreams: maxFCMStreams,
	}, roots)
	if err != nil {
		return nil, err
	}
	if s.account == nil {
		s.account, s.authorize, s.refresh = provider, provider.Authorize, provider.Run
	}
	return b.route(s, s.account, c.Retry), nil
}

func (b *builder) route(s *service, provider delivery.Provider, r config.Retry) *delivery.Route {
	return &delivery.Route{
		Provider: provider, Pool: s.pool, Budget: s.budget, Throttler: s.brake, RateLimiter: s.gate, ConcurrencyLimit: b.ceiling, AdaptiveLimiter: s.admission, Unregistered: s.dead, Logger: b.log,
		Retry: retry.Policy{
			Attempts: r.Attempts, AttemptTimeout: r.AttemptTimeout, Transient: r.Backoff, Throttled: r.ThrottledBackoff,
			Cap: r.MaxBackoff, RetryAfter: retry.Strategy(r.RetryAfter), MaxRetryAfter: r.MaxRetryAfter, Rules: exceptions(r.Rules),
		},
	}
}

func exceptions(rules []config.Rule) (out []retry.Rule) {
	for _, r := range rules {
		out = append(out, retry.Rule{
			Verdict: verdicts[r.Verdict], Reason: r.Reason, Stop: r.Stop, MinWait: r.Least, Base: r.Backoff, Cap: r.MaxBackoff,
		})
	}
	return out
}

// verdicts are those that a rule can name.
var verdicts = map[string]push.Verdict{
	"": 0, "throttled": push.Throttled, "unauthorized": push.Unauthorized, "unavailable": push.Unavailable, "unknown": push.Unknown,
}

// orNone keeps a configured zero from meaning a room's default.
func orNone(v float64) float64 {
	if v == 0 {
		return -1
	}
	return v
}

func budget(share config.Percent, floor config.Rate) *retry.Budget {
	return &retry.Budget{Ratio: orNone(float64(share)), PerSecond: floor.PerSecond()}
}

func brake(floor config.Rate) *retry.AdaptiveThrottler {
	return &retry.AdaptiveThrottler{PerSecond: floor.PerSecond()}
}

func quotas(a config.Allowance, weights map[string]int) quota.Config {
	cfg := quota.Config{
		Total: even(a.Rate), Topics: even(a.TopicsRate), Weights: weights,
		Device: atOnce(a.DeviceRate), Sustained: atOnce(a.DeviceSustained), Collapsible: atOnce(a.CollapsibleRate), Topic: atOnce(a.TopicRate),
	}
	for _, s := range a.Scopes {
		lanes := make([]push.Lane, len(s.Lanes))
		for i, lane := range s.Lanes {
			lanes[i] = push.Lane(lane)
		}
		cfg.Scopes = append(cfg.Scopes, quota.Scope{Name: s.Name, Apps: s.Apps, Lanes: lanes, Limit: even(s.Rate)})
	}
	return cfg
}

// even spreads a rate over its time, in which no more than its count may pass; atOnce lets all of it come at once.
func even(r config.Rate) quota.Limit   { return quota.Limit{Rate: r.PerSecond(), Per: r.Per} }
func atOnce(r config.Rate) quota.Limit { return quota.Limit{Rate: r.PerSecond(), Burst: r.Count} }
