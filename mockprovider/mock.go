// SPDX-License-Identifier: Apache-2.0

// Package mockprovider plays APNs, FCM, Google's OAuth2 token endpoint and three Web Push services on the wire, honestly or
// by script, and keeps a ledger of all that it received. It delivers nothing to any device, and it imports nothing of
// the gateway, so that it can catch the gateway's mistakes.
package mockprovider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/mockprovider/ledger"
)

// The services, as Fault.Service, Entry.Service and Query.Service name them.
const (
	APNs       = "apns"
	APNsManage = "apns_manage" // APNs' channel management
	FCM        = "fcm"
	OAuth      = "oauth"
	WebPush    = "webpush"
)

var serviceWords = []string{APNs, APNsManage, FCM, OAuth, WebPush}

// Config says what a Mock plays. Its zero value is a set of honest services on free loopback ports.
type Config struct {
	// Listen is the IP address that all services listen on; default 127.0.0.1. Keep it on the loopback interface: the
	// mock's ledger shows device tokens to whoever asks.
	Listen string
	// Advertise is the host that Ready, the service account's token_uri and subscriptions name, and that the certificate is
	// good for besides localhost and the real services' names; default the address listened on. A container needs it.
	Advertise string
	// Endpoints is how many addresses APNs and FCM each answer on; default 8. Every address is a service of its own
	// port, as the real services are many machines behind one name.
	Endpoints int
	// APNsListen and FCMListen are exact host:port addresses and win over Listen and Endpoints.
	APNsListen, FCMListen []string
	// APNsManageListen, OAuthListen, WebPushListen and LedgerListen are exact host:port addresses; default Listen with a
	// free port.
	APNsManageListen, OAuthListen, WebPushListen, LedgerListen string

	// Credentials are the APNs keys that are known; default one, made on the spot, for the topic com.example.app.
	Credentials []Credential
	// ProjectID is the FCM project; default demo-project.
	ProjectID string
	// AccessTokenLifetime is how long an OAuth2 access token is honoured; default 1 h. expires_in says one second less,
	// as Google's does.
	AccessTokenLifetime time.Duration
	// TokenUpdateEvery is how long an APNs provider token must be kept before another one of the same key is taken;
	// sooner is 429 TooManyProviderTokenUpdates. Apple documents 20 minutes. Default 0: not checked.
	TokenUpdateEvery time.Duration

	// Streams is how many streams an APNs connection may have open, and when that changes.
	Streams Streams
	// Latency names a profile: none (the default), lan, typical or far.
	Latency string
	// Script is what goes wrong from the start; default nothing. Mock.Play changes it at run time.
	Script Script
	// Seed makes shares and latencies repeatable; 0 picks one.
	Seed uint64

	// LedgerSize is how many entries the ledger keeps; older ones are dropped, while the summary stays exact. Default
	// 1,000,000, which is about 250 MB when full.
	LedgerSize int
	// KeepContent lets the ledger keep each request's header fields and body too. Credentials are never kept.
	KeepContent bool

	// Logger hears of connections that could not be served; nil discards.
	Logger *slog.Logger
}

// Streams is the stream limit of APNs connections. Its zero value is what Apple documents for token authentication: one
// stream until the first request has been accepted, then 1000. A connection with a client certificate starts at Max.
type Streams struct {
	// Start is the limit of a new connection; default 1.
	Start int
	// Max is the limit once a request has been accepted; default 1000.
	Max int
	// Unadvertised makes a new connection say Max in its SETTINGS and yet refuse streams beyond Start, as some captures
	// of the real service suggest.
	Unadvertised bool
	// ShrinkOn4xx sets the limit back to 1 after an answer of 4xx other than 410, until the next accepted request.
	ShrinkOn4xx bool
}

// Mock is a set of services that listen. Nothing answers before Run.
//
// Every well-formed device token is registered, but for some that say what comes of them, so that an example needs no
// script. For APNs the first eight digits decide (a random token is safe), for FCM what follows the colon:
//
//	dead0000…, deaddead…   410 Unregistered            <id>:dead…, <id>:dead-ios…   404 UNREGISTERED
//	dead0001…              410 ExpiredToken            <id>:bad…, or no colon       400 INVALID_ARGUMENT
//	bad00000…, deadbeef…   400 BadDeviceToken          <id>:mismatch…               403 SENDER_ID_MISMATCH
//	bad00001…              400 DeviceTokenNotForTopic  <id>:thirdparty…             401 THIRD_PARTY_AUTH_ERROR
//	fa110429…              429 TooManyRequests         <id>:quota…, <id>:ratelimit… 429, with FcmError and without
//	fa110500…              500 InternalServerError     <id>:internal…               500 INTERNAL
//	fa110503…              503 ServiceUnavailable      <id>:unavailable…            503 UNAVAILABLE
//	5a2db0c0…              400 BadDeviceToken, but in the sandbox 200
//	5a2db0c1…              400 BadDeviceToken in the sandbox
//
// An app has the channels that were created at APNsManageAddr, and broadcasts to them are sent where pushes are. Every
// path under /push/ is a live Web Push subscription, and Subscribe makes those whose messages can be decrypted. What goes wrong otherwise is for Config.Script to say.
type Mock struct {
	cfg         Config
	id          *identity
	ledger      *ledger.Ledger
	services    map[string][]*endpoint
	admin       *admin
	access      *accessTokens
	subscribers *subscribers
	updates     *tokenUpdates
	latency     map[string]latency
	program     atomic.Pointer[program]
	script      chan struct{} // poked when program has changed

	// stage is held while connections are told what to do, so that none obeys an old program after a new one.
	stage sync.Mutex

	mu   sync.Mutex
	dice *rand.Rand
}

// New makes the keys, binds every listener and checks the script. It starts nothing, yet clients can connect from now
// on and wait for Run, which also closes the listeners.
func New(cfg Config) (*Mock, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(cfg)
	if err != nil {
		return nil, err
	}
	m := &Mock{
		cfg: cfg, id: id, ledger: ledger.New(cfg.LedgerSize), services: map[string][]*endpoint{},
		access: newAccessTokens(), subscribers: newSubscribers(), updates: newTokenUpdates(cfg.TokenUpdateEvery),
		latency: profiles[cfg.Latency], script: make(chan struct{}, 1),
		dice: rand.New(rand.NewPCG(cfg.Seed, 1)),
	}
	if err := m.Play(cfg.Script); err != nil {
		return nil, err
	}
	if err := m.bind(); err != nil {
		m.closeListeners()
		return nil, err
	}
	return m, nil
}

// Run serves until ctx ends, then closes every listener and connection and returns nil once all goroutines have ended.
// It returns an error only if a listener fails.
func (m *Mock) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, endpoints := range m.services {
		for _, e := range endpoints {
			group.Go(func() error { return e.run(ctx) })
		}
	}
	group.Go(func() error { return m.admin.run(ctx) })
	group.Go(func() error { return m.conduct(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// TB is the part of *testing.T that Start needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// Start runs a Mock for one test and ends it with the test. At most one Config may be given.
func Start(tb TB, cfg ...Config) *Mock {
	tb.Helper()
	m, err := New(append(cfg, Config{})[0])
	if err != nil {
		tb.Fatalf("mockprovider: %v", err)
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Fatalf("mockprovider: %v", err)
		}
	})
	return m
}

// Ledger is the record of all that was received.
func (m *Mock) Ledger() *ledger.Ledger { return m.ledger }

// withDefaults fills in what was left out and refuses what makes no sense.
func (c Config) withDefaults() (Config, error) {
	c.Listen = or(c.Listen, "127.0.0.1")
	c.Endpoints = or(c.Endpoints, 8)
	c.ProjectID = or(c.ProjectID, "demo-project")
	c.AccessTokenLifetime = or(c.AccessTokenLifetime, time.Hour)
	c.Streams.Start = or(c.Streams.Start, 1)
	c.Streams.Max = or(c.Streams.Max, 1000)
	c.Latency = or(c.Latency, "none")
	c.Seed = or(c.Seed, rand.Uint64())
	c.LedgerSize = or(c.LedgerSize, 1_000_000)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if key, why := c.fault(); key != "" {
		return c, fmt.Errorf("mockprovider: %s: %s", key, why)
	}
	return c, nil
}

// fault names the first member that makes no sense, as files spell it, and what is allowed; "" for none. Zero stands for
// the default.
func (c *Config) fault() (key, why string) {
	_, known := profiles[or(c.Latency, "none")]
	switch start, most := or(c.Streams.Start, 1), or(c.Streams.Max, 1000); {
	case c.Listen != "" && net.ParseIP(c.Listen) == nil:
		return "listen", fmt.Sprintf("%q is no IP address", c.Listen)
	case c.Endpoints < 0 || c.Endpoints > 1000:
		return "endpoints", fmt.Sprintf("%d is out of range (allowed: 1 to 1000)", c.Endpoints)
	case !known:
		return "latency", fmt.Sprintf("%q is unknown (allowed: none, lan, typical, far)", c.Latency)
	case start < 1 || start > most:
		return "streams", fmt.Sprintf("start is %d (allowed: 1 to max, %d)", start, most)
	case c.AccessTokenLifetime < 0:
		return "access_token_lifetime", fmt.Sprintf("%v is negative", c.AccessTokenLifetime)
	case c.TokenUpdateEvery < 0:
		return "token_update_every", fmt.Sprintf("%v is negative", c.TokenUpdateEvery)
	case c.LedgerSize < 0:
		return "ledger_size", fmt.Sprintf("%d is negative", c.LedgerSize)
	}
	return "", ""
}

// or returns v, or the default when v is zero.
func or[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}

// chance is true in that share of calls.
func (m *Mock) chance(share float64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dice.Float64() < share
}

// normal draws from the standard normal distribution.
func (m *Mock) normal() float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dice.NormFloat64()
}
