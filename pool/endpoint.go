// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Endpoint is one address of the service. It outlives its place in the pool,
// and so does its breaker: an address that failed comes back as what it was.
type Endpoint struct {
	addr        netip.AddrPort
	name        string
	zone        func(netip.AddrPort) string
	turnCounter *atomic.Uint64 // the pool's
	lastTurn    atomic.Uint64  // when it was last picked, by turns
	inFlight    atomic.Int32
	conns       atomic.Pointer[[]*endpointConn] // the connections that take requests
	breaker     circuitBreaker
	outcomes    outcomeCounter

	// The pool's mu guards the rest.
	window      outcomeWindow // its last seconds, for the comparison with its peers
	member      bool          // it has a place in the pool
	listed      bool          // the resolver's last good answer names it
	dialling    bool          // one dial at a time
	expiresAt   time.Time     // when its age makes room for another
	joinedAt    time.Time     // when it got its place
	lastListed  time.Time     // when the resolver last named it
	redialAt    time.Time     // not before
	redialDelay time.Duration
	replacedAt  time.Time // when a connection was last lost
}

// endpointConn is one connection of an endpoint.
type endpointConn struct {
	endpoint *Endpoint
	conn     Conn
	retired  atomic.Bool // it takes nothing new
}

func newEndpoint(addr netip.AddrPort, turns *atomic.Uint64, cfg *Config) *Endpoint {
	e := &Endpoint{addr: addr, name: addr.String(), zone: cfg.Zone, turnCounter: turns}
	e.conns.Store(new([]*endpointConn))
	e.breaker.init(&cfg.Breaker)
	return e
}

// String returns the address as "ip:port", "[ip]:port" for IPv6.
func (e *Endpoint) String() string { return e.name }

// Addr returns the address.
func (e *Endpoint) Addr() netip.AddrPort { return e.addr }

// Zone returns the zone that Config.Zone names for the address, "" if none.
func (e *Endpoint) Zone() string { return e.zone(e.addr) }

// Healthy reports whether it has a connection and is not ejected: whether it
// may be picked, but for being full or tried.
func (e *Endpoint) Healthy() bool { return e.live() && e.breaker.healthy() }

// InFlight returns how many leases are out, for a Picker to weigh.
func (e *Endpoint) InFlight() int { return int(e.inFlight.Load()) }

// live reports whether it has a connection; before its first one and after its
// last one it is not picked.
func (e *Endpoint) live() bool { return len(*e.conns.Load()) > 0 }

// capacity is how many leases it can bear at once: limit, or what its
// connections let be in flight if that is less. A lease beyond that would wait
// on a connection while other endpoints are free, and be lost with it. Where
// every connection drains it is limit: the one who leases finds that out.
func (e *Endpoint) capacity(limit int) int {
	streams := 0
	for _, l := range *e.conns.Load() {
		if state := l.conn.State(); !state.Draining {
			streams += state.MaxStreams
		}
	}
	if streams == 0 {
		return limit
	}
	return min(limit, streams)
}

// freeSlots is how many more leases it can bear now.
func (e *Endpoint) freeSlots(limit int) int { return e.capacity(limit) - e.InFlight() }

// acquire takes a place in flight, if the limit leaves one.
func (e *Endpoint) acquire(limit int) bool {
	limit = e.capacity(limit)
	for {
		n := e.inFlight.Load()
		if int(n) >= limit {
			return false
		}
		if e.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// suspect reports whether it will soon be known whether it is well: it is half
// way to its ejection and has requests in flight, or it owes a sign of life.
func (e *Endpoint) suspect() bool {
	return e.breaker.suspect.Load() && e.InFlight() > 0 || e.pingPending()
}

// pingPending reports whether it has been asked for a sign of life on all of its
// connections and has given none yet. Where a zone is lost its endpoints fall
// silent together, and what one had taken must not be repeated at the next.
func (e *Endpoint) pingPending() bool {
	for _, l := range *e.conns.Load() {
		if !l.conn.State().PingPending {
			return false
		}
	}
	return true
}

func (e *Endpoint) release() { e.inFlight.Add(-1) }

// bestConn returns the connection with the least to do. The second result is one
// that says that it takes nothing new and has to be retired.
func (e *Endpoint) bestConn() (best, spent *endpointConn) {
	least := 0
	for _, l := range *e.conns.Load() {
		state := l.conn.State()
		if state.Draining {
			spent = l
			continue
		}
		if load := state.InFlight + state.Waiting; best == nil || load < least {
			best, least = l, load
		}
	}
	return best, spent
}

// addConn, dropLink and takeLinks are called under the pool's mu.
func (e *Endpoint) addConn(l *endpointConn) {
	links := append(slices.Clone(*e.conns.Load()), l)
	e.conns.Store(&links)
}

func (e *Endpoint) removeConn(l *endpointConn) {
	links := slices.DeleteFunc(slices.Clone(*e.conns.Load()), func(other *endpointConn) bool { return other == l })
	e.conns.Store(&links)
}

func (e *Endpoint) takeConns() []*endpointConn {
	links := *e.conns.Load()
	e.conns.Store(new([]*endpointConn))
	return links
}

// drainConns is called without a lock, for Drain writes to the peer.
func drainConns(links []*endpointConn) {
	for _, l := range links {
		if l.retired.CompareAndSwap(false, true) {
			l.conn.Drain()
		}
	}
}
