// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// service is what all apps with one credential at one URL share: a pool, a budget of retries, a quota. Apple wants one
// team per connection, and one app's trouble must not move another's latency.
type service struct {
	name            string
	paths           []string // the blocks that send through it, such as apps.shop.apns
	cred            credential
	settings        settings
	pool            *pool.Pool
	resolver        pool.Resolver
	dial            func(context.Context, netip.AddrPort) (pool.Conn, error)
	budget          *retry.Budget
	throttler       *retry.AdaptiveThrottler
	adaptiveLimiter *delivery.AdaptiveLimiter
	unregistered    *delivery.UnregisteredCache
	environments    *delivery.EnvironmentCache // of tokens that its environment does not know
	rateLimiter     *quota.RateLimiter
	quotaID         string // names the quota that the gate guards, the same in every gateway

	fcmProvider *fcm.Provider      // of a service of Google's; nil elsewhere
	stop        context.CancelFunc // nil before it runs

	authorize func(context.Context) error // gets a token where there is none
	refresh   func(context.Context) error // keeps it fresh; nil where sending does so
}

// settings is what a block says about the service. Blocks that share a service must say the same.
type settings struct {
	platform       push.Platform
	base           config.Base
	endpoints      []config.Endpoint
	caFile         config.File
	pool           config.Pool
	quota          config.Allowance
	budget         config.Percent
	budgetFloor    config.Rate
	serializeFirst bool
	maxStreams     int
	maxResponse    int  // bytes; 0 is wire's default
	lazy           bool // until somebody sends through it; it joins a service that there is, whatever that one's settings
	publicOnly     bool // its name is not ours to choose, so its addresses must be public

	// What newService sets, for a reload has to see that it changed.
	roots           *x509.CertPool
	dnsServers      []string
	weights         map[string]int
	unregisteredTTL time.Duration
}

// equal reports whether a service with the one settings can do as one with the others.
func (s settings) equal(other settings) bool {
	same := s.roots.Equal(other.roots)
	s.roots, other.roots = nil, nil
	return same && reflect.DeepEqual(s, other)
}

// sameConnections reports whether a service with the one settings can become one with the others as it stands: quotas and
// weights change in place.
func (s settings) sameConnections(other settings) bool {
	s.quota, s.weights = other.quota, other.weights
	return s.equal(other)
}

// service returns the service for a credential and a URL, the same one for the same two.
func (b *builder) service(path string, cred credential, want settings, roots *x509.CertPool) (*service, error) {
	want = b.withGlobals(want, roots)
	for _, s := range b.services {
		if s.cred.id != cred.id || s.settings.base != want.base {
			continue
		}
		if !want.lazy && !s.settings.equal(want) {
			return nil, fmt.Errorf("config: %s: shares its credential, and so its pool, with %s: pool, quota, retry.budget, "+
				"retry.budget_floor, endpoints and ca_file must be the same in both", path, s.paths[0])
		}
		s.paths = append(s.paths, path)
		return s, nil
	}
	if known := b.current.service(cred.id, want); known != nil {
		s := *known
		s.paths, s.settings = []string{path}, want
		b.onCommit = append(b.onCommit, func() {
			s.rateLimiter.Reconfigure(quotaConfig(want.quota, want.weights))
			s.adaptiveLimiter.SetWeights(want.weights)
		})
		b.services = append(b.services, &s)
		return &s, nil
	}
	s, err := b.newService(path, cred, want)
	if err != nil {
		return nil, err
	}
	b.setRateLimiter(s)
	b.services = append(b.services, s)
	return s, nil
}

// metricsService is what the metrics show of the service.
func (s *service) metricsService() metrics.Service {
	w := metrics.Service{Pool: s.pool, RateLimiter: s.rateLimiter, AdaptiveLimiter: s.adaptiveLimiter, RejectionRate: s.throttler.RejectionRate}
	if len(s.cred.cert) > 0 {
		w.CertificateExpires = s.cred.cert[0].Leaf.NotAfter
	}
	return w
}

// withGlobals adds to a block's settings what is the whole configuration's.
func (b *builder) withGlobals(s settings, roots *x509.CertPool) settings {
	s.roots, s.dnsServers, s.weights, s.unregisteredTTL = roots, b.dnsServers, b.weights, b.unregisteredTTL
	return s
}

// connTimeout is for how long a service may not be heard; 0 leaves it to wire. Tests, whose machine may be busy, are patient.
var connTimeout time.Duration

func (b *builder) newService(path string, cred credential, want settings) (*service, error) {
	base, err := url.Parse(string(want.base))
	if err != nil {
		return nil, keyError(path, "url", err)
	}
	dial := dialer
	if want.platform == push.WebPush {
		dial = dialerWithHTTP1
	}
	s := &service{
		name: b.uniqueName(fmt.Sprintf("%s %s %s", want.platform, base.Host, cred.label), path), paths: []string{path}, cred: cred, settings: want,
		resolver: newResolver(base, want, b.dnsServers),
		dial: dial(wire.Config{
			Authority: base.Host, TLS: &tls.Config{RootCAs: want.roots, Certificates: cred.cert},
			SerializeFirst: want.serializeFirst, MaxStreams: want.maxStreams, MaxResponseBytes: want.maxResponse,
			DialTimeout: connTimeout, PingTimeout: connTimeout, WriteTimeout: connTimeout,
		}),
		budget: newBudget(want.budget, want.budgetFloor), throttler: newThrottler(want.budgetFloor), adaptiveLimiter: newAdaptiveLimiter(want.pool, b.weights),
		unregistered: newUnregisteredCache(b.unregisteredTTL), environments: &delivery.EnvironmentCache{},
	}
	if s.pool, err = pool.New(b.poolConfig(s, want.pool)); err != nil {
		return nil, keyError(path, "pool", err)
	}
	return s, nil
}

// setRateLimiter gives s the gate of its quota: the standing one, for a quota is not fresh because it is reached over new
// connections or with a renewed key.
func (b *builder) setRateLimiter(s *service) {
	of := cmp.Or(s.cred.quotaOwner, s.cred.id)
	s.quotaID = digest([]byte(s.settings.platform), []byte(s.settings.base), []byte(of))
	if slices.ContainsFunc(b.services, func(other *service) bool { return other.quotaID == s.quotaID }) {
		s.quotaID = digest([]byte(s.quotaID), []byte(s.cred.id))
	}
	cfg := quotaConfig(s.settings.quota, s.settings.weights)
	if s.rateLimiter = b.current.rateLimiter(s.quotaID); s.rateLimiter == nil {
		s.rateLimiter = quota.New(cfg)
		return
	}
	gate := s.rateLimiter
	b.onCommit = append(b.onCommit, func() { gate.Reconfigure(cfg) })
}

// uniqueName returns a service's name, with the path of its first block where another has that name already: two accounts of
// one project are two services.
func (b *builder) uniqueName(name, path string) string {
	if slices.ContainsFunc(b.services, func(s *service) bool { return s.name == name }) {
		return name + " of " + path
	}
	return name
}

func (b *builder) poolConfig(s *service, c config.Pool) pool.Config {
	return pool.Config{
		Name: s.name, Lazy: s.settings.lazy, Size: c.Size, ConnsPerEndpoint: c.Connections, MaxInFlight: c.InFlight, MaxAge: c.MaxAge, MaxEjected: float64(c.MaxEjected),
		FailFast: c.FailFast, Picker: pickers[c.Picker], Resolver: s.resolver, Dial: s.dial, Logger: b.log, Observe: b.metrics.Observe,
		Breaker: pool.Breaker{
			ConsecutiveFailures: c.Breaker.Consecutive, FailureRate: float64(c.Breaker.FailureRate), MinOutcomes: c.Breaker.MinOutcomes,
			Window: c.Breaker.Window, BaseEjectionTime: c.Breaker.Ejection, MaxEjectionTime: c.Breaker.MaxEjection, ProbeTimeout: c.Breaker.ProbeTimeout,
		},
		Outlier: pool.Outlier{
			Disabled: c.Outlier.Off, MinEndpoints: c.Outlier.MinEndpoints, MinOutcomes: c.Outlier.MinOutcomes,
			MinFailureRate: float64(c.Outlier.MinFailures), SlowFactor: float64(c.Outlier.SlowFactor), SlowBy: c.Outlier.SlowBy,
		},
	}
}

var pickers = map[string]pool.Picker{"round_robin": pool.RoundRobin{}, "least_loaded": pool.LeastLoaded{}}

// newUnregisteredCache returns what remembers dead tokens, nil where none are to be.
func newUnregisteredCache(keep time.Duration) *delivery.UnregisteredCache {
	if keep == 0 {
		return nil
	}
	return &delivery.UnregisteredCache{TTL: keep}
}

// newAdaptiveLimiter starts at four times what the pool can have in flight, for a cold start has to wait, and never shrinks below
// what it can and a quarter more.
func newAdaptiveLimiter(c config.Pool, weights map[string]int) *delivery.AdaptiveLimiter {
	capacity := c.Size * c.InFlight
	return &delivery.AdaptiveLimiter{InitialLimit: max(4*capacity, 64), MinLimit: max(capacity*5/4, 64), MaxLimit: max(8*capacity, 10_000), Weights: weights}
}

func dialer(cfg wire.Config) func(context.Context, netip.AddrPort) (pool.Conn, error) {
	return func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
		conn, err := wire.Dial(ctx, addr, cfg)
		if err != nil {
			return nil, err // not a nil *wire.Conn in an interface
		}
		return conn, nil
	}
}

// run runs what the service needs until ctx ends.
func (s *service) run(ctx context.Context) error {
	var all errgroup.Group
	all.Go(func() error { return s.pool.Run(ctx) })
	if s.refresh != nil {
		all.Go(func() error { return s.refresh(ctx) })
	}
	return all.Wait()
}

// newResolver returns where a service's addresses come from. Those of Apple and Google are asked from DNS with their TTLs, and
// must be public: whoever can poison DNS must not make us connect to machines of our own network. A stand-in's name may be
// one that only this machine knows, unless servers are configured.
func newResolver(base *url.URL, want settings, servers []string) pool.Resolver {
	host, port := base.Hostname(), portOf(base)
	if len(want.endpoints) > 0 {
		addrs := make(pool.Static, len(want.endpoints))
		for i, e := range want.endpoints {
			addrs[i] = e.AddrPort
		}
		return addrs
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return pool.Static{netip.AddrPortFrom(ip, port)}
	}
	isPublic := want.publicOnly || strings.HasSuffix(host, ".push.apple.com") || host == "fcm.googleapis.com"
	asks := len(servers) > 0 || isPublic && runtime.GOOS != "windows" // which has no resolv.conf
	var r pool.Resolver = pool.System{Host: host, Port: port}
	if asks {
		r = pool.DNS{Host: host, Port: port, Servers: servers}
	}
	if isPublic {
		r = pool.PublicOnly(r)
	}
	return r
}

// portOf returns the port of an https URL; config has checked it.
func portOf(base *url.URL) uint16 {
	port, err := strconv.ParseUint(base.Port(), 10, 16)
	if err != nil {
		return 443
	}
	return uint16(port)
}
