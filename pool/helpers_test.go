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

// testPool is a pool together with a fake service, in a synctest bubble.
type testPool struct {
	*pool.Pool
	t      *testing.T
	stop   context.CancelFunc
	ended  chan struct{}
	runErr error // result of Run, valid once ended is closed

	mu       sync.Mutex
	servers  map[netip.AddrPort]*fakeServer
	addrs    []netip.AddrPort // returned by the resolver
	ttl      time.Duration
	dnsErr   error
	resolves int // number of calls of Resolve
	events   []pool.Event
}

// fakeServer is one address of the service. Use testPool.setServer to change it.
type fakeServer struct {
	status      int           // of every response; 0 means no response until the request's timeout
	latency     time.Duration // of a response
	err         error         // returned instead of a response
	dialErr     error
	dialDelay   time.Duration
	maxStreams  int // per connection
	pingPending bool
	goAwayEvery int  // GOAWAY after so many requests of a connection; 0 never
	goAwayError bool // with an error code
	dials       []time.Time
	conns       []*fakeConn
	requests    int
}

// fakeConn is a fake connection.
type fakeConn struct {
	pool    *testPool
	server  *fakeServer
	cut     chan struct{} // closed when the peer cuts the connection
	cutOnce sync.Once

	mu       sync.Mutex
	inFlight int
	requests int
	draining bool
	onState  func()        // called by the next State, once
	idle     chan struct{} // closed when the connection is draining and nothing is in flight
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

// startPool runs a pool whose resolver returns the addresses 1 to n.
func startPool(t *testing.T, n int, cfg pool.Config) *testPool {
	t.Helper()
	tp := newTestPool(t, n, cfg)
	tp.run()
	return tp
}

func newTestPool(t *testing.T, n int, cfg pool.Config) *testPool {
	t.Helper()
	tp := &testPool{t: t, servers: map[netip.AddrPort]*fakeServer{}, addrs: addrs(1, n), ttl: time.Second, ended: make(chan struct{})}
	cfg.Name, cfg.Resolver, cfg.Dial = "test", tp, tp.dial
	cfg.Observe = tp.observe
	p, err := pool.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tp.Pool = p
	return tp
}

func (tp *testPool) run() {
	ctx, cancel := context.WithCancel(tp.t.Context())
	tp.stop = cancel
	go func() {
		defer close(tp.ended)
		tp.runErr = tp.Run(ctx)
	}()
	tp.t.Cleanup(func() { cancel(); <-tp.ended })
	synctest.Wait()
}

func (tp *testPool) observe(e pool.Event) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.events = append(tp.events, e)
}

// countEvents counts the events of a kind.
func (tp *testPool) countEvents(kind pool.EventKind) (n int) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, e := range tp.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (tp *testPool) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.resolves++
	return slices.Clone(tp.addrs), tp.ttl, tp.dnsErr
}

// setDNSErr changes the error of the resolver.
func (tp *testPool) setDNSErr(err error) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	tp.dnsErr = err
}

// setAddrs changes the resolver's answer and waits until the pool has applied it.
func (tp *testPool) setAddrs(list ...netip.AddrPort) {
	tp.mu.Lock()
	tp.addrs = list
	tp.mu.Unlock()
	advance(5 * time.Second)
}

func (tp *testPool) server(a netip.AddrPort) *fakeServer {
	s := tp.servers[a]
	if s == nil {
		s = &fakeServer{status: 200, latency: 20 * time.Millisecond, dialDelay: 30 * time.Millisecond, maxStreams: 1000}
		tp.servers[a] = s
	}
	return s
}

// setServer changes server i.
func (tp *testPool) setServer(i int, change func(*fakeServer)) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	change(tp.server(addr(i)))
}

// serverCopy returns a copy of server i.
func (tp *testPool) serverCopy(i int) fakeServer {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	return *tp.server(addr(i))
}

func (tp *testPool) dial(ctx context.Context, a netip.AddrPort) (pool.Conn, error) {
	tp.mu.Lock()
	s := tp.server(a)
	s.dials = append(s.dials, time.Now())
	wait, err := s.dialDelay, s.dialErr
	tp.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	c := &fakeConn{pool: tp, server: s, cut: make(chan struct{}), idle: make(chan struct{})}
	tp.mu.Lock()
	s.conns = append(s.conns, c)
	tp.mu.Unlock()
	return c, nil
}

var errCut = errors.New("connection cut by peer")

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

// goAway simulates a GOAWAY from the peer.
func (c *fakeConn) goAway() { c.Drain() }

// holdRequest keeps one request in flight until the test ends.
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
	onState := c.onState
	c.onState = nil
	c.mu.Unlock()
	if onState != nil {
		onState()
	}
	c.pool.mu.Lock()
	streams, pingPending, goAwayError := c.server.maxStreams, c.server.pingPending, c.server.goAwayError
	c.pool.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return wire.State{
		InFlight: c.inFlight, MaxStreams: streams, Draining: c.draining, PingPending: pingPending, GoAwayError: c.draining && goAwayError,
	}
}

func (c *fakeConn) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	c.pool.mu.Lock()
	goAwayEvery := c.server.goAwayEvery
	c.pool.mu.Unlock()
	c.mu.Lock()
	if c.draining {
		c.mu.Unlock()
		return nil, &wire.Error{Reason: wire.GoAwayUnprocessed, Processed: wire.Never}
	}
	c.inFlight++
	c.requests++
	c.draining = goAwayEvery > 0 && c.requests == goAwayEvery
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inFlight--
		c.closeIfIdle()
		c.mu.Unlock()
	}()
	c.pool.mu.Lock()
	c.server.requests++
	status, latency, err := c.server.status, c.server.latency, c.server.err
	c.pool.mu.Unlock()
	if status == 0 {
		latency, err = r.Timeout, &wire.Error{Reason: wire.ResponseTimeout, EndpointAtFault: true}
	}
	select {
	case <-time.After(latency):
	case <-c.cut:
		return nil, &wire.Error{Reason: wire.LostAfterWrite, EndpointAtFault: true}
	case <-ctx.Done():
		return nil, &wire.Error{Reason: wire.Canceled, Err: ctx.Err()}
	}
	if err != nil {
		return nil, err
	}
	return &wire.Response{Status: status}, nil
}

// outcomeOf converts a response as a provider would.
func outcomeOf(res *wire.Response, err error) push.Outcome {
	switch {
	case err != nil:
		return push.NoResponse(err)
	case res.Status == 429:
		return push.Outcome{Verdict: push.Throttled, HTTP: 429, Scope: push.ScopeDevice, Reason: "TooManyRequests"}
	case res.Status >= 500:
		return push.Outcome{Verdict: push.Unavailable, HTTP: res.Status, Scope: push.ScopeEndpoint, Reason: "InternalServerError"}
	default:
		return push.Outcome{Verdict: push.Accepted, HTTP: res.Status}
	}
}

var (
	request = &wire.Request{Method: "POST", Path: "/3/device/ab", Timeout: 5 * time.Second}

	accepted  = push.Outcome{Verdict: push.Accepted, HTTP: 200}
	failed    = push.Outcome{Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeEndpoint, Reason: "InternalServerError"}
	abandoned = push.Outcome{Verdict: push.Abandoned}
)

// pick returns a lease without waiting, or fails the test.
func (tp *testPool) pick(tried ...*pool.Endpoint) *pool.Lease {
	tp.t.Helper()
	ctx, cancel := context.WithTimeout(tp.t.Context(), time.Nanosecond)
	defer cancel()
	lease, err := tp.Pick(ctx, tried)
	if err != nil {
		tp.t.Fatalf("Pick(%v) = %v", tried, err)
	}
	return lease
}

// pickError returns the error of a Pick that waits for a millisecond.
func (tp *testPool) pickError(tried ...*pool.Endpoint) *pool.Error {
	tp.t.Helper()
	ctx, cancel := context.WithTimeout(tp.t.Context(), time.Millisecond)
	defer cancel()
	lease, err := tp.Pick(ctx, tried)
	if err == nil {
		tp.t.Fatalf("Pick(%v) = %s; want an error", tried, lease.Endpoint())
	}
	pickErr, ok := errors.AsType[*pool.Error](err)
	if !ok {
		tp.t.Fatalf("Pick(%v) = %T %v; want a *pool.Error", tried, err, err)
	}
	return pickErr
}

// attempt sends one request and returns its endpoint and outcome.
func (tp *testPool) attempt(tried ...*pool.Endpoint) (*pool.Endpoint, push.Outcome) {
	tp.t.Helper()
	lease, err := tp.Pick(tp.t.Context(), tried)
	if err != nil {
		tp.t.Fatal(err)
	}
	o := outcomeOf(lease.Do(tp.t.Context(), request))
	lease.Done(o)
	return lease.Endpoint(), o
}

// pickEndpoint leases endpoint i.
func (tp *testPool) pickEndpoint(i int) *pool.Lease {
	tp.t.Helper()
	var others []*pool.Lease
	defer func() {
		for _, l := range others {
			l.Done(abandoned)
		}
	}()
	for range 400 {
		l := tp.pick()
		if l.Endpoint().Addr() == addr(i) {
			return l
		}
		others = append(others, l)
	}
	tp.t.Fatalf("endpoint %d was not picked", i)
	return nil
}

// eject makes endpoint i fail five times in a row.
func (tp *testPool) eject(i int) {
	tp.t.Helper()
	for range 5 {
		tp.pickEndpoint(i).Done(failed)
	}
	if s := tp.endpointStatus(i); s.State != "open" {
		tp.t.Fatalf("endpoint %d is %s after five consecutive failures", i, s.State)
	}
	synctest.Wait()
}

// members returns the sorted addresses of the members.
func (tp *testPool) members() (list []string) {
	for _, e := range tp.Status().Endpoints {
		list = append(list, e.Address)
	}
	slices.Sort(list)
	return list
}

func (tp *testPool) wantMembers(want ...int) {
	tp.t.Helper()
	var names []string
	for _, i := range want {
		names = append(names, addr(i).String())
	}
	slices.Sort(names)
	if got := tp.members(); !slices.Equal(got, names) {
		tp.t.Fatalf("the members are %v; want %v\n%s", got, names, tp.eventLog())
	}
}

// countPicks picks n times and counts the picks per endpoint.
func (tp *testPool) countPicks(n int) map[string]int {
	tp.t.Helper()
	got := map[string]int{}
	for range n {
		l := tp.pick()
		got[l.Endpoint().String()]++
		l.Done(accepted)
	}
	return got
}

func (tp *testPool) endpointStatus(i int) pool.EndpointStatus {
	tp.t.Helper()
	s := tp.Status()
	for _, e := range append(s.Endpoints, s.Spares...) {
		if e.Address == addr(i).String() {
			return e
		}
	}
	tp.t.Fatalf("endpoint %d is unknown to the pool", i)
	return pool.EndpointStatus{}
}

func (tp *testPool) dialCount() (n int) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, s := range tp.servers {
		n += len(s.dials)
	}
	return n
}

// lastConn returns the newest connection of server i.
func (tp *testPool) lastConn(i int) *fakeConn {
	tp.t.Helper()
	conns := tp.serverCopy(i).conns
	if len(conns) == 0 {
		tp.t.Fatalf("server %d has no connection", i)
	}
	return conns[len(conns)-1]
}

// eventLog formats all events, for failure messages.
func (tp *testPool) eventLog() (log string) {
	tp.mu.Lock()
	defer tp.mu.Unlock()
	for _, e := range tp.events {
		log += fmt.Sprintf("%s %s %s: %s\n", e.Time.Format("04:05.000"), e.Kind, e.Endpoint, e.Reason)
	}
	return log
}

// advance advances the fake time by d and waits until all goroutines are blocked.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
