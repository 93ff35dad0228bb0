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

// house is a pool and the service that it lives on, all fakes, all in one
// bubble of fake time.
type house struct {
	*pool.Pool
	t      *testing.T
	stop   context.CancelFunc
	ended  chan struct{}
	result error // of Run, once ended is closed

	mu      sync.Mutex
	servers map[netip.AddrPort]*server
	named   []netip.AddrPort // what the resolver names
	ttl     time.Duration
	dnsErr  error
	asked   int // how often the resolver was
	events  []pool.Event
}

// server is one address of the service. Its fields may be changed at any time
// through house.set.
type server struct {
	status  int           // of every answer; 0 means silence until the request's timeout
	takes   time.Duration // for an answer
	err     error         // instead of an answer
	dialErr error
	dialFor time.Duration
	streams int // that a connection lets be in flight
	silent  bool
	dials   []time.Time
	conns   []*conn
	hits    int
}

// conn is a fake connection.
type conn struct {
	house   *house
	server  *server
	cut     chan struct{} // closed when the peer cuts it
	cutOnce sync.Once

	mu       sync.Mutex
	inFlight int
	goneAway bool
	asked    func()        // called once, by the next State
	idle     chan struct{} // closed when it drains and nothing is in flight
	idleOnce sync.Once
}

var _ pool.Conn = (*conn)(nil)

func addr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 443)
}

func addrs(from, to int) (list []netip.AddrPort) {
	for i := from; i <= to; i++ {
		list = append(list, addr(i))
	}
	return list
}

// open builds a house whose resolver names the addresses 1 to n, and runs it.
func open(t *testing.T, n int, cfg pool.Config) *house {
	t.Helper()
	h := build(t, n, cfg)
	h.run()
	return h
}

func build(t *testing.T, n int, cfg pool.Config) *house {
	t.Helper()
	h := &house{t: t, servers: map[netip.AddrPort]*server{}, named: addrs(1, n), ttl: time.Second, ended: make(chan struct{})}
	cfg.Name, cfg.Resolver, cfg.Dial = "test", h, h.dial
	cfg.Observe = h.observe
	p, err := pool.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.Pool = p
	return h
}

func (h *house) run() {
	ctx, cancel := context.WithCancel(h.t.Context())
	h.stop = cancel
	go func() {
		defer close(h.ended)
		h.result = h.Run(ctx)
	}()
	h.t.Cleanup(func() { cancel(); <-h.ended })
	synctest.Wait()
}

func (h *house) observe(e pool.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

// saw counts events of a kind.
func (h *house) saw(kind pool.Kind) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (h *house) Resolve(context.Context) ([]netip.AddrPort, time.Duration, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	return slices.Clone(h.named), h.ttl, h.dnsErr
}

// name changes what the resolver names, and waits until the pool has heard it.
func (h *house) name(list ...netip.AddrPort) {
	h.mu.Lock()
	h.named = list
	h.mu.Unlock()
	pass(5 * time.Second)
}

func (h *house) server(a netip.AddrPort) *server {
	s := h.servers[a]
	if s == nil {
		s = &server{status: 200, takes: 20 * time.Millisecond, dialFor: 30 * time.Millisecond, streams: 1000}
		h.servers[a] = s
	}
	return s
}

// set changes a server.
func (h *house) set(i int, change func(*server)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(h.server(addr(i)))
}

// look reads a server.
func (h *house) look(i int) server {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *h.server(addr(i))
}

func (h *house) dial(ctx context.Context, a netip.AddrPort) (pool.Conn, error) {
	h.mu.Lock()
	s := h.server(a)
	s.dials = append(s.dials, time.Now())
	wait, err := s.dialFor, s.dialErr
	h.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	c := &conn{house: h, server: s, cut: make(chan struct{}), idle: make(chan struct{})}
	h.mu.Lock()
	s.conns = append(s.conns, c)
	h.mu.Unlock()
	return c, nil
}

var errCut = errors.New("the peer cut it")

func (c *conn) Run(ctx context.Context) error {
	select {
	case <-c.idle:
		return nil
	case <-c.cut:
		return errCut
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *conn) Drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.goneAway = true
	c.rest()
}

// goAway is the peer's doing.
func (c *conn) goAway() { c.Drain() }

// occupy lets a request be in flight for ever.
func (c *conn) occupy() {
	c.mu.Lock()
	c.inFlight++
	c.mu.Unlock()
	c.house.t.Cleanup(c.die)
}

// rest is called under mu.
func (c *conn) rest() {
	if c.goneAway && c.inFlight == 0 {
		c.idleOnce.Do(func() { close(c.idle) })
	}
}

// die cuts the connection.
func (c *conn) die() {
	c.cutOnce.Do(func() { close(c.cut) })
	c.mu.Lock()
	c.goneAway = true
	c.mu.Unlock()
}

func (c *conn) State() wire.State {
	c.mu.Lock()
	asked := c.asked
	c.asked = nil
	c.mu.Unlock()
	if asked != nil {
		asked()
	}
	c.house.mu.Lock()
	streams, silent := c.server.streams, c.server.silent
	c.house.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return wire.State{InFlight: c.inFlight, MaxStreams: streams, Draining: c.goneAway, Silent: silent}
}

func (c *conn) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	c.mu.Lock()
	if c.goneAway {
		c.mu.Unlock()
		return nil, &wire.Error{Reason: wire.GoAwayUnprocessed, Processed: wire.Never}
	}
	c.inFlight++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.inFlight--
		c.rest()
		c.mu.Unlock()
	}()
	c.house.mu.Lock()
	c.server.hits++
	status, takes, err := c.server.status, c.server.takes, c.server.err
	c.house.mu.Unlock()
	if status == 0 {
		takes, err = r.Timeout, &wire.Error{Reason: wire.ResponseTimeout, Endpoint: true}
	}
	select {
	case <-time.After(takes):
	case <-c.cut:
		return nil, &wire.Error{Reason: wire.LostAfterWrite, Endpoint: true}
	case <-ctx.Done():
		return nil, &wire.Error{Reason: wire.Cancelled, Err: ctx.Err()}
	}
	if err != nil {
		return nil, err
	}
	return &wire.Response{Status: status}, nil
}

// judge is what a provider would make of an answer.
func judge(answer *wire.Response, err error) push.Outcome {
	switch {
	case err != nil:
		return push.NoAnswer(err)
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
func (h *house) pick(tried ...*pool.Endpoint) *pool.Lease {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Nanosecond)
	defer cancel()
	lease, err := h.Pick(ctx, tried)
	if err != nil {
		h.t.Fatalf("Pick(%v) = %v", tried, err)
	}
	return lease
}

// refused returns the error of a Pick that may take a moment, or fails.
func (h *house) refused(tried ...*pool.Endpoint) *pool.Error {
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
func (h *house) attempt(tried ...*pool.Endpoint) (*pool.Endpoint, push.Outcome) {
	h.t.Helper()
	lease, err := h.Pick(h.t.Context(), tried)
	if err != nil {
		h.t.Fatal(err)
	}
	o := judge(lease.Do(h.t.Context(), request))
	lease.Done(o)
	return lease.Endpoint(), o
}

// visit leases endpoint i, passing by the others.
func (h *house) visit(i int) *pool.Lease {
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
func (h *house) eject(i int) {
	h.t.Helper()
	for range 5 {
		h.visit(i).Done(failed)
	}
	if s := h.state(i); s.State != "open" {
		h.t.Fatalf("endpoint %d is %s after five failures in a row", i, s.State)
	}
	synctest.Wait()
}

// addresses lists the members, in order.
func (h *house) addresses() (list []string) {
	for _, e := range h.Status().Endpoints {
		list = append(list, e.Address)
	}
	slices.Sort(list)
	return list
}

func (h *house) wantMembers(want ...int) {
	h.t.Helper()
	var names []string
	for _, i := range want {
		names = append(names, addr(i).String())
	}
	slices.Sort(names)
	if got := h.addresses(); !slices.Equal(got, names) {
		h.t.Fatalf("the pool holds %v, want %v\n%s", got, names, h.story())
	}
}

// spread counts where n attempts without an outcome of note are sent.
func (h *house) spread(n int) map[string]int {
	h.t.Helper()
	got := map[string]int{}
	for range n {
		l := h.pick()
		got[l.Endpoint().String()]++
		l.Done(accepted)
	}
	return got
}

func (h *house) state(i int) pool.EndpointStatus {
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

func (h *house) dials() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.servers {
		n += len(s.dials)
	}
	return n
}

// lastConn returns the newest connection of server i.
func (h *house) lastConn(i int) *conn {
	h.t.Helper()
	conns := h.look(i).conns
	if len(conns) == 0 {
		h.t.Fatalf("server %d has no connection", i)
	}
	return conns[len(conns)-1]
}

// story is what happened, for a test that failed.
func (h *house) story() (text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		text += fmt.Sprintf("%s %s %s: %s\n", e.Time.Format("04:05.000"), e.Kind, e.Endpoint, e.Reason)
	}
	return text
}

// pass lets fake time pass, and everybody finish what they do then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
