// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Endpoint is one address of the service. The pool keeps an endpoint and its breaker after it stops
// being a member, so an address that failed returns in the same breaker state.
type Endpoint struct {
	pool     *Pool
	addr     netip.AddrPort
	name     string
	lastTurn atomic.Uint64 // value of Pool.turns at the last pick
	inFlight atomic.Int32
	conns    atomic.Pointer[[]*endpointConn] // connections that accept requests
	breaker  circuitBreaker
	outcomes outcomeCounter

	// Pool.mu guards the fields below.
	window      outcomeWindow // recent outcomes, for outlier detection
	member      bool          // has a slot in the pool
	listed      bool          // part of the resolver's last good answer
	dialing     bool          // a dial is in progress
	expiresAt   time.Time     // when it may be replaced by a new address
	joinedAt    time.Time     // when it became a member
	lastListed  time.Time     // when the resolver last returned it
	redialAt    time.Time     // earliest time of the next dial
	redialDelay time.Duration
	dialErr     error     // why the last dial failed; nil after a success
	replacedAt  time.Time // when its last connection was or will be replaced
}

// endpointConn is one connection of an endpoint.
type endpointConn struct {
	endpoint    *Endpoint
	conn        Conn
	connectedAt time.Time
	responses   atomic.Int64 // that show that the endpoint works
	retired     atomic.Bool  // accepts no new requests
}

// diedYoung reports whether the connection ended too early: within replaceInterval, and either with an
// error code in its GOAWAY or after fewer than usefulResponses. Some services and proxies close each
// connection with a GOAWAY after a number of requests; that is not a failure.
func (c *endpointConn) diedYoung(now time.Time) bool {
	if now.Sub(c.connectedAt) >= replaceInterval {
		return false
	}
	state := c.conn.State() // after a GOAWAY, requests in flight are those that the peer still answers
	return state.GoAwayError || int(c.responses.Load())+state.InFlight < usefulResponses
}

// freeStreams returns how many more requests get a stream immediately. It is negative if requests
// wait for one.
func (c *endpointConn) freeStreams() int {
	state := c.conn.State()
	return state.MaxStreams - state.InFlight - state.Waiting
}

func newEndpoint(p *Pool, addr netip.AddrPort) *Endpoint {
	e := &Endpoint{pool: p, addr: addr, name: p.cfg.EndpointName(addr)}
	e.conns.Store(new([]*endpointConn))
	e.breaker.init(&p.cfg.Breaker, &p.changes)
	return e
}

// String returns the name of the address: Config.EndpointName, or "ip:port", "[ip]:port" for IPv6.
func (e *Endpoint) String() string { return e.name }

// Addr returns the address.
func (e *Endpoint) Addr() netip.AddrPort { return e.addr }

// Zone returns the zone of the address according to Config.Zone, or "".
func (e *Endpoint) Zone() string { return e.pool.cfg.Zone(e.addr) }

// Healthy reports whether the endpoint is connected and its breaker is closed.
func (e *Endpoint) Healthy() bool { return e.live() && e.breaker.healthy() }

// InFlight returns the number of places of outstanding leases, for use by a Picker.
func (e *Endpoint) InFlight() int { return int(e.inFlight.Load()) }

// live reports whether the endpoint has a connection. Only live endpoints are picked.
func (e *Endpoint) live() bool { return len(*e.conns.Load()) > 0 }

// capacity returns the maximum number of places: the smaller of limit and the stream limits of the
// connections. A request beyond that would wait on a connection while other endpoints are free, and
// would be lost together with the connection. If all connections are draining, capacity returns
// limit; leaseEndpoint then finds no usable connection.
func (e *Endpoint) capacity(limit int) int {
	streams := 0
	for _, c := range *e.conns.Load() {
		if state := c.conn.State(); !state.Draining {
			streams += state.MaxStreams
		}
	}
	if streams == 0 {
		return limit
	}
	return min(limit, streams)
}

// freeSlots returns how many more places can be leased.
func (e *Endpoint) freeSlots(limit int) int { return e.capacity(limit) - e.InFlight() }

// acquire takes up to n in-flight slots and returns how many, which is 0 if none is free.
func (e *Endpoint) acquire(n, limit int) int { return addUpTo(&e.inFlight, n, e.capacity(limit)) }

// addUpTo adds up to n to a count that must not exceed limit, and returns how many.
func addUpTo(count *atomic.Int32, n, limit int) int {
	for {
		before := count.Load()
		n = min(n, limit-int(before))
		if n <= 0 {
			return 0
		}
		if count.CompareAndSwap(before, before+int32(n)) {
			return n
		}
	}
}

// suspect reports whether requests should avoid the endpoint until its state is known: its breaker
// is past half the failure threshold and requests are in flight, or it has not yet responded to a
// ping.
func (e *Endpoint) suspect() bool {
	return e.breaker.suspect.Load() && e.InFlight() > 0 || e.pingPending()
}

// pingPending reports whether all connections wait for a response to a ping. When a whole zone
// fails, its endpoints become silent together, and a retry must not move from one of them to the
// next.
func (e *Endpoint) pingPending() bool {
	for _, c := range *e.conns.Load() {
		if !c.conn.State().PingPending {
			return false
		}
	}
	return true
}

func (e *Endpoint) release(n int) { e.inFlight.Add(-int32(n)) }

// bestConn returns the connection with the least load. The second result is a connection that is
// draining and must be retired.
func (e *Endpoint) bestConn() (best, draining *endpointConn) {
	minLoad := 0
	for _, c := range *e.conns.Load() {
		state := c.conn.State()
		if state.Draining {
			draining = c
			continue
		}
		if load := state.InFlight + state.Waiting; best == nil || load < minLoad {
			best, minLoad = c, load
		}
	}
	return best, draining
}

// addConn, removeConn, takeConns and setConns are called under Pool.mu.
func (e *Endpoint) addConn(c *endpointConn) {
	e.setConns(append(slices.Clone(*e.conns.Load()), c))
}

func (e *Endpoint) removeConn(c *endpointConn) {
	e.setConns(slices.DeleteFunc(slices.Clone(*e.conns.Load()), func(other *endpointConn) bool { return other == c }))
}

func (e *Endpoint) takeConns() []*endpointConn {
	conns := *e.conns.Load()
	e.setConns(nil)
	return conns
}

func (e *Endpoint) setConns(conns []*endpointConn) {
	e.conns.Store(&conns)
	e.pool.changes.Add(1)
}

// drainConns drains the connections. It must be called without a lock, because Drain writes to the
// peer.
func drainConns(conns []*endpointConn) {
	for _, c := range conns {
		if c.retired.CompareAndSwap(false, true) {
			c.conn.Drain()
		}
	}
}
