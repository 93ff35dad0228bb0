// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// service is one credential at one URL of a provider, with its pool, limits and retry budget. All
// apps with that credential and URL share it. Other credentials have their own, because Apple
// allows one team per connection, and failures of one credential must not delay the notifications
// of another.
type service struct {
	name            string
	paths           []string // the configuration blocks that use it, such as apps.shop.apns
	cred            credential
	settings        settings
	log             *slog.Logger
	pool            *pool.Pool
	resolver        pool.Resolver
	dial            func(context.Context, netip.AddrPort) (pool.Conn, error)
	budget          *retry.Budget
	throttler       *retry.AdaptiveThrottler
	adaptiveLimiter *delivery.AdaptiveLimiter
	unregistered    *delivery.UnregisteredCache
	environments    *delivery.EnvironmentCache // of tokens that this environment has refused
	rateLimiter     *quota.RateLimiter
	quotaID         string // identifies the quota; the same in every gateway

	fcmProvider *fcm.Provider // nil for other platforms
	background  *background

	authorize func(context.Context) error // gets a token if there is none
	refresh   func(context.Context) error // renews the token in the background; nil if sending renews it
}

// settings are the settings of a service. Blocks that share a service must have equal settings.
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
	maxResponse    int  // in bytes; 0 is the default of package wire
	lazy           bool // secondary: connects on first use, and shares an existing service whatever its settings
	publicOnly     bool // the host name is untrusted, so its addresses must be public

	// Set by withGlobals, so that a reload detects changes.
	roots           *x509.CertPool
	dnsServers      []string
	unregisteredTTL time.Duration
}

// equal reports whether two blocks with these settings can share a service.
func (s settings) equal(other settings) bool {
	same := s.roots.Equal(other.roots)
	s.roots, other.roots = nil, nil
	return same && reflect.DeepEqual(s, other)
}

// sameConnections reports whether a service can change from one settings to the other without new
// connections. Quotas change in place.
func (s settings) sameConnections(other settings) bool {
	s.quota = other.quota
	return s.equal(other)
}

// service returns the service for a credential and a URL. Blocks with the same credential and URL
// get the same service.
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
	if current := b.current.service(cred.id, want); current != nil {
		s := *current
		s.paths, s.settings = []string{path}, want
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

// metricsService returns what the metrics show of the service.
func (s *service) metricsService() metrics.Service {
	w := metrics.Service{Pool: s.pool, RateLimiter: s.rateLimiter, AdaptiveLimiter: s.adaptiveLimiter, RejectionRate: s.throttler.RejectionRate}
	if len(s.cred.cert) > 0 {
		w.CertificateExpires = s.cred.cert[0].Leaf.NotAfter
	}
	return w
}

// metricsServices returns what the metrics show of all services.
func (g *Gateway) metricsServices() (all []metrics.Service) {
	for _, s := range g.current.Load().allServices() {
		all = append(all, s.metricsService())
	}
	return all
}

// withGlobals adds the settings that are not part of a block.
func (b *builder) withGlobals(s settings, roots *x509.CertPool) settings {
	s.roots, s.dnsServers, s.unregisteredTTL = roots, b.dnsServers, b.unregisteredTTL
	return s
}

// connTimeout is the timeout for dialing, pings and writes; 0 is the default of package wire. Tests
// set a higher one, because they may run on a busy machine.
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
		name: b.uniqueName(fmt.Sprintf("%s %s %s", want.platform, base.Host, cred.label), cred), paths: []string{path}, cred: cred, settings: want, log: b.log,
		resolver: newResolver(base, want, b.dnsServers),
		dial: dial(wire.Config{
			Authority: base.Host, TLS: &tls.Config{RootCAs: want.roots, Certificates: cred.cert},
			SerializeFirst: want.serializeFirst, MaxStreams: want.maxStreams, MaxResponseBytes: want.maxResponse,
			MaxWaiting:  -1, // requests wait for a lease of the pool, which can choose another endpoint
			DialTimeout: connTimeout, PingTimeout: connTimeout, WriteTimeout: connTimeout,
		}),
		budget: newBudget(want.budget, want.budgetFloor), throttler: newThrottler(want.budgetFloor), adaptiveLimiter: newAdaptiveLimiter(want.pool, b.weights),
		unregistered: newUnregisteredCache(b.unregisteredTTL), environments: &delivery.EnvironmentCache{}, background: &background{},
	}
	if s.pool, err = pool.New(b.poolConfig(s, want.pool)); err != nil {
		return nil, keyError(path, "pool", err)
	}
	if s.runsFromStart() {
		s.background.start(s.run)
	}
	return s, nil
}

// setRateLimiter sets the rate limiter of s. It reuses that of the current snapshot, because new
// connections or a renewed key do not renew a quota.
func (b *builder) setRateLimiter(s *service) {
	owner := cmp.Or(s.cred.quotaOwner, s.cred.id)
	s.quotaID = digest([]byte(s.settings.platform), []byte(s.settings.base), []byte(owner))
	if slices.ContainsFunc(b.services, func(other *service) bool { return other.quotaID == s.quotaID }) {
		s.quotaID = digest([]byte(s.quotaID), []byte(s.cred.id))
	}
	if s.rateLimiter = b.current.rateLimiter(s.quotaID); s.rateLimiter == nil {
		s.rateLimiter = quota.New(quotaConfig(s.settings.quota, b.weights))
	}
}

// uniqueName returns name, or name with a digest of the credential if another service has it. Two
// accounts of one project, for example, are two services. The name does not contain an app's name,
// because all apps that share the service see it.
func (b *builder) uniqueName(name string, cred credential) string {
	if slices.ContainsFunc(b.services, func(s *service) bool { return s.name == name }) {
		return name + " " + cred.id[:8]
	}
	return name
}

func (b *builder) poolConfig(s *service, c config.Pool) pool.Config {
	return pool.Config{
		Name: s.name, OnDemand: s.onDemand(), IdleTimeout: c.IdleTimeout, Size: c.Size, ConnsPerEndpoint: c.Connections, MaxInFlight: c.InFlight, MaxAge: c.MaxAge, MaxEjected: float64(c.MaxEjected),
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

// newUnregisteredCache returns a cache of unregistered tokens, or nil if ttl is 0.
func newUnregisteredCache(ttl time.Duration) *delivery.UnregisteredCache {
	if ttl == 0 {
		return nil
	}
	return &delivery.UnregisteredCache{TTL: ttl}
}

// newAdaptiveLimiter returns a limiter that starts at four times the capacity of the pool, because
// notifications wait during a cold start. Its limit never falls below 5/4 of the capacity.
func newAdaptiveLimiter(c config.Pool, weights map[string]int) *delivery.AdaptiveLimiter {
	capacity := c.Size * c.InFlight
	return &delivery.AdaptiveLimiter{
		InitialLimit: max(4*capacity, 64), MinLimit: max(capacity*5/4, 64), MaxLimit: max(8*capacity, 10_000), Leases: capacity, Weights: weights,
	}
}

func dialer(cfg wire.Config) func(context.Context, netip.AddrPort) (pool.Conn, error) {
	return func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
		conn, err := wire.Dial(ctx, addr, cfg)
		if err != nil {
			return nil, err // conn would be a non-nil interface with a nil pointer
		}
		return conn, nil
	}
}

// runsFromStart reports whether the service connects before it is used.
func (s *service) runsFromStart() bool { return s.settings.pool.IdleTimeout == 0 && !s.settings.lazy }

// onDemand returns what starts the service when it is used, or nil if it runs from the start.
func (s *service) onDemand() func() {
	if s.runsFromStart() {
		return nil
	}
	return func() { s.background.start(s.run) }
}

// run runs the pool and the token renewal until ctx ends or the pool is idle.
func (s *service) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var renewal errgroup.Group
	if s.refresh != nil {
		renewal.Go(func() error { return panics.Restart(ctx, s.log, s.name+": token renewal", s.refresh) })
	}
	err := panics.Recover(s.log, s.name, func() error { return s.pool.Run(ctx) }) // a pool restarts its own work
	cancel()
	return errors.Join(err, renewal.Wait())
}

// newResolver returns the resolver of a service. Apple's and Google's names are resolved by DNS
// with TTLs, and their addresses must be public, so that an attacker who can spoof DNS cannot make
// the gateway connect to internal machines. The name of a mock is resolved by the system, unless
// name servers are configured.
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
	useDNS := len(servers) > 0 || isPublic && runtime.GOOS != "windows" // Windows has no resolv.conf
	var r pool.Resolver = pool.System{Host: host, Port: port}
	if useDNS {
		r = pool.DNS{Host: host, Port: port, Servers: servers}
	}
	if isPublic {
		r = pool.PublicOnly(r)
	}
	return r
}

// portOf returns the port of an https URL that config has validated.
func portOf(base *url.URL) uint16 {
	port, err := strconv.ParseUint(base.Port(), 10, 16)
	if err != nil {
		return 443
	}
	return uint16(port)
}
