// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"math"
	"time"

	"golang.org/x/net/http2"
)

// minTick is the least time between two looks over the table.
const minTick = int64(time.Millisecond)

// A keeper that wakes so late was held up itself, with its whole process or machine. What the peer has said meanwhile may lie
// unread: it is read first, for as long as that was, but at most for mercy, and again where that was late too, but only so
// many times in a row.
const (
	lateWake  = 100 * time.Millisecond
	maxGrace  = time.Second
	maxGraces = 5
)

// runTimers keeps the time for all requests of the connection: one timer, set to
// the earliest thing that can be due. It returns when the connection has ended.
func (c *Conn) runTimers(ctx context.Context) {
	wait, excused := c.tick(), 0
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		meant := c.readClock() + int64(wait)
		timer.Reset(wait)
		select {
		case <-timer.C:
			if late := time.Duration(c.readClock() - meant); late > lateWake && excused < maxGraces {
				excused, wait = excused+1, min(late, maxGrace)
				continue
			}
			excused, wait = 0, c.tick()
		case <-c.rearm:
			wait = c.untilNextWake()
		case <-ctx.Done():
			c.mu.Lock()
			c.abortConn(&Error{Reason: Cancelled, Err: ctx.Err()})
			c.mu.Unlock()
			ctx = context.Background()
		case <-c.done:
			return
		}
	}
}

// wakeBy makes the keeper look at the time t or earlier.
func (c *Conn) wakeBy(t int64) {
	if t >= c.nextWake {
		return
	}
	c.nextWake = t
	select {
	case c.rearm <- struct{}{}:
	default:
	}
}

// readClock is now for the keeper, whose clock a test may set.
func (c *Conn) readClock() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Conn) untilNextWake() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.nextWake - c.now())
}

// tick does what is due and says when to look again.
func (c *Conn) tick() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	next := min(c.expire(now), c.checkPing(now))
	c.nextWake = max(next, now+minTick)
	return time.Duration(c.nextWake - now)
}

// expire ends the requests whose time is up and returns the next one's time.
// It looks at all of them, but only when the earliest that it knew of is due:
// about once per timeout while the peer answers.
func (c *Conn) expire(now int64) int64 {
	next := int64(math.MaxInt64)
	for s := c.waiting.first; s != nil; {
		following := s.next
		next = min(next, c.expireOne(s, now))
		s = following
	}
	for _, s := range c.open {
		next = min(next, c.expireOne(s, now))
	}
	return next
}

func (c *Conn) expireOne(s *stream, now int64) int64 {
	if s.deadline > now {
		return s.deadline
	}
	c.abortStream(s, http2.ErrCodeCancel, &Error{Reason: ResponseTimeout, Processed: s.processed(), EndpointAtFault: true})
	return math.MaxInt64
}

// checkPing keeps watch over the peer's silence (RFC 9113 §6.7), and returns when
// to look again. Whatever the peer sends is a sign of life; an answer to the
// ping is only what a healthy peer cannot fail to send.
func (c *Conn) checkPing(now int64) int64 {
	heard, pinged := c.stats.lastRead.Load(), &c.stats.pingSentAt
	if heard >= pinged.Load() {
		pinged.Store(0)
	}
	if pinged.Load() != 0 {
		return c.checkPingTimeout(now)
	}
	due := heard + int64(c.cfg.IdlePingInterval)
	if len(c.open) > 0 {
		due = max(heard, c.busySince) + int64(c.cfg.ActivePingInterval)
	}
	if now < due || c.ended {
		return due
	}
	_ = c.controlFramer.WritePing(false, [8]byte{'s', 'l', 'u', 'i', 'c', 'e'})
	c.work.Signal()
	pinged.Store(now)
	return now + int64(c.cfg.PingTimeout)
}

func (c *Conn) checkPingTimeout(now int64) int64 {
	due := c.stats.pingSentAt.Load() + int64(c.cfg.PingTimeout)
	if now >= due {
		c.abortConn(&Error{Reason: PingTimeout, EndpointAtFault: true})
	}
	return due
}
