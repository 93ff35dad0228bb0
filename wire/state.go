// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// connStats holds what State reads without the lock.
type connStats struct {
	open, queued, limit, streamsOpened atomic.Int64
	lastRead                           atomic.Int64
	pingSentAt                         atomic.Int64 // when the ping was sent that is still pending, or zero
	draining, goAwayError              atomic.Bool
}

// State is a snapshot of a connection, for choosing between connections.
type State struct {
	InFlight   int // requests that have a stream or get one immediately
	Waiting    int // requests that wait for a stream
	MaxStreams int // limit on InFlight: the peer's, Config.MaxStreams and SerializeFirst combined
	// Draining is set if the connection accepts no new requests: after a GOAWAY, after Drain, or
	// after its end.
	Draining bool
	// GoAwayError is set if the peer sent a GOAWAY with an error code.
	GoAwayError   bool
	StreamsOpened int       // requests written so far
	LastRead      time.Time // when the peer last sent something
	// PingPending is set if nothing was received since the last ping was sent. The connection ends
	// if that lasts for Config.PingTimeout.
	PingPending bool
}

// unlimited stands for a missing MAX_CONCURRENT_STREAMS.
const unlimited = math.MaxInt32

// State returns a snapshot of the connection. It takes no lock.
func (c *Conn) State() State {
	p := &c.stats
	open, queued, limit := int(p.open.Load()), int(p.queued.Load()), int(p.limit.Load())
	lastRead, pingSentAt := p.lastRead.Load(), p.pingSentAt.Load()
	starting := min(queued, max(limit-open, 0))
	return State{
		InFlight: open + starting, Waiting: queued - starting, MaxStreams: limit,
		Draining: p.draining.Load(), GoAwayError: p.goAwayError.Load(), StreamsOpened: int(p.streamsOpened.Load()),
		LastRead: c.start.Add(time.Duration(lastRead)), PingPending: lastRead < pingSentAt,
	}
}

func (c *Conn) publish() {
	p := &c.stats
	p.open.Store(int64(len(c.open)))
	p.queued.Store(int64(c.waiting.n))
	p.limit.Store(int64(c.streamLimit()))
	p.streamsOpened.Store(int64(c.nextID / 2))
	p.draining.Store(c.draining || c.ended)
	p.goAwayError.Store(c.goAway != nil && c.goAway.code != http2.ErrCodeNo)
}

// streamLimit returns how many requests may be in flight.
func (c *Conn) streamLimit() int {
	n := c.peerSettings.maxStreams
	if c.cfg.MaxStreams > 0 {
		n = min(n, c.cfg.MaxStreams)
	}
	if c.serializeFirst {
		n = min(n, 1)
	}
	return n
}
