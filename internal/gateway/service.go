// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/proxy"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// service is one credential at one URL of a provider. All apps with that credential and URL share
// it. Other credentials have their own, because Apple allows one team per connection, and failures
// of one credential must not delay the notifications of another. Snapshots share a service that a
// reload does not change. Its pool and limits are created on first use: most apps of a large
// gateway are idle, and each has up to four services at Apple alone.
type service struct {
	g        *Gateway
	name     string // of the pool
	cred     *credential
	settings *settings // equal ones are shared
	provider authorizer
	quotaID  string // identifies the quota; the same in every gateway
	limiter  *limiter
	upstream atomic.Pointer[upstream] // nil before the first use

	mu      sync.Mutex // guards the creation of upstream and the fields below
	weights map[string]int
	stop    context.CancelFunc // ends the background work; nil before the first start
	ctx     context.Context    // of the background work
}

// authorizer gets an access token if there is none. All providers implement it.
type authorizer interface {
	Authorize(ctx context.Context) error
}

// upstream is the pool of a service and what limits the use of it.
type upstream struct {
	pool         *pool.Pool
	resolver     pool.Resolver
	way          byProxy
	dial         func(context.Context, netip.AddrPort) (pool.Conn, error)
	budget       *retry.Budget
	throttler    *retry.AdaptiveThrottler
	unregistered *delivery.UnregisteredCache
	environments *delivery.EnvironmentCache // of tokens that this environment has refused
	replacements *delivery.ReplacementCache
	rateLimiter  *quota.RateLimiter
	outage       *outage
	refresh      func(context.Context) error // renews the token in the background; nil if sending renews it
}

// settings are what the connections and limits of a service depend on, except for quotas and app
// weights, which change in place. Blocks that share a service must have equal settings.
type settings struct {
	platform        push.Platform
	purpose         string // of a service of its own at a URL that another service has; empty for notifications
	base            config.Base
	endpoints       string // ip:port, separated by commas; empty for those of DNS
	roots           *rootCAs
	proxy           *proxy.Proxy
	pool            config.Pool
	budget          config.Percent
	budgetFloor     config.Rate
	serializeFirst  bool
	maxStreams      int
	maxResponse     int  // in bytes; 0 is the default of package wire
	lazy            bool // secondary: connects on first use, and shares an existing service whatever its settings
	publicOnly      bool // the host name is untrusted, so its addresses must be public
	dnsServers      string
	unregisteredTTL time.Duration
}

// usedService is a service in a snapshot.
type usedService struct {
	*service
	paths []string // the configuration blocks that use it, such as apps.shop.apns
	quota *config.Allowance
}

// limiter is the rate limiter of a quota, which is created on first use. New connections or a
// renewed key do not renew a quota: the service that replaces another has the same limiter.
type limiter struct {
	parent *limiter    // of the credential, for one of several push services of browsers; else nil
	limit  quota.Limit // of such a service

	mu      sync.Mutex
	quota   *config.Allowance
	weights map[string]int
	created *quota.RateLimiter // nil before the first use
}

// get returns the rate limiter. It creates it on first use.
func (l *limiter) get() *quota.RateLimiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.created == nil {
		l.created = l.create()
	}
	return l.created
}

// status returns the state of the rate limiter, without creating it.
func (l *limiter) status() quota.Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.created == nil {
		return l.create().Status()
	}
	return l.created.Status()
}

func (l *limiter) create() *quota.RateLimiter {
	if l.parent != nil {
		return l.parent.get().Service(l.limit)
	}
	return quota.New(quotaConfig(*l.quota, l.weights))
}

// reconfigure changes the quota and the app weights.
func (l *limiter) reconfigure(allowance *config.Allowance, weights map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quota, l.weights = allowance, weights
	if l.created != nil {
		l.created.Reconfigure(quotaConfig(*allowance, weights))
	}
}

// serviceID identifies a service in a configuration.
type serviceID struct {
	cred, purpose string
	base          config.Base
}

// index finds services and what they share.
type index struct {
	services map[serviceID]*usedService
	limiters map[string]*limiter // by ID of the quota
	settings map[settings]*settings
	pools    map[string]bool // by name
}

func newIndex(services []*usedService) *index {
	n := len(services)
	x := &index{make(map[serviceID]*usedService, n), make(map[string]*limiter, n), map[settings]*settings{}, make(map[string]bool, n)}
	for _, s := range services {
		x.add(s)
	}
	return x
}

func (x *index) add(s *usedService) {
	x.services[serviceID{s.cred.id, s.settings.purpose, s.settings.base}] = s
	x.limiters[s.quotaID], x.settings[*s.settings], x.pools[s.name] = s.limiter, s.settings, true
}

// service returns the service for a credential and a URL. Blocks with the same credential and URL
// get the same service.
func (b *builder) service(path string, cred *credential, want settings, allowance *config.Allowance, provider authorizer) (s *service, err error) {
	want.dnsServers, want.unregisteredTTL = joinAddrs(b.next.cfg.DNS.Servers), b.next.cfg.Limits.UnregisteredTTL
	id := serviceID{cred.id, want.purpose, want.base}
	used := b.index.services[id]
	if used == nil {
		used = &usedService{quota: allowance}
		if was := b.previousIndex.services[id]; was != nil && *was.settings == want {
			used.service = was.service
		} else if used.service, err = b.newService(cred, want, allowance, provider); err != nil {
			return nil, keyError(path, "pool", err)
		}
		b.index.add(used)
		b.next.services = append(b.next.services, used)
	}
	if !want.lazy && (*used.settings != want || !reflect.DeepEqual(used.quota, allowance)) {
		return nil, fmt.Errorf("config: %s: shares its credential, and so its pool, with %s: pool, quota, retry.budget, "+
			"retry.budget_floor, endpoints, ca_file and proxy must be the same in both", path, used.paths[0])
	}
	if len(used.paths) == 0 || used.paths[len(used.paths)-1] != path { // one block can use it twice
		used.paths = append(used.paths, path)
	}
	return used.service, nil
}

// newService returns a service with the limiter of the service that it replaces, if there is one. Two
// accounts of one project, for example, are two services, whose names and quotas differ by a digest of
// the account. The name does not contain an app's name, because all apps that share the service see
// it.
func (b *builder) newService(cred *credential, want settings, allowance *config.Allowance, provider authorizer) (*service, error) {
	shared := cmp.Or(b.index.settings[want], b.previousIndex.settings[want])
	if shared == nil {
		shared = new(want)
		if err := shared.validate(); err != nil {
			return nil, err
		}
	}
	s := &service{
		g: b.Gateway, name: shared.poolName(cred.label), cred: cred, settings: shared, provider: provider, weights: b.next.weights,
		quotaID: digest([]byte(want.platform), []byte(want.base), []byte(cmp.Or(cred.quotaOwner, cred.id))),
	}
	if want.purpose != "" {
		s.quotaID = digest([]byte(s.quotaID), []byte(want.purpose))
	}
	if b.index.pools[s.name] {
		s.name += " " + cred.id[:8]
	}
	if b.index.limiters[s.quotaID] != nil {
		s.quotaID = digest([]byte(s.quotaID), []byte(cred.id))
	}
	s.limiter = cmp.Or(b.previousIndex.limiters[s.quotaID], &limiter{quota: allowance, weights: b.next.weights})
	return s, nil
}

// validate returns the error that prevents the use of the settings.
func (s *settings) validate() error {
	if _, err := url.Parse(string(s.base)); err != nil {
		return err
	}
	cfg := s.poolConfig()
	cfg.Resolver, cfg.Dial = pool.Static{}, dialer(wire.Config{})
	_, err := pool.New(cfg)
	return err
}

// poolName returns the name of a pool: platform, host, label and purpose.
func (s *settings) poolName(label string) string {
	name := string(s.platform) + " " + strings.TrimPrefix(string(s.base), "https://") + " " + label
	if s.purpose != "" {
		name += " " + s.purpose
	}
	return name
}

// connTimeout is the timeout for dialing, pings and writes; 0 is the default of package wire. Tests
// set a higher one, because they may run on a busy machine.
var connTimeout time.Duration

// open returns the pool and the limits of the service. It creates them on first use.
func (s *service) open() *upstream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openLocked()
}

// openLocked is open for a caller that holds s.mu.
func (s *service) openLocked() *upstream {
	if s.upstream.Load() == nil {
		s.upstream.Store(s.newUpstream(s.limiter.get()))
	}
	return s.upstream.Load()
}

// newUpstream returns the pool and the limits of the service. s.mu is held.
func (s *service) newUpstream(limiter *quota.RateLimiter) *upstream {
	base, err := url.Parse(string(s.settings.base))
	if err != nil {
		panic("gateway: " + err.Error()) // validate has parsed it
	}
	dial := dialer
	if s.settings.platform == push.WebPush {
		dial = dialerWithHTTP1
	}
	way := s.settings.way(base)
	tlsConfig := &tls.Config{RootCAs: s.settings.roots.certPool()}
	if s.cred.cert != nil {
		tlsConfig.Certificates = []tls.Certificate{*s.cred.cert}
	}
	u := &upstream{
		resolver: s.settings.resolver(base, way), way: way,
		dial: dial(wire.Config{
			Authority: base.Host, TLS: tlsConfig, DialContext: way.dialContext(),
			SerializeFirst: s.settings.serializeFirst, MaxStreams: s.settings.maxStreams, MaxResponseBytes: s.settings.maxResponse,
			MaxWaiting:  -1, // requests wait for a lease of the pool, which can choose another endpoint
			DialTimeout: connTimeout, PingTimeout: connTimeout, WriteTimeout: connTimeout,
		}),
		budget:       &retry.Budget{Ratio: zeroToNone(float64(s.settings.budget)), PerSecond: s.settings.budgetFloor.PerSecond()},
		throttler:    &retry.AdaptiveThrottler{PerSecond: s.settings.budgetFloor.PerSecond()},
		rateLimiter:  limiter,
		unregistered: newUnregisteredCache(s.settings.unregisteredTTL), environments: &delivery.EnvironmentCache{},
		replacements: &delivery.ReplacementCache{},
	}
	if s.cred.fcm != nil && s.settings.purpose == "" {
		u.refresh = s.cred.fcm.Run
	}
	cfg := s.settings.poolConfig()
	cfg.Limiter = newAdaptiveLimiter(s.settings.pool, s.weights)
	cfg.Name, cfg.Resolver, cfg.Dial, cfg.Observe = s.name, u.resolver, u.dial, u.observe(s.g.metrics.Observe)
	cfg.Logger = slog.New(debugHandler{s.g.log.Handler()})
	if way.target != "" {
		cfg.EndpointName = way.endpointName
	}
	if !s.settings.runsFromStart() {
		cfg.OnDemand = s.start
	}
	if u.pool, err = pool.New(cfg); err != nil {
		panic("gateway: " + err.Error()) // validate has called it
	}
	u.outage = &outage{pool: u.pool, name: s.name, throttler: u.throttler, log: s.g.log}
	return u
}

// observe returns the observer of the pool. It does not wait for the next check of the outage if no
// endpoint can be reached.
func (u *upstream) observe(count func(pool.Event)) func(pool.Event) {
	return func(e pool.Event) {
		count(e)
		if e.Kind == pool.EventUnreachable {
			u.outage.check(e.Time)
		}
	}
}

// metricsServices returns what the metrics show of all services that are in use.
func (g *Gateway) metricsServices() (all []metrics.Service) {
	for _, s := range g.current.Load().allServices() {
		u := s.upstream.Load()
		if u == nil {
			continue
		}
		w := metrics.Service{Pool: u.pool, RateLimiter: u.rateLimiter, RejectionRate: u.throttler.RejectionRate, Unavailable: u.outage.active.Load}
		if s.cred.cert != nil {
			w.CertificateExpires = s.cred.cert.Leaf.NotAfter
		}
		all = append(all, w)
	}
	return all
}

// reconfigure changes the app weights in place.
func (s *service) reconfigure(weights map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weights = weights
	if u := s.upstream.Load(); u != nil {
		u.pool.Limiter().SetWeights(weights)
	}
}

func (s *settings) poolConfig() pool.Config {
	c := s.pool
	return pool.Config{
		IdleTimeout: c.IdleTimeout, Size: c.Size, ConnsPerEndpoint: c.Connections, MaxInFlight: c.InFlight, MaxAge: c.MaxAge, MaxEjected: float64(c.MaxEjected),
		FailFast: c.FailFast, Picker: pickers[c.Picker],
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
func newAdaptiveLimiter(c config.Pool, weights map[string]int) *pool.AdaptiveLimiter {
	capacity := c.Size * c.InFlight
	return &pool.AdaptiveLimiter{
		InitialLimit: max(4*capacity, 64), MinLimit: max(capacity*5/4, 64), MaxLimit: max(8*capacity, 10_000), Weights: weights,
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
func (s *settings) runsFromStart() bool { return s.pool.IdleTimeout == 0 && !s.lazy }

// start runs the background work in a goroutine. If the service runs from the start, only the first
// call does, and the pool exists when it returns: a gateway is not ready before that pool is.
func (s *service) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.settings.runsFromStart() {
		s.openLocked()
	}
	switch {
	case s.ctx == nil:
		s.ctx, s.stop = context.WithCancel(s.g.background.ctx)
	case s.settings.runsFromStart():
		return
	}
	s.g.background.start(func(context.Context) error { return s.run(s.ctx) })
}

// end ends the background work.
func (s *service) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
}

// run runs the pool, the watch for outages and the token renewal until ctx ends or the pool is
// idle. An error while the gateway runs is only logged.
func (s *service) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	u, log := s.open(), s.g.log
	var others errgroup.Group
	others.Go(func() error { return panics.Restart(ctx, log, s.name+": outage", u.outage.watch) })
	if u.refresh != nil {
		others.Go(func() error { return panics.Restart(ctx, log, s.name+": token renewal", u.refresh) })
	}
	err := panics.Recover(log, s.name, func() error { return u.pool.Run(ctx) }) // a pool restarts its own work
	cancel()
	err = errors.Join(err, others.Wait())
	if err != nil && s.g.background.ctx.Err() == nil {
		log.Warn("background work failed", "service", s.name, "err", err)
		return nil
	}
	return err
}

// resolver returns the resolver of a service. Apple's and Google's names are resolved by DNS
// with TTLs, and their addresses must be public, so that an attacker who can spoof DNS cannot make
// the gateway connect to internal machines. The name of a mock is resolved by the system, unless
// name servers are configured. A name that a proxy resolves is not resolved here.
func (s *settings) resolver(base *url.URL, way byProxy) pool.Resolver {
	if way.target != "" {
		return way.slots(s.pool.Size)
	}
	host, port := base.Hostname(), portOf(base)
	if s.endpoints != "" {
		var addrs pool.Static
		for addr := range strings.SplitSeq(s.endpoints, ",") {
			addrs = append(addrs, netip.MustParseAddrPort(addr)) // config has validated it
		}
		return addrs
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return pool.Static{netip.AddrPortFrom(ip, port)}
	}
	isPublic := s.publicOnly || strings.HasSuffix(host, ".push.apple.com") || host == "fcm.googleapis.com"
	useDNS := s.dnsServers != "" || isPublic && runtime.GOOS != "windows" // Windows has no resolv.conf
	var r pool.Resolver = pool.System{Host: host, Port: port}
	if useDNS {
		servers := pool.DNS{Host: host, Port: port}
		if s.dnsServers != "" {
			servers.Servers = strings.Split(s.dnsServers, ",")
		}
		r = servers
	}
	if isPublic {
		r = pool.PublicOnly(r)
	}
	return r
}

// joinAddrs returns endpoints as ip:port, separated by commas.
func joinAddrs(endpoints []config.Endpoint) string {
	addrs := make([]string, len(endpoints))
	for i, e := range endpoints {
		addrs[i] = e.String()
	}
	return strings.Join(addrs, ",")
}

// portOf returns the port of an https URL that config has validated.
func portOf(base *url.URL) uint16 {
	port, err := strconv.ParseUint(base.Port(), 10, 16)
	if err != nil {
		return 443
	}
	return uint16(port)
}
