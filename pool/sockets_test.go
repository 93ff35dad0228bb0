// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// socketPool is a pool with real sockets: wire connections to a mock APNs, and a resolver that the
// test controls.
type socketPool struct {
	*pool.Pool
	t      testing.TB
	mock   *mockprovider.Mock
	stop   func() error
	events atomic.Int64

	mu    sync.Mutex
	addrs []netip.AddrPort
	sent  int
}

// startSocketPool starts a mock with the given number of servers, returns the first of them from
// the resolver, and runs a pool until the test ends or stop is called. Outlier detection is
// disabled, because the machine may be busy.
func startSocketPool(t testing.TB, servers, listed int, cfg pool.Config) *socketPool {
	t.Helper()
	cfg.Outlier.Disabled = true
	m := mockprovider.Start(t, mockprovider.Config{Endpoints: servers})
	return startSocketPoolOn(t, m, m.APNsAddrs()[:listed], cfg)
}

func startSocketPoolOn(t testing.TB, m *mockprovider.Mock, addrs []netip.AddrPort, cfg pool.Config) *socketPool {
	t.Helper()
	sp := &socketPool{t: t, mock: m, addrs: addrs}
	tlsConfig := m.ClientTLS()
	tlsConfig.Certificates = []tls.Certificate{m.ClientCertificate()}
	cfg.Name, cfg.Resolver = "sockets", sp
	cfg.Observe = func(pool.Event) { sp.events.Add(1) }
	cfg.Dial = func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
		conn, err := wire.Dial(ctx, addr, wire.Config{Authority: "api.push.apple.com", TLS: tlsConfig, PingTimeout: time.Minute, WriteTimeout: time.Minute})
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	p, err := pool.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sp.Pool = p
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	sp.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := sp.stop(); err != nil {
			t.Error(err)
		}
	})
	sp.waitFor(func(s pool.Status) bool { return len(s.Endpoints) == min(s.Size, len(addrs)) })
	return sp
}

// Resolve returns the addresses with the minimum TTL.
func (sp *socketPool) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return slices.Clone(sp.addrs), 0, nil
}

func (sp *socketPool) setAddrs(addrs []netip.AddrPort) {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.addrs = addrs
}

// testTimeout limits every wait of a test with real sockets. It is long, because the machine may be
// busy.
const testTimeout = 2 * time.Minute

// waitFor waits until the pool's status meets the condition.
func (sp *socketPool) waitFor(condition func(pool.Status) bool) {
	sp.t.Helper()
	timeout := time.After(testTimeout)
	for !condition(sp.Status()) {
		select {
		case <-time.After(time.Millisecond):
		case <-timeout:
			sp.t.Fatalf("the pool did not reach the expected state within %s: %+v", testTimeout, sp.Status())
		}
	}
}

// failEndpoints makes these endpoints respond 500, and all others succeed.
func (sp *socketPool) failEndpoints(failing ...int) {
	sp.t.Helper()
	var s mockprovider.Script
	for _, i := range failing {
		s.Faults = append(s.Faults, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: fmt.Sprint(i), Status: 500})
	}
	if err := sp.mock.SetScript(s); err != nil {
		sp.t.Fatal(err)
	}
}

// send sends one notification until an endpoint accepts it. It reports whether one did.
func (sp *socketPool) send() bool {
	sp.mu.Lock()
	sp.sent++
	r := &wire.Request{Method: "POST", Path: fmt.Sprintf("/3/device/5a%062x", sp.sent), Body: []byte(`{"aps":{"alert":"hi"}}`), Timeout: time.Minute,
		Header: []wire.Field{{Name: "apns-topic", Value: "com.example.app"}, {Name: "apns-push-type", Value: "alert"}}}
	sp.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	var tried pool.Tried
	for {
		lease, err := sp.Pick(ctx, tried)
		if err != nil {
			sp.t.Error(err)
			return false
		}
		res, err := lease.Do(ctx, r)
		o := outcomeOf(res, err)
		lease.Done(o)
		if o.Verdict == push.Accepted {
			return true
		}
		tried = append(tried, lease.Endpoint())
	}
}

// countRequests sends n notifications and counts the requests per endpoint.
func (sp *socketPool) countRequests(n int) map[string]int {
	sp.mock.Ledger().Clear()
	for range n {
		sp.send()
	}
	requests := map[string]int{}
	for _, e := range sp.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		requests[e.Endpoint]++
	}
	return requests
}

// wantEven checks that n requests were spread over this many endpoints, with a difference of at
// most one.
func wantEven(t *testing.T, requests map[string]int, endpoints, n int) {
	t.Helper()
	minCount, maxCount, sum := n, 0, 0
	for _, v := range requests {
		minCount, maxCount, sum = min(minCount, v), max(maxCount, v), sum+v
	}
	if len(requests) != endpoints || maxCount-minCount > 1 || sum != n {
		t.Errorf("%d requests, uneven or not on %d endpoints: %v", sum, endpoints, requests)
	}
}

func TestSocketsLoadIsEven(t *testing.T) {
	for _, servers := range []int{20, 4} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			sp := startSocketPool(t, servers, servers, pool.Config{Size: 10})
			wantEven(t, sp.countRequests(205), min(servers, 10), 205)
		})
	}
}

// longEjection ejects for longer than a test runs.
var longEjection = pool.Breaker{BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour}

func TestSocketsFailingEndpointsGetNoLoad(t *testing.T) {
	for _, servers := range []int{20, 4} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			sp := startSocketPool(t, servers, servers, pool.Config{Size: 10, Breaker: longEjection})
			sp.failEndpoints(0, 1)
			sp.countRequests(5 * 10)
			healthy := min(servers-2, 10)
			sp.waitFor(func(s pool.Status) bool { return countHealthy(s) == healthy })
			requests := sp.countRequests(102)
			for _, bad := range sp.mock.APNsAddrs()[:2] {
				if requests[bad.String()] > 0 {
					t.Errorf("a failing endpoint got %d requests", requests[bad.String()])
				}
			}
			wantEven(t, requests, healthy, 102)
		})
	}
}

// countHealthy counts the live endpoints with a closed breaker.
func countHealthy(s pool.Status) (n int) {
	for _, e := range s.Endpoints {
		if e.State == "closed" && e.Connections > 0 {
			n++
		}
	}
	return n
}

func TestSocketsEjectedEndpointsAreReplaced(t *testing.T) {
	sp := startSocketPool(t, 8, 4, pool.Config{Size: 4, MaxAge: 100 * time.Millisecond, Breaker: longEjection})
	sp.failEndpoints(0, 1)
	sp.countRequests(5 * 4)
	sp.setAddrs(sp.mock.APNsAddrs()[4:])
	sp.waitFor(sp.hasHealthy(4, 5, 6, 7)) // two replace the ejected ones, and two replace members that reach MaxAge
	wantEven(t, sp.countRequests(40), 4, 40)

	sp.setAddrs(sp.mock.APNsAddrs()[:4])
	sp.waitFor(sp.hasHealthy(2, 3))
	requests := sp.countRequests(40)
	for _, bad := range sp.mock.APNsAddrs()[:2] {
		if requests[bad.String()] > 0 {
			t.Errorf("an ejected endpoint that DNS returns again got %d requests", requests[bad.String()])
		}
	}
}

// hasHealthy returns a condition: all these endpoints are healthy members.
func (sp *socketPool) hasHealthy(wanted ...int) func(pool.Status) bool {
	return func(s pool.Status) bool {
		for _, i := range wanted {
			if !slices.ContainsFunc(s.Endpoints, func(e pool.EndpointStatus) bool {
				return e.Address == sp.mock.APNsAddrs()[i].String() && e.State == "closed" && e.Connections > 0
			}) {
				return false
			}
		}
		return true
	}
}

func TestSocketsRecoveredEndpointsShareLoad(t *testing.T) {
	sp := startSocketPool(t, 4, 4, pool.Config{Breaker: pool.Breaker{BaseEjectionTime: 50 * time.Millisecond}})
	sp.failEndpoints(0, 1)
	sp.countRequests(5 * 4)
	sp.failEndpoints()
	sp.waitFor(func(s pool.Status) bool {
		sp.send() // one of these is the probe
		return countHealthy(s) == 4
	})
	wantEven(t, sp.countRequests(100), 4, 100)
}

// TestChurnLeaksNothing runs a pool with thousands of addresses. They fail, send GOAWAY and reset
// streams after every few requests, so that endpoints constantly join, are ejected, and leave; DNS
// answers change too. Afterwards no goroutine, connection or file may be left.
func TestChurnLeaksNothing(t *testing.T) {
	const callers, servers = 16, 3000
	changes := int64(10_000)
	if raceEnabled {
		changes = 2000 // each change costs TLS handshakes, which are ten times slower with the race detector
	}
	before, files := goleak.IgnoreCurrent(), openFiles(t)
	m, err := mockprovider.New(mockprovider.Config{
		APNsListen: slices.Repeat([]string{"127.0.0.1:0"}, servers),
		Script: mockprovider.Script{Faults: []mockprovider.Fault{
			{Service: mockprovider.APNs, Share: 0.3, Status: 500},
			{Service: mockprovider.APNs, Share: 0.5, Reset: &mockprovider.Reset{Every: 3, Processed: 1}},
			{Service: mockprovider.APNs, GoAway: &mockprovider.GoAway{Every: 4}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()

	all := m.APNsAddrs()
	sp := startSocketPoolOn(t, m, all, pool.Config{Size: 16})
	var load sync.WaitGroup
	end := time.Now().Add(5 * testTimeout)
	for caller := range callers {
		load.Go(func() {
			for n := 0; sp.events.Load() < changes && time.Now().Before(end) && sp.send(); n++ {
				if caller == 0 && n%100 == 0 { // DNS reorders the addresses and omits one in ten
					sp.setAddrs(append(slices.Clone(all[n%servers:]), all[:n%servers*9/10]...))
				}
			}
		})
	}
	testwait.Call(t, load.Wait, "the end of the load")
	if n := sp.events.Load(); n < changes {
		t.Errorf("%d changes within %s; want %d", n, 5*testTimeout, changes)
	}
	if err := sp.stop(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := testwait.For(t, ended, "the end of Run"); err != nil {
		t.Error(err)
	}
	err = goleak.Find(before)
	for end := time.Now().Add(testTimeout); err != nil && time.Now().Before(end); err = goleak.Find(before) { // a slow machine needs time to end them
	}
	if err != nil {
		t.Error(err)
	}
	if left := openFiles(t); left > files {
		t.Errorf("%d files are open; before the test there were %d", left, files)
	}
}

// openFiles counts the open files and sockets of this process, or returns 0 if the system does not
// support that.
func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
