// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/metrics"
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
	log             *slog.Logger
	metrics         *metrics.Metrics
	dnsServers      []string // to ask for addresses; none: the system's
	signers         map[string]*apns.Signer
	fcmProviders    map[string]*fcm.Provider
	services        []*service
	originRouters   []*originRouter
	table           delivery.Table
	channels        channelManagers
	appWebhooks     []*appWebhook
	storage         *storage
	deferred        []func() error // once every app has what it needs for sure
	weights         map[string]int
	unregisteredTTL time.Duration
	concurrency     *delivery.ConcurrencyLimit
	current         *snapshot // to take over from; nil at first
	onCommit        []func()  // changes what is taken over, once the configuration is in force
	errs            []error
}

// buildRoutes makes a route for every app and provider. It reads key files and starts nothing. The error names every key of
// the configuration that is wrong.
func buildRoutes(cfg *config.Config, g *Gateway, standing *snapshot) (*builder, error) {
	b := &builder{
		log: g.log, metrics: g.metrics, concurrency: g.concurrency, storage: g.storage, current: standing, unregisteredTTL: cfg.Limits.UnregisteredTTL,
		signers: map[string]*apns.Signer{}, fcmProviders: map[string]*fcm.Provider{}, table: delivery.Table{}, channels: channelManagers{}, weights: map[string]int{},
	}
	for _, server := range cfg.DNS.Servers {
		b.dnsServers = append(b.dnsServers, server.String())
	}
	for name, app := range cfg.Apps {
		if app.Weight != 1 { // so that an app that comes or goes changes nothing for the others
			b.weights[name] = app.Weight
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		b.addApp(name, cfg.Apps[name])
		b.addWebhooks(name, cfg.Apps[name].Webhooks)
	}
	for _, complete := range b.deferred {
		if err := complete(); err != nil {
			b.errs = append(b.errs, err)
		}
	}
	return b, errors.Join(b.errs...)
}

func (b *builder) addApp(name string, app *config.App) {
	routes := map[push.Platform]*delivery.Route{}
	path := "apps." + name
	carriers := map[push.Platform]delivery.Sender{}
	if app.APNs != nil {
		e, err := b.buildAPNs(name, app.APNs)
		if err != nil {
			b.errs = append(b.errs, err)
		} else {
			carriers[push.APNs] = e
		}
	}
	if app.FCM != nil {
		b.addRoute(routes, push.FCM, func() (*delivery.Route, error) { return b.buildFCM(path+".fcm", app.FCM) })
	}
	if app.WebPush != nil {
		o, err := b.buildWebPush(name, app.WebPush)
		if err != nil {
			b.errs = append(b.errs, err)
		} else {
			carriers[push.WebPush], b.originRouters = o, append(b.originRouters, o)
		}
	}
	for platform, route := range routes {
		route.Observer = b.metrics.Route(name, platform)
		carriers[platform] = route
	}
	b.table[name] = carriers
}

func (b *builder) addRoute(routes map[push.Platform]*delivery.Route, platform push.Platform, route func() (*delivery.Route, error)) {
	r, err := route()
	if err != nil {
		b.errs = append(b.errs, err)
		return
	}
	routes[platform] = r
}

// maxFCMStreams is how many requests FCM lets a connection have in flight; one more, and it closes the connection.
const maxFCMStreams = 100

func (b *builder) buildFCM(path string, c *config.FCM) (*delivery.Route, error) {
	roots, err := loadRoots(path, c.CAFile)
	if err != nil {
		return nil, err
	}
	provider, cred, err := b.fcmProvider(path, c, roots)
	if err != nil {
		return nil, err
	}
	s, err := b.service(path, cred, settings{
		base: c.URL, endpoints: c.Endpoints, caFile: c.CAFile, pool: c.Pool, quota: c.Quota,
		budget: c.Retry.Budget, budgetFloor: c.Retry.BudgetFloor, platform: push.FCM, maxStreams: maxFCMStreams,
	}, roots)
	if err != nil {
		return nil, err
	}
	if s.fcmProvider == nil {
		s.fcmProvider, s.authorize, s.refresh = provider, provider.Authorize, provider.Run
	}
	return b.route(s, s.fcmProvider, c.Retry), nil
}

func (b *builder) route(s *service, provider delivery.Provider, r config.Retry) *delivery.Route {
	return &delivery.Route{
		Provider: provider, Pool: s.pool, Budget: s.budget, Throttler: s.throttler, RateLimiter: s.rateLimiter, ConcurrencyLimit: b.concurrency, AdaptiveLimiter: s.adaptiveLimiter, Unregistered: s.unregistered, Logger: b.log,
		Retry: retry.Policy{
			Attempts: r.Attempts, AttemptTimeout: r.AttemptTimeout, Transient: r.Backoff, Throttled: r.ThrottledBackoff,
			Cap: r.MaxBackoff, RetryAfter: retry.Strategy(r.RetryAfter), MaxRetryAfter: r.MaxRetryAfter, Rules: retryRules(r.Rules),
		},
	}
}

func retryRules(rules []config.Rule) (out []retry.Rule) {
	for _, r := range rules {
		out = append(out, retry.Rule{
			Verdict: ruleVerdicts[r.Verdict], Reason: r.Reason, Stop: r.Stop, MinWait: r.MinWait, Base: r.Backoff, Cap: r.MaxBackoff,
		})
	}
	return out
}

// ruleVerdicts are those that a rule can name.
var ruleVerdicts = map[string]push.Verdict{
	"": 0, "throttled": push.Throttled, "unauthorized": push.Unauthorized, "unavailable": push.Unavailable, "unknown": push.Unknown,
}

// zeroToNone keeps a configured zero from meaning a room's default.
func zeroToNone(v float64) float64 {
	if v == 0 {
		return -1
	}
	return v
}

func newBudget(share config.Percent, floor config.Rate) *retry.Budget {
	return &retry.Budget{Ratio: zeroToNone(float64(share)), PerSecond: floor.PerSecond()}
}

func newThrottler(floor config.Rate) *retry.AdaptiveThrottler {
	return &retry.AdaptiveThrottler{PerSecond: floor.PerSecond()}
}

func quotaConfig(a config.Allowance, weights map[string]int) quota.Config {
	cfg := quota.Config{
		Total: evenLimit(a.Rate), Topics: evenLimit(a.TopicsRate), Weights: weights,
		Device: burstLimit(a.DeviceRate), Sustained: burstLimit(a.DeviceSustained), Collapsible: burstLimit(a.CollapsibleRate), Topic: burstLimit(a.TopicRate),
	}
	for _, s := range a.Scopes {
		lanes := make([]push.Lane, len(s.Lanes))
		for i, lane := range s.Lanes {
			lanes[i] = push.Lane(lane)
		}
		cfg.Scopes = append(cfg.Scopes, quota.Scope{Name: s.Name, Apps: s.Apps, Lanes: lanes, Limit: evenLimit(s.Rate)})
	}
	return cfg
}

// evenLimit spreads a rate over its time, in which no more than its count may pass; atOnce lets all of it come at once.
func evenLimit(r config.Rate) quota.Limit  { return quota.Limit{Rate: r.PerSecond(), Per: r.Per} }
func burstLimit(r config.Rate) quota.Limit { return quota.Limit{Rate: r.PerSecond(), Burst: r.Count} }
