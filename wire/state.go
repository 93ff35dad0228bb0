// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math"
	"sync/atomic"
	"time"
)

// published is what State reads without the lock.
type published struct {
	open, queued, limit, opened atomic.Int64
	lastRead                    atomic.Int64
	pinged                      atomic.Int64 // when the ping was sent that nothing came after, or zero
	leaving                     atomic.Bool
}

// State is how a connection stands, for those who choose one.
type State struct {
	InFlight   int       // requests that have a stream, or get one at once
	Waiting    int       // requests that wait for one
	MaxStreams int       // how many may be in flight now: the peer's limit, ours and FirstAlone
	Draining   bool      // it takes nothing new: GOAWAY, Drain, or its end
	Opened     int       // requests written since it was made
	LastRead   time.Time // when the peer was last heard
	Silent     bool      // nothing has been heard since the peer was pinged: an answer, or the end, is due soon
}

// unlimited is MAX_CONCURRENT_STREAMS where the peer names none.
const unlimited = math.MaxInt32

// State takes no lock.
func (c *Conn) State() State {
	p := &c.published
	open, queued, limit := int(p.open.Load()), int(p.queued.Load()), int(p.limit.Load())
	heard, pinged := p.lastRead.Load(), p.pinged.Load()
	soon := min(queued, max(limit-open, 0))
	return State{
		InFlight: open + soon, Waiting: queued - soon, MaxStreams: limit,
		Draining: p.leaving.Load(), Opened: int(p.opened.Load()),
		LastRead: c.born.Add(time.Duration(heard)), Silent: heard < pinged,
	}
}

func (c *Conn) publish() {
	p := &c.published
	p.open.Store(int64(len(c.open)))
	p.queued.Store(int64(c.waiting.n))
	p.limit.Store(int64(c.limit()))
	p.opened.Store(int64(c.nextID / 2))
	p.leaving.Store(c.leaving || c.ended)
}

// limit is how many requests may be in flight.
func (c *Conn) limit() int {
	n := c.peer.streams
	if c.cfg.MaxStreams > 0 {
		n = min(n, c.cfg.MaxStreams)
	}
	if c.alone {
		n = min(n, 1)
	}
	return n
}
