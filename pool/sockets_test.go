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

	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// socketPool is a pool on real sockets: wire's connections to the mock's APNs, and a resolver that says what it is told.
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

// startSocketPool starts a mock with so many endpoints, names the first of them, and runs a pool until the test ends or stop is
// called. Nobody is ejected for being slower than others: the machine may be busy.
func startSocketPool(t testing.TB, servers, named int, cfg pool.Config) *socketPool {
	t.Helper()
	cfg.Outlier.Disabled = true
	m := mockprovider.Start(t, mockprovider.Config{Endpoints: servers})
	return startSocketPoolOn(t, m, m.APNsAddrs()[:named], cfg)
}

func startSocketPoolOn(t testing.TB, m *mockprovider.Mock, named []netip.AddrPort, cfg pool.Config) *socketPool {
	t.Helper()
	h := &socketPool{t: t, mock: m, addrs: named}
	trust := m.ClientTLS()
	trust.Certificates = []tls.Certificate{m.ClientCertificate()}
	cfg.Name, cfg.Resolver = "harbour", h
	cfg.Observe = func(pool.Event) { h.events.Add(1) }
	cfg.Dial = func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
		conn, err := wire.Dial(ctx, addr, wire.Config{Authority: "api.push.apple.com", TLS: trust, PingTimeout: time.Minute, WriteTimeout: time.Minute})
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	p, err := pool.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Pool = p
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	h.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Error(err)
		}
	})
	h.waitFor(func(s pool.Status) bool { return len(s.Endpoints) == min(s.Size, len(named)) })
	return h
}

// Resolve names what it was told, for the shortest time that the pool believes.
func (h *socketPool) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.addrs), 0, nil
}

func (h *socketPool) setAddrs(addrs []netip.AddrPort) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addrs = addrs
}

// waitFor waits until the pool's status is so.
func (h *socketPool) waitFor(so func(pool.Status) bool) {
	for !so(h.Status()) {
		time.Sleep(time.Millisecond)
	}
}

// failEndpoints makes endpoints answer 500, and no other.
func (h *socketPool) failEndpoints(bad ...int) {
	h.t.Helper()
	var s mockprovider.Script
	for _, i := range bad {
		s.Faults = append(s.Faults, mockprovider.Fault{Service: mockprovider.APNs, Endpoint: fmt.Sprint(i), Status: 500})
	}
	if err := h.mock.Play(s); err != nil {
		h.t.Fatal(err)
	}
}

// send carries one notification to an endpoint that accepts it.
func (h *socketPool) send() {
	h.mu.Lock()
	h.sent++
	r := &wire.Request{Method: "POST", Path: fmt.Sprintf("/3/device/5a%062x", h.sent), Body: []byte(`{"aps":{"alert":"hi"}}`), Timeout: time.Minute,
		Header: []wire.Field{{Name: "apns-topic", Value: "com.example.app"}, {Name: "apns-push-type", Value: "alert"}}}
	h.mu.Unlock()
	var tried pool.Tried
	for {
		lease, err := h.Pick(context.Background(), tried)
		if err != nil {
			h.t.Error(err)
			return
		}
		answer, err := lease.Do(context.Background(), r)
		o := outcomeOf(answer, err)
		lease.Done(o)
		if o.Verdict == push.Accepted {
			return
		}
		tried = append(tried, lease.Endpoint())
	}
}

// countRequests sends so many notifications and returns what each endpoint was asked.
func (h *socketPool) countRequests(n int) map[string]int {
	h.mock.Ledger().Clear()
	for range n {
		h.send()
	}
	visits := map[string]int{}
	for _, e := range h.mock.Ledger().Entries(mockprovider.Query{Service: mockprovider.APNs}) {
		visits[e.Endpoint]++
	}
	return visits
}

// wantEven wants so many endpoints to have shared n visits, none with more than one above another.
func wantEven(t *testing.T, visits map[string]int, endpoints, n int) {
	t.Helper()
	least, most, sum := n, 0, 0
	for _, v := range visits {
		least, most, sum = min(least, v), max(most, v), sum+v
	}
	if len(visits) != endpoints || most-least > 1 || sum != n {
		t.Errorf("%d visits, uneven or not on %d endpoints: %v", sum, endpoints, visits)
	}
}

func TestSocketsLoadIsEven(t *testing.T) {
	for _, servers := range []int{20, 4} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			h := startSocketPool(t, servers, servers, pool.Config{Size: 10})
			wantEven(t, h.countRequests(205), min(servers, 10), 205)
		})
	}
}

// longEjection ejects for longer than a test takes.
var longEjection = pool.Breaker{BaseEjectionTime: time.Hour, MaxEjectionTime: time.Hour}

func TestSocketsFailingEndpointsGetNoLoad(t *testing.T) {
	for _, servers := range []int{20, 4} {
		t.Run(fmt.Sprint(servers), func(t *testing.T) {
			h := startSocketPool(t, servers, servers, pool.Config{Size: 10, Breaker: longEjection})
			h.failEndpoints(0, 1)
			h.countRequests(5 * 10)
			places := min(servers-2, 10)
			h.waitFor(func(s pool.Status) bool { return countHealthy(s) == places })
			visits := h.countRequests(102)
			for _, bad := range h.mock.APNsAddrs()[:2] {
				if visits[bad.String()] > 0 {
					t.Errorf("a bad endpoint got %d requests", visits[bad.String()])
				}
			}
			wantEven(t, visits, places, 102)
		})
	}
}

// countHealthy counts the live endpoints whose breaker is closed.
func countHealthy(s pool.Status) (n int) {
	for _, e := range s.Endpoints {
		if e.State == "closed" && e.Connections > 0 {
			n++
		}
	}
	return n
}

func TestSocketsEjectedEndpointsAreReplaced(t *testing.T) {
	h := startSocketPool(t, 8, 4, pool.Config{Size: 4, MaxAge: 100 * time.Millisecond, Breaker: longEjection})
	h.failEndpoints(0, 1)
	h.countRequests(5 * 4)
	h.setAddrs(h.mock.APNsAddrs()[4:])
	h.waitFor(h.hasHealthy(4, 5, 6, 7)) // two in place of the ejected, and two as the others get old
	wantEven(t, h.countRequests(40), 4, 40)

	h.setAddrs(h.mock.APNsAddrs()[:4])
	h.waitFor(h.hasHealthy(2, 3))
	visits := h.countRequests(40)
	for _, bad := range h.mock.APNsAddrs()[:2] {
		if visits[bad.String()] > 0 {
			t.Errorf("an ejected endpoint that DNS names again got %d requests", visits[bad.String()])
		}
	}
}

// hasHealthy is true of a status with all of these among its healthy endpoints.
func (h *socketPool) hasHealthy(wanted ...int) func(pool.Status) bool {
	return func(s pool.Status) bool {
		for _, i := range wanted {
			if !slices.ContainsFunc(s.Endpoints, func(e pool.EndpointStatus) bool {
				return e.Address == h.mock.APNsAddrs()[i].String() && e.State == "closed" && e.Connections > 0
			}) {
				return false
			}
		}
		return true
	}
}

func TestSocketsRecoveredEndpointsShareLoad(t *testing.T) {
	h := startSocketPool(t, 4, 4, pool.Config{Breaker: pool.Breaker{BaseEjectionTime: 50 * time.Millisecond}})
	h.failEndpoints(0, 1)
	h.countRequests(5 * 4)
	h.failEndpoints()
	h.waitFor(func(s pool.Status) bool {
		h.send() // one of these is the probe
		return countHealthy(s) == 4
	})
	wantEven(t, h.countRequests(100), 4, 100)
}

// TestChurnLeaksNothing gives the pool thousands of addresses, which fail, send GOAWAY and
// reset after every few requests, so that each is dialled, joins, is ejected or lost, and leaves; DNS changes its mind
// the while. Then no goroutine, connection or file may be left.
func TestChurnLeaksNothing(t *testing.T) {
	const callers, servers = 16, 3000
	changes := int64(10_000)
	if raceEnabled {
		changes = 2000 // each costs handshakes, and those ten times as much
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
	h := startSocketPoolOn(t, m, all, pool.Config{Size: 16})
	var load sync.WaitGroup
	for caller := range callers {
		load.Go(func() {
			for n := 0; h.events.Load() < changes; n++ {
				h.send()
				if caller == 0 && n%100 == 0 { // DNS names them in another order, and one in ten not at all
					h.setAddrs(append(slices.Clone(all[n%servers:]), all[:n%servers*9/10]...))
				}
			}
		})
	}
	load.Wait()
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	err = goleak.Find(before)
	for wait := time.Now(); err != nil && time.Since(wait) < time.Minute; err = goleak.Find(before) { // a slow machine takes its time to end them
	}
	if err != nil {
		t.Error(err)
	}
	if left := openFiles(t); left > files {
		t.Errorf("%d files are open, before it were %d", left, files)
	}
}

// openFiles counts this process's files and sockets, where the system tells.
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
