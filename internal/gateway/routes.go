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

// builder builds the routes of all apps and providers from a configuration. Routes with the same
// credential share a service.
type builder struct {
	log             *slog.Logger
	metrics         *metrics.Metrics
	dnsServers      []string // empty for the system's
	signers         map[string]*apns.Signer
	fcmProviders    map[string]*fcm.Provider
	services        []*service
	originRouters   []*originRouter
	table           delivery.Table
	channels        channelManagers
	appWebhooks     []*appWebhook
	storage         *storage
	deferred        []func() error // run after all apps have been added
	weights         map[string]int
	unregisteredTTL time.Duration
	concurrency     *delivery.ConcurrencyLimit
	current         *snapshot // whose services can be reused; nil at the start
	errs            []error
}

// buildRoutes builds a route for every app and provider. It reads key files and starts nothing. The
// error names every invalid configuration key.
func buildRoutes(cfg *config.Config, g *Gateway, current *snapshot) (*builder, error) {
	b := &builder{
		log: g.log, metrics: g.metrics, concurrency: g.concurrency, storage: g.storage, current: current, unregisteredTTL: cfg.Limits.UnregisteredTTL,
		signers: map[string]*apns.Signer{}, fcmProviders: map[string]*fcm.Provider{}, table: delivery.Table{}, channels: channelManagers{}, weights: map[string]int{},
	}
	for _, server := range cfg.DNS.Servers {
		b.dnsServers = append(b.dnsServers, server.String())
	}
	for name, app := range cfg.Apps {
		if app.Weight != 1 { // so that adding an app does not change the settings of the others
			b.weights[name] = app.Weight
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		b.addApp(name, cfg.Apps[name])
		b.addWebhooks(name, cfg.Apps[name].Webhooks)
	}
	for _, build := range b.deferred {
		if err := build(); err != nil {
			b.errs = append(b.errs, err)
		}
	}
	return b, errors.Join(b.errs...)
}

func (b *builder) addApp(name string, app *config.App) {
	routes := map[push.Platform]*delivery.Route{}
	path := "apps." + name
	senders := map[push.Platform]delivery.Sender{}
	if app.APNs != nil {
		e, err := b.buildAPNs(name, app.APNs)
		if err != nil {
			b.errs = append(b.errs, err)
		} else {
			senders[push.APNs] = e
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
			senders[push.WebPush], b.originRouters = o, append(b.originRouters, o)
		}
	}
	for platform, route := range routes {
		route.Observer = b.metrics.Route(name, platform)
		senders[platform] = route
	}
	b.table[name] = senders
}

func (b *builder) addRoute(routes map[push.Platform]*delivery.Route, platform push.Platform, route func() (*delivery.Route, error)) {
	r, err := route()
	if err != nil {
		b.errs = append(b.errs, err)
		return
	}
	routes[platform] = r
}

// maxFCMStreams is the maximum number of concurrent requests on a connection to FCM, which closes a
// connection with more.
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
		Provider: provider, Unregistered: s.unregistered,
		Executor: &delivery.Executor{
			Pool: s.pool, Budget: s.budget, Throttler: s.throttler, RateLimiter: s.rateLimiter, ConcurrencyLimit: b.concurrency,
			AdaptiveLimiter: s.adaptiveLimiter, Logger: b.log,
			Retry: retry.Policy{
				Attempts: r.Attempts, AttemptTimeout: r.AttemptTimeout, Transient: r.Backoff, Throttled: r.ThrottledBackoff,
				Cap: r.MaxBackoff, RetryAfter: retry.Strategy(r.RetryAfter), MaxRetryAfter: r.MaxRetryAfter, Rules: retryRules(r.Rules),
			},
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

// ruleVerdicts are the verdicts that a rule can match; 0 matches every verdict.
var ruleVerdicts = map[string]push.Verdict{
	"": 0, "throttled": push.Throttled, "unauthorized": push.Unauthorized, "unavailable": push.Unavailable, "unknown": push.Unknown,
}

// zeroToNone returns -1 for 0. In the configuration 0 means none, but in other packages it means
// the default.
func zeroToNone(v float64) float64 {
	if v == 0 {
		return -1
	}
	return v
}

func newBudget(ratio config.Percent, floor config.Rate) *retry.Budget {
	return &retry.Budget{Ratio: zeroToNone(float64(ratio)), PerSecond: floor.PerSecond()}
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

// evenLimit returns a limit that is spread evenly, so that no interval has more than the count of
// r. burstLimit returns a limit that allows the whole count as a burst.
func evenLimit(r config.Rate) quota.Limit  { return quota.Limit{Rate: r.PerSecond(), Per: r.Per} }
func burstLimit(r config.Rate) quota.Limit { return quota.Limit{Rate: r.PerSecond(), Burst: r.Count} }
