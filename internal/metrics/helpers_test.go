// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/wire"
)

var (
	accepted     = push.Outcome{Verdict: push.Accepted, HTTP: 200}
	unregistered = push.Outcome{Verdict: push.Unregistered, HTTP: 410, Reason: "Unregistered"}
	unavailable  = push.Outcome{Verdict: push.Unavailable, HTTP: 503, Reason: "ServiceUnavailable", Scope: push.ScopeEndpoint}
	invalid      = push.InvalidNotification(&push.FieldError{Field: "token", Reason: "BadDeviceToken"})
)

// observe reports a notification with the given attempts of 20 ms each.
func observe(o delivery.Observer, outcomes ...push.Outcome) {
	n := &push.Notification{App: "shop", Platform: push.APNs}
	r := push.Receipt{Outcome: outcomes[len(outcomes)-1]}
	for i, outcome := range outcomes {
		a := push.Attempt{Endpoint: "192.0.2.1:443", Took: 20 * time.Millisecond, Outcome: outcome}
		r.Attempts = append(r.Attempts, a)
		o.Attempted(n, i+1, &a, nil)
	}
	o.Ended(n, &r, time.Duration(len(outcomes))*20*time.Millisecond)
}

// scrape returns the lines of /metrics that start with sluice_ and contain all given strings.
func scrape(t testing.TB, m *metrics.Metrics, with ...string) []string {
	t.Helper()
	response := httptest.NewRecorder()
	m.Handler().ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text, err := io.ReadAll(response.Body)
	if err != nil || response.Code != http.StatusOK {
		t.Fatalf("%d, %v", response.Code, err)
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return !strings.HasPrefix(line, "sluice_") || slices.ContainsFunc(with, func(s string) bool { return !strings.Contains(line, s) })
	})
	return lines
}

// expectLines checks that /metrics contains the given lines.
func expectLines(t testing.TB, m *metrics.Metrics, want ...string) {
	t.Helper()
	lines := scrape(t, m)
	for _, line := range want {
		if !slices.Contains(lines, line) {
			name, _, _ := strings.Cut(line, "{")
			t.Errorf("missing line\n%s\nin\n%s", line, strings.Join(scrape(t, m, name), "\n"))
		}
	}
}

// acceptingConn is a connection that accepts every request.
type acceptingConn struct{}

func (acceptingConn) Do(context.Context, *wire.Request) (*wire.Response, error) {
	return &wire.Response{Status: 200}, nil
}
func (acceptingConn) Drain()            {}
func (acceptingConn) State() wire.State { return wire.State{MaxStreams: 1000} }
func (acceptingConn) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// startPool runs a pool with size 3 and four addresses, and watches it with a rate limiter. It must
// run in a synctest bubble.
func startPool(t *testing.T, m *metrics.Metrics, limiter *quota.RateLimiter) *pool.Pool {
	t.Helper()
	var addrs pool.Static
	for i := range 4 {
		addrs = append(addrs, netip.MustParseAddrPort(fmt.Sprintf("192.0.2.%d:443", i+1)))
	}
	p, err := pool.New(pool.Config{
		Name: "apns", Size: 3, Resolver: addrs, Observe: m.Observe, DrainTimeout: time.Millisecond, Limiter: new(pool.AdaptiveLimiter),
		Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) { return acceptingConn{}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.WatchServices(func() []metrics.Service {
		return []metrics.Service{{
			Pool: p, RateLimiter: limiter, RejectionRate: func() float64 { return 0.25 }, Unavailable: func() bool { return true },
			CertificateExpires: time.Unix(1_800_000_000, 0),
		}}
	})
	m.WatchConcurrencyLimit(&delivery.ConcurrencyLimit{Max: 700})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := testwait.For(t, done, "the end"); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(time.Second)
	synctest.Wait()
	return p
}

// pickLease returns a lease or fails the test.
func pickLease(t *testing.T, p *pool.Pool) *pool.Lease {
	t.Helper()
	l, err := p.Pick(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
