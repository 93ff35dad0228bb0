// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// testPool is a pool and the service that it lives on, all fakes, all in one
// bubble of fake time.
type testPool struct {
	*pool.Pool
	t      *testing.T
	stop   context.CancelFunc
	ended  chan struct{}
	runErr error // of Run, once ended is closed

	mu       sync.Mutex
	servers  map[netip.AddrPort]*fakeServer
	addrs    []netip.AddrPort // what the resolver names
	ttl      time.Duration
	dnsErr   error
	resolves int // how often the resolver was
	events   []pool.Event
}

// fakeServer is one address of the service. Its fields may be changed at any time
// through house.set.
type fakeServer struct {
	status      int           // of every answer; 0 means silence until the request's timeout
	latency     time.Duration // for an answer
	err         error         // instead of an answer
	dialErr     error
	dialDelay   time.Duration
	maxStreams  int // that a connection lets be in flight
	pingPending bool
	dials       []time.Time
	conns       []*fakeConn
	requests    int
}

// fakeConn is a fake connection.
type fakeConn struct {
	pool    *testPool
	server  *fakeServer
	cut     chan struct{} // closed when the peer cuts it
	cutOnce sync.Once

	mu       sync.Mutex
	inFlight int
	draining bool
	onState  func()        // called once, by the next State
	idle     chan struct{} // closed when it drains and nothing is in flight
	idleOnce sync.Once
}

var _ pool.Conn = (*fakeConn)(nil)

func addr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 443)
}

func addrs(from, to int) (list []netip.AddrPort) {
	for i := from; i <= to; i++ {
		list = append(list, addr(i))
	}
	return list
}

// startPool builds a house whose resolver names the addresses 1 to n, and runs it.
func startPool(t *testing.T, n int, cfg pool.Config) *testPool {
	t.Helper()
	h := newTestPool(t, n, cfg)
	h.run()
	return h
}

func newTestPool(t *testing.T, n int, cfg pool.Config) *testPool {
	t.Helper()
	h := &testPool{t: t, servers: map[netip.AddrPort]*fakeServer{}, addrs: addrs(1, n), ttl: time.Second, ended: make(chan struct{})}
	cfg.Name, cfg.Resolver, cfg.Dial = "test", h, h.dial
	cfg.Observe = h.observe
	p, err := pool.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Pool = p
	return h
}

func (h *testPool) run() {
	ctx, cancel := context.WithCancel(h.t.Context())
	h.stop = cancel
	go func() {
		defer close(h.ended)
		h.runErr = h.Run(ctx)
	}()
	h.t.Cleanup(func() { cancel(); <-h.ended })
	synctest.Wait()
}

func (h *testPool) observe(e pool.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// countEvents counts events of a kind.
func (h *testPool) countEvents(kind pool.EventKind) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (h *testPool) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resolves++
	return slices.Clone(h.addrs), h.ttl, h.dnsErr
}

// setAddrs changes what the resolver names, and waits until the pool has heard it.
func (h *testPool) setAddrs(list ...netip.AddrPort) {
	h.mu.Lock()
	h.addrs = list
	h.mu.Unlock()
	advance(5 * time.Second)
}

func (h *testPool) server(a netip.AddrPort) *fakeServer {
	s := h.servers[a]
	if s == nil {
		s = &fakeServer{status: 200, latency: 20 * time.Millisecond, dialDelay: 30 * time.Millisecond, maxStreams: 1000}
		h.servers[a] = s
	}
	return s
}

// setServer changes a server.
func (h *testPool) setServer(i int, change func(*fakeServer)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h.server(addr(i)))
}

// serverCopy reads a server.
func (h *testPool) serverCopy(i int) fakeServer {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *h.server(addr(i))
}

func (h *testPool) dial(ctx context.Context, a netip.AddrPort) (pool.Conn, error) {
	h.mu.Lock()
	s := h.server(a)
	s.dials = append(s.dials, time.Now())
	wait, err := s.dialDelay, s.dialErr
	h.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	c := &fakeConn{pool: h, server: s, cut: make(chan struct{}), idle: make(chan struct{})}
	h.mu.Lock()
	s.conns = append(s.conns, c)
	h.mu.Unlock()
	return c, nil
}

var errCut = errors.New("the peer cut it")

func (c *fakeConn) Run(ctx context.Context) error {
	select {
	case <-c.idle:
		return nil
	case <-c.cut:
		return errCut
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *fakeConn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.closeIfIdle()
}

// goAway is the peer's doing.
func (c *fakeConn) goAway() { c.Drain() }

// holdRequest lets a request be in flight for ever.
func (c *fakeConn) holdRequest() {
	c.mu.Lock()
	c.inFlight++
	c.mu.Unlock()
	c.pool.t.Cleanup(c.disconnect)
}

// closeIfIdle is called under mu.
func (c *fakeConn) closeIfIdle() {
	if c.draining && c.inFlight == 0 {
		c.idleOnce.Do(func() { close(c.idle) })
	}
}

// disconnect cuts the connection.
func (c *fakeConn) disconnect() {
	c.cutOnce.Do(func() { close(c.cut) })
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
}

func (c *fakeConn) State() wire.State {
	c.mu.Lock()
	asked := c.onState
	c.onState = nil
	c.mu.Unlock()
	if asked != nil {
		asked()
	}
	c.pool.mu.Lock()
	streams, silent := c.server.maxStreams, c.server.pingPending
	c.pool.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return wire.State{InFlight: c.inFlight, MaxStreams: streams, Draining: c.draining, PingPending: silent}
}

func (c *fakeConn) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	c.mu.Lock()
	if c.draining {
		c.mu.Unlock()
		return nil, &wire.Error{Reason: wire.GoAwayUnprocessed, Processed: wire.Never}
	}
	c.inFlight++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inFlight--
		c.closeIfIdle()
		c.mu.Unlock()
	}()
	c.pool.mu.Lock()
	c.server.requests++
	status, takes, err := c.server.status, c.server.latency, c.server.err
	c.pool.mu.Unlock()
	if status == 0 {
		takes, err = r.Timeout, &wire.Error{Reason: wire.ResponseTimeout, EndpointAtFault: true}
	}
	select {
	case <-time.After(takes):
	case <-c.cut:
		return nil, &wire.Error{Reason: wire.LostAfterWrite, EndpointAtFault: true}
	case <-ctx.Done():
		return nil, &wire.Error{Reason: wire.Cancelled, Err: ctx.Err()}
	}
	if err != nil {
		return nil, err
	}
	return &wire.Response{Status: status}, nil
}

// outcomeOf is what a provider would make of an answer.
func outcomeOf(answer *wire.Response, err error) push.Outcome {
	switch {
	case err != nil:
		return push.NoResponse(err)
	case answer.Status == 429:
		return push.Outcome{Verdict: push.Throttled, HTTP: 429, Scope: push.ScopeDevice, Reason: "TooManyRequests"}
	case answer.Status >= 500:
		return push.Outcome{Verdict: push.Unavailable, HTTP: answer.Status, Scope: push.ScopeEndpoint, Reason: "InternalServerError"}
	default:
		return push.Outcome{Verdict: push.Accepted, HTTP: answer.Status}
	}
}

var (
	request = &wire.Request{Method: "POST", Path: "/3/device/ab", Timeout: 5 * time.Second}

	accepted  = push.Outcome{Verdict: push.Accepted, HTTP: 200}
	failed    = push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint, Reason: "InternalServerError"}
	abandoned = push.Outcome{Verdict: push.Abandoned}
)

// pick leases at once, or fails the test.
func (h *testPool) pick(tried ...*pool.Endpoint) *pool.Lease {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Nanosecond)
	defer cancel()
	lease, err := h.Pick(ctx, tried)
	if err != nil {
		h.t.Fatalf("Pick(%v) = %v", tried, err)
	}
	return lease
}

// pickError returns the error of a Pick that may take a moment, or fails.
func (h *testPool) pickError(tried ...*pool.Endpoint) *pool.Error {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Millisecond)
	defer cancel()
	lease, err := h.Pick(ctx, tried)
	if err == nil {
		h.t.Fatalf("Pick(%v) = %s, want an error", tried, lease.Endpoint())
	}
	refusal, ok := errors.AsType[*pool.Error](err)
	if !ok {
		h.t.Fatalf("Pick(%v): %T %v is no *pool.Error", tried, err, err)
	}
	return refusal
}

// attempt makes one attempt and tells where it went.
func (h *testPool) attempt(tried ...*pool.Endpoint) (*pool.Endpoint, push.Outcome) {
	h.t.Helper()
	lease, err := h.Pick(h.t.Context(), tried)
	if err != nil {
		h.t.Fatal(err)
	}
	o := outcomeOf(lease.Do(h.t.Context(), request))
	lease.Done(o)
	return lease.Endpoint(), o
}

// pickEndpoint leases endpoint i, passing by the others.
func (h *testPool) pickEndpoint(i int) *pool.Lease {
	h.t.Helper()
	var others []*pool.Lease
	defer func() {
		for _, l := range others {
			l.Done(abandoned)
		}
	}()
	for range 400 {
		l := h.pick()
		if l.Endpoint().Addr() == addr(i) {
			return l
		}
		others = append(others, l)
	}
	h.t.Fatalf("endpoint %d was not picked", i)
	return nil
}

// eject makes endpoint i fail five times in a row.
func (h *testPool) eject(i int) {
	h.t.Helper()
	for range 5 {
		h.pickEndpoint(i).Done(failed)
	}
	if s := h.endpointStatus(i); s.State != "open" {
		h.t.Fatalf("endpoint %d is %s after five failures in a row", i, s.State)
	}
	synctest.Wait()
}

// members lists the members, in order.
func (h *testPool) members() (list []string) {
	for _, e := range h.Status().Endpoints {
		list = append(list, e.Address)
	}
	slices.Sort(list)
	return list
}

func (h *testPool) wantMembers(want ...int) {
	h.t.Helper()
	var names []string
	for _, i := range want {
		names = append(names, addr(i).String())
	}
	slices.Sort(names)
	if got := h.members(); !slices.Equal(got, names) {
		h.t.Fatalf("the pool holds %v, want %v\n%s", got, names, h.eventLog())
	}
}

// countPicks counts where n attempts without an outcome of note are sent.
func (h *testPool) countPicks(n int) map[string]int {
	h.t.Helper()
	got := map[string]int{}
	for range n {
		l := h.pick()
		got[l.Endpoint().String()]++
		l.Done(accepted)
	}
	return got
}

func (h *testPool) endpointStatus(i int) pool.EndpointStatus {
	h.t.Helper()
	s := h.Status()
	for _, e := range append(s.Endpoints, s.Spares...) {
		if e.Address == addr(i).String() {
			return e
		}
	}
	h.t.Fatalf("endpoint %d is not known", i)
	return pool.EndpointStatus{}
}

func (h *testPool) dialCount() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.servers {
		n += len(s.dials)
	}
	return n
}

// lastConn returns the newest connection of server i.
func (h *testPool) lastConn(i int) *fakeConn {
	h.t.Helper()
	conns := h.serverCopy(i).conns
	if len(conns) == 0 {
		h.t.Fatalf("server %d has no connection", i)
	}
	return conns[len(conns)-1]
}

// eventLog is what happened, for a test that failed.
func (h *testPool) eventLog() (text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		text += fmt.Sprintf("%s %s %s: %s\n", e.Time.Format("04:05.000"), e.Kind, e.Endpoint, e.Reason)
	}
	return text
}

// advance lets fake time pass, and everybody finish what they do then.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
