// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// service is a fake push service and its Provider. It is used with a real pool.
type service struct {
	// script returns the outcome of an attempt that has reached endpoint. attempt counts from 1 for
	// each notification. nil accepts everything.
	script  func(ctx context.Context, n *push.Notification, attempt int, endpoint string) push.Outcome
	discard bool // record no visits, for benchmarks

	mu     sync.Mutex
	visits map[string][]string // endpoints by notification ID, in order
	last   *wire.Request       // that was translated last
}

var _ delivery.Provider = (*service)(nil)

// Translate rejects a notification without a token, warns if the token is "unusual", and panics if
// it is "defect".
func (s *service) Translate(n *push.Notification) (*wire.Request, error) {
	switch n.Token {
	case "":
		return nil, &push.FieldError{Field: "token", Reason: "BadDeviceToken", Allowed: "a token"}
	case "unusual":
		if err := n.Warn("token", "usual"); err != nil {
			return nil, err
		}
	case "defect":
		panic("cannot translate token 5ecre7")
	}
	r := &wire.Request{Method: "POST", Path: "/" + n.ID}
	if !s.discard {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.last = r
	}
	return r, nil
}

func (s *service) Sign(ctx context.Context, _ *push.Notification) (field wire.Field, used any, failed *push.Outcome) {
	return wire.Field{}, ctx, nil
}

func (s *service) Judge(n *push.Notification, used any, response *wire.Response, err error) push.Outcome {
	if err != nil {
		return push.NoResponse(err)
	}
	if s.discard {
		return accepted
	}
	attempt, endpoint := s.visit(n, response.Get("endpoint"))
	if s.script == nil {
		return accepted
	}
	return s.script(used.(context.Context), n, attempt, endpoint)
}

func (s *service) visit(n *push.Notification, endpoint string) (attempt int, _ string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.visits == nil {
		s.visits = make(map[string][]string)
	}
	s.visits[n.ID] = append(s.visits[n.ID], endpoint)
	return len(s.visits[n.ID]), endpoint
}

func (s *service) visited(id string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.visits[id]
}

// fakeConn is a connection of the service. It answers with its own address.
type fakeConn struct {
	response wire.Response
	latency  time.Duration
	drain    chan struct{}
	once     sync.Once
}

func newFakeConn(addr netip.AddrPort) *fakeConn {
	return &fakeConn{
		response: wire.Response{Status: 200, Header: []wire.Field{{Name: "endpoint", Value: addr.String()}}},
		drain:    make(chan struct{}),
	}
}

func (c *fakeConn) Do(ctx context.Context, _ *wire.Request) (*wire.Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, &wire.Error{Reason: wire.Canceled, Processed: wire.Never, Err: err}
	}
	if c.latency > 0 {
		select {
		case <-time.After(c.latency):
		case <-ctx.Done():
			return nil, &wire.Error{Reason: wire.Canceled, Err: ctx.Err()}
		}
	}
	return &c.response, nil
}

func (c *fakeConn) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-c.drain:
		return nil
	}
}

func (c *fakeConn) Drain()            { c.once.Do(func() { close(c.drain) }) }
func (c *fakeConn) State() wire.State { return wire.State{MaxStreams: 1000} }

// fixedResolver resolves to the given number of addresses in TEST-NET-1.
type fixedResolver int

func (f fixedResolver) Resolve(context.Context) (addrs []netip.AddrPort, ttl time.Duration, err error) {
	for i := range int(f) {
		addrs = append(addrs, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 443))
	}
	return addrs, time.Hour, nil
}

// newRoute returns a route to s with the given number of connected endpoints. Its pool runs until
// the test ends. If the number is 0, there is one endpoint that never connects.
func newRoute(t testing.TB, s *service, endpoints int) *delivery.Route {
	t.Helper()
	if endpoints == 0 {
		return newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Dial: hangingDial}, 0)
	}
	return newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(endpoints), Size: endpoints}, endpoints)
}

func hangingDial(ctx context.Context, _ netip.AddrPort) (pool.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// newRouteWithPool is newRoute with a pool configuration. It returns when the given number of
// endpoints has joined.
func newRouteWithPool(t testing.TB, s *service, cfg pool.Config, endpoints int) *delivery.Route {
	t.Helper()
	joined := make(chan struct{}, 1000)
	cfg.Name = "test"
	if cfg.Dial == nil {
		cfg.Dial = func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) { return newFakeConn(addr), nil }
	}
	cfg.Observe = func(e pool.Event) {
		if e.Kind == pool.EventJoined {
			joined <- struct{}{}
		}
	}
	p, err := pool.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := testwait.For(t, done, "the end"); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for range endpoints {
		testwait.For(t, joined, "the end")
	}
	return &delivery.Route{Provider: s, Executor: &delivery.Executor{Pool: p, Retry: retry.Policy{Attempts: 3}}}
}

var (
	accepted     = push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: "provider-id"}
	unsent       = push.Outcome{Verdict: push.Unsent, Reason: "GOAWAY_UNPROCESSED", Scope: push.ScopeConnection}
	unavailable  = push.Outcome{Verdict: push.Unavailable, Reason: "ServiceUnavailable", Scope: push.ScopeEndpoint, HTTP: 503}
	unknown      = push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT", Scope: push.ScopeEndpoint}
	refused      = push.Outcome{Verdict: push.Refused, Reason: "BadTopic", HTTP: 400}
	unregistered = push.Outcome{Verdict: push.Unregistered, Reason: "Unregistered", HTTP: 410, ForgetToken: true}
	expiredJWT   = push.Outcome{Verdict: push.Unauthorized, Reason: "ExpiredProviderToken", HTTP: 403, Renewed: true}
)

func throttled(scope push.Scope, after time.Duration) push.Outcome {
	return push.Outcome{Verdict: push.Throttled, Reason: "TooManyRequests", Scope: scope, RetryAfter: after, HTTP: 429}
}

// scriptedService ends the attempts of each notification with the given outcomes and accepts
// further attempts.
func scriptedService(outcomes ...push.Outcome) *service {
	return &service{script: func(_ context.Context, _ *push.Notification, attempt int, _ string) push.Outcome {
		if attempt > len(outcomes) {
			return accepted
		}
		return outcomes[attempt-1]
	}}
}

func newNotification(id string) *push.Notification {
	return &push.Notification{
		ID: id, App: "shop", Platform: push.APNs, AcceptedAt: time.Now(), Target: push.Target{Token: "token of " + id},
	}
}

// repeatable returns a notification that may be delivered twice.
func repeatable(id string) *push.Notification {
	n := newNotification(id)
	n.OnUnknown = push.RepeatAlways
	return n
}

// verdicts formats the verdicts of the attempts and of the receipt: "unsent unavailable =
// unavailable".
func verdicts(r *push.Receipt) (s string) {
	for _, a := range r.Attempts {
		s += a.Verdict.String() + " "
	}
	return s + fmt.Sprintf("= %v", r.Verdict)
}
