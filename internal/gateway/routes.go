// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/webpush"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
)

var (
	_ delivery.Provider = (*apns.Provider)(nil)
	_ delivery.Replacer = (*fcm.Provider)(nil)
	_ delivery.Provider = (*webpush.Provider)(nil)
)

// builder builds a snapshot. Blocks with the same credential share a service.
type builder struct {
	*Gateway
	next, previous       *snapshot // previous is empty at the start
	index, previousIndex *index
	errs                 []error
}

// buildSnapshot builds a snapshot for cfg. It reads the files that cfg refers to, and reuses what it
// can of the previous snapshot, which is empty at the start. It starts and changes nothing, so that
// there is nothing to undo after an error. The error names every invalid configuration key.
func (g *Gateway) buildSnapshot(cfg *config.Config, previous *snapshot) (*snapshot, error) {
	names := slices.Sorted(maps.Keys(cfg.Apps))
	read, contents, err := readApps(cfg, names, cmp.Or(previous.files, &files{}), g.log)
	if err != nil {
		return nil, err
	}
	next := &snapshot{
		cfg: cfg, weights: map[string]int{}, files: contents, table: make(delivery.Table, len(names)), apple: make(map[string]*apnsApp, len(names)), google: map[string]*fcmApp{},
		webhooks: map[string]*appWebhook{},
	}
	for name, app := range cfg.Apps {
		if app.Weight != 1 { // so that adding an app does not change the settings of the others
			next.weights[name] = app.Weight
		}
	}
	b := &builder{Gateway: g, next: next, previous: previous, index: newIndex(nil), previousIndex: newIndex(previous.services)}
	for i, name := range names {
		b.addApp(name, cfg.Apps[name], &read[i])
		b.addWebhooks(name, cfg.Apps[name].Webhooks, contents)
	}
	for i, name := range names { // after the services that apps use by default, to share those
		if a := next.apple[name]; a != nil {
			b.addSecondary(a, &read[i].apns)
		}
	}
	if next.traceExport, err = b.newTraceExport(&cfg.Tracing); err != nil {
		b.errs = append(b.errs, err)
	}
	if next.keys, err = encryptionKeys(cfg); err != nil {
		b.errs = append(b.errs, err)
	}
	for i, block := range cfg.TLSBlocks() {
		if next.tls[i], err = contents.listenerTLS(block.Path, block.TLS); err != nil {
			b.errs = append(b.errs, err)
		}
	}
	if next.issuers, next.signIns, err = g.tokenIssuers(cfg, contents); err != nil {
		return nil, errors.Join(append(b.errs, err)...)
	}
	contents.release()
	if next.auth, err = newAuthenticator(cfg, next.issuers, next.signIns, previous.auth); err != nil {
		return nil, errors.Join(append(b.errs, fmt.Errorf("config: %w", err))...)
	}
	if next.api, err = g.newAPI(cfg, next.auth); err != nil {
		b.errs = append(b.errs, fmt.Errorf("config: %w", err))
	}
	return next, errors.Join(b.errs...)
}

// addApp adds the senders of an app, and its services except for secondary ones.
func (b *builder) addApp(name string, app *config.App, read *appFiles) {
	senders := map[push.Platform]delivery.Sender{}
	add := func(platform push.Platform, sender delivery.Sender, err error) {
		if err != nil {
			b.errs = append(b.errs, err)
			return
		}
		senders[platform] = sender
	}
	if app.APNs != nil {
		a, err := b.newAPNsApp(name, app.APNs, &read.apns)
		add(push.APNs, delivery.Lazy(sync.OnceValue(a.sender)), err)
		if err == nil {
			b.next.apple[name] = a
		}
	}
	if app.FCM != nil {
		a, err := b.newFCMApp(name, app.FCM, &read.fcm)
		add(push.FCM, delivery.Lazy(sync.OnceValue(a.sender)), err)
		if err == nil {
			b.next.google[name] = a
		}
	}
	if app.WebPush != nil {
		o, err := b.newOriginRouter(name, app.WebPush, &read.webPush)
		add(push.WebPush, o, err)
		if err == nil {
			b.next.originRouters = append(b.next.originRouters, o)
		}
	}
	b.next.table[name] = senders
}

// route returns a route to the service.
func (s *service) route(provider delivery.Provider, r *config.Retry, observer delivery.Observer) *delivery.Route {
	u := s.open()
	observer.Ended = u.outage.observe(observer.Ended)
	return &delivery.Route{
		Provider: provider, Unregistered: u.unregistered,
		Executor: &delivery.Executor{
			Pool: u.pool, Budget: u.budget, Throttler: u.throttler, RateLimiter: u.rateLimiter, ConcurrencyLimit: s.g.concurrency,
			Observer: observer, Logger: s.g.log,
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
