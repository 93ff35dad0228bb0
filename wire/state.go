// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math"
	"sync/atomic"
	"time"
)

// connStats is what State reads without the lock.
type connStats struct {
	open, queued, limit, streamsOpened atomic.Int64
	lastRead                           atomic.Int64
	pingSentAt                         atomic.Int64 // when the ping was sent that nothing came after, or zero
	draining                           atomic.Bool
}

// State is how a connection stands, for those who choose one.
type State struct {
	InFlight      int       // requests that have a stream, or get one at once
	Waiting       int       // requests that wait for one
	MaxStreams    int       // how many may be in flight now: the peer's limit, ours and FirstAlone
	Draining      bool      // it takes nothing new: GOAWAY, Drain, or its end
	StreamsOpened int       // requests written since it was made
	LastRead      time.Time // when the peer was last heard
	PingPending   bool      // nothing has been heard since the peer was pinged: an answer, or the end, is due soon
}

// unlimited is MAX_CONCURRENT_STREAMS where the peer names none.
const unlimited = math.MaxInt32

// State takes no lock.
func (c *Conn) State() State {
	p := &c.stats
	open, queued, limit := int(p.open.Load()), int(p.queued.Load()), int(p.limit.Load())
	heard, pinged := p.lastRead.Load(), p.pingSentAt.Load()
	soon := min(queued, max(limit-open, 0))
	return State{
		InFlight: open + soon, Waiting: queued - soon, MaxStreams: limit,
		Draining: p.draining.Load(), StreamsOpened: int(p.streamsOpened.Load()),
		LastRead: c.start.Add(time.Duration(heard)), PingPending: heard < pinged,
	}
}

func (c *Conn) publish() {
	p := &c.stats
	p.open.Store(int64(len(c.open)))
	p.queued.Store(int64(c.waiting.n))
	p.limit.Store(int64(c.streamLimit()))
	p.streamsOpened.Store(int64(c.nextID / 2))
	p.draining.Store(c.draining || c.ended)
}

// streamLimit is how many requests may be in flight.
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
