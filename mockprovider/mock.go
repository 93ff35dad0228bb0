// SPDX-License-Identifier: Apache-2.0

// Package mockprovider mocks APNs, FCM, Google's OAuth2 token endpoint and three Web Push services
// over real TLS connections. The services behave like the real ones or as a script specifies, and a
// ledger records all requests. Nothing is delivered to a device. The package imports nothing of the
// gateway, because a mock that shares code with the gateway repeats its mistakes.
//
// Other code imports only this package, which configures and runs the services. The packages below
// are its parts: apns, fcm, oauth and webpush respond to requests, h2 serves connections, script makes
// requests and connections fail, and ledger records requests.
package mockprovider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/mockprovider/ledger"
	"github.com/sluice-push/sluice/mockprovider/oauth"
	"github.com/sluice-push/sluice/mockprovider/script"
	"github.com/sluice-push/sluice/mockprovider/webpush"
)

// Config configures a Mock. Its zero value means services without faults on free loopback ports.
type Config struct {
	// Listen is the IP address that all services listen on; default 127.0.0.1. Do not expose it: the
	// ledger shows device tokens to everyone who can connect.
	Listen string
	// Advertise is the host name or IP address in Ready, in the token_uri of the service account and
	// in subscriptions; default the address listened on. The certificate is valid for it. A container
	// needs it.
	Advertise string
	// Endpoints is the number of addresses of APNs and of FCM; default 8. Each address has its own
	// port. They correspond to the many addresses of the real services' names.
	Endpoints int
	// APNsListen and FCMListen are host:port addresses, and take precedence over Listen and Endpoints.
	APNsListen, FCMListen []string
	// APNsManageListen, OAuthListen, WebPushListen and LedgerListen are host:port addresses; default
	// Listen with a free port.
	APNsManageListen, OAuthListen, WebPushListen, LedgerListen string

	// Credentials are the APNs keys that are accepted; default one generated key for the topic
	// com.example.app.
	Credentials []Credential
	// ProjectID is the FCM project; default demo-project.
	ProjectID string
	// AccessTokenLifetime is the lifetime of an OAuth2 access token; default 1 h. expires_in is one
	// second less, as with Google.
	AccessTokenLifetime time.Duration
	// TokenUpdateEvery is how long an APNs provider token must be used before another one of the same
	// key is accepted; earlier, the response is 429 TooManyProviderTokenUpdates. Apple documents 20
	// minutes. Default 0: no limit.
	TokenUpdateEvery time.Duration

	// Streams is the stream limit of APNs connections. Its zero value is what Apple documents for
	// token authentication: one stream until the first request has been accepted, then 1000. Of the
	// other services, it sets only Strict; their limit is 100 streams.
	Streams Streams
	// Latency is a latency profile: none (the default), lan, typical or far.
	Latency string
	// Script is the script at the start; default no faults. Mock.SetScript replaces it.
	Script Script
	// Seed makes shares and latencies repeatable; default a random seed.
	Seed uint64

	// LedgerSize is the number of entries that the ledger keeps; default 1,000,000, which take about
	// 250 MB. Older ones are dropped; the summary still counts them.
	LedgerSize int
	// KeepContent makes the ledger keep the header fields and the body of each request, without
	// credentials.
	KeepContent bool

	// Logger logs connections that could not be served; nil discards the messages.
	Logger *slog.Logger
}

// Mock is a set of mocked services. Nothing is answered before Run.
//
// Every well-formed device token is registered, except those that select a response. For APNs the
// first eight digits select it (a random token is unlikely to begin with them), for FCM the part
// after the colon, or the first letters of a Firebase installation ID, which has no colon:
//
//	dead0000…, deaddead…   410 Unregistered            <id>:dead…, <id>:dead-ios…   404 UNREGISTERED
//	dead0001…              410 ExpiredToken            <id>:bad…, or no colon       400 INVALID_ARGUMENT
//	bad00000…, deadbeef…   400 BadDeviceToken          <id>:mismatch…               403 SENDER_ID_MISMATCH
//	bad00001…              400 DeviceTokenNotForTopic  <id>:thirdparty…             401 THIRD_PARTY_AUTH_ERROR
//	fa110429…              429 TooManyRequests         <id>:quota…, <id>:ratelimit… 429, with FcmError and without
//	fa110500…              500 InternalServerError     <id>:internal…               500 INTERNAL
//	fa110503…              503 ServiceUnavailable      <id>:unavailable…            503 UNAVAILABLE
//	5a2db0c0…              400 BadDeviceToken in production, 200 in the sandbox
//	5a2db0c1…              400 BadDeviceToken in the sandbox, 200 in production
//	64 zeros               400 BadDeviceToken
//
// The channels of an app are those created at APNsManageAddr; broadcasts to them go to the same
// addresses as pushes. For Web Push, every path under /push/ is an active subscription, and Subscribe
// makes subscriptions whose messages can be decrypted. For all other failures, use a script.
type Mock struct {
	cfg          Config
	id           *identity
	ledger       *ledger.Ledger
	injector     *script.Injector
	services     map[string][]*endpoint
	admin        *admin
	accessTokens *oauth.Tokens
	webPush      *webpush.Service

	// applyMu is held while the script is applied to listeners and connections, so that none obeys an
	// old script after a new one.
	applyMu   sync.Mutex
	scriptSet chan struct{} // receives a value when the script has been replaced
}

// New generates keys, opens every listener and checks the script. It starts no goroutine. Clients can
// connect from now on, and wait for Run. Only Run closes the listeners.
func New(cfg Config) (*Mock, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	id, err := newIdentity(cfg)
	if err != nil {
		return nil, err
	}
	entries := ledger.New(cfg.LedgerSize)
	m := &Mock{
		cfg: cfg, id: id, ledger: entries, injector: script.NewInjector(cfg.Latency, cfg.Seed, entries.AddQuotaCheck),
		services: map[string][]*endpoint{}, accessTokens: oauth.NewTokens(), webPush: webpush.New(), scriptSet: make(chan struct{}, 1),
	}
	if err := m.SetScript(cfg.Script); err != nil {
		return nil, err
	}
	if err := m.bind(); err != nil {
		m.closeListeners()
		return nil, err
	}
	return m, nil
}

// Run serves until ctx ends, then closes every listener and connection, and returns nil when all
// goroutines have ended. It returns an error only if a listener fails.
func (m *Mock) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, endpoints := range m.services {
		for _, e := range endpoints {
			group.Go(func() error { return e.run(ctx) })
		}
	}
	group.Go(func() error { return m.admin.run(ctx) })
	group.Go(func() error { return m.runScript(ctx) })
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// TB is the part of *testing.T that Start needs.
type TB interface {
	ledger.TB
	Cleanup(func())
}

// Start runs a Mock until the end of a test. It takes at most one Config.
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

// Ledger returns the record of all requests.
func (m *Mock) Ledger() *Ledger { return m.ledger }

// ExpireAccessTokens makes all access tokens issued so far expire: FCM rejects them with
// ACCESS_TOKEN_EXPIRED.
func (m *Mock) ExpireAccessTokens() { m.accessTokens.ExpireAll() }

// Subscribe makes a Web Push subscription as a browser does. The messages sent to it are decrypted:
// the ledger records whether that succeeded and, with Config.KeepContent, the plaintext. serverKey is
// the public VAPID key of the web site, base64url, which the subscription is restricted to; "" for no
// restriction.
func (m *Mock) Subscribe(flavour Flavour, serverKey string) (Subscription, error) {
	s, err := m.webPush.Subscribe(m.WebPushURL(), flavour, serverKey)
	if err != nil {
		return s, fmt.Errorf("mockprovider: %w", err)
	}
	return s, nil
}

// Unsubscribe ends a subscription: a push to it is then rejected with 410. It reports whether there
// was such a subscription.
func (m *Mock) Unsubscribe(endpoint string) bool { return m.webPush.Unsubscribe(endpoint) }

// withDefaults returns the config with all defaults, or an error for an invalid one.
func (c Config) withDefaults() (Config, error) {
	c.Listen = cmp.Or(c.Listen, "127.0.0.1")
	c.Endpoints = cmp.Or(c.Endpoints, 8)
	c.ProjectID = cmp.Or(c.ProjectID, "demo-project")
	c.AccessTokenLifetime = cmp.Or(c.AccessTokenLifetime, time.Hour)
	c.Streams.Start = cmp.Or(c.Streams.Start, 1)
	c.Streams.Max = cmp.Or(c.Streams.Max, 1000)
	c.Latency = cmp.Or(c.Latency, "none")
	c.Seed = cmp.Or(c.Seed, rand.Uint64())
	c.LedgerSize = cmp.Or(c.LedgerSize, 1_000_000)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if key, problem := c.check(); key != "" {
		return c, fmt.Errorf("mockprovider: %s: %s", key, problem)
	}
	return c, nil
}

// check returns the first invalid key, as configuration files spell it, and what is allowed; "" if
// there is none. Zero values are valid.
func (c *Config) check() (key, problem string) {
	switch start, limit := cmp.Or(c.Streams.Start, 1), cmp.Or(c.Streams.Max, 1000); {
	case c.Listen != "" && net.ParseIP(c.Listen) == nil:
		return "listen", fmt.Sprintf("%q is not an IP address", c.Listen)
	case c.Endpoints < 0 || c.Endpoints > 1000:
		return "endpoints", fmt.Sprintf("%d is out of range (allowed: 1 to 1000)", c.Endpoints)
	case c.Latency != "" && !script.ValidLatency(c.Latency):
		return "latency", fmt.Sprintf("%q is unknown (allowed: none, lan, typical, far)", c.Latency)
	case start < 1 || start > limit:
		return "streams", fmt.Sprintf("start is %d (allowed: 1 to max, %d)", start, limit)
	case c.AccessTokenLifetime < 0:
		return "access_token_lifetime", fmt.Sprintf("%v is negative", c.AccessTokenLifetime)
	case c.TokenUpdateEvery < 0:
		return "token_update_every", fmt.Sprintf("%v is negative", c.TokenUpdateEvery)
	case c.LedgerSize < 0:
		return "ledger_size", fmt.Sprintf("%d is negative", c.LedgerSize)
	}
	return "", ""
}
