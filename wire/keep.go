// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"math"
	"time"

	"golang.org/x/net/http2"
)

// grain is the least time between two looks over the table.
const grain = int64(time.Millisecond)

// A keeper that wakes so late was held up itself, with its whole process or machine. What the peer has said meanwhile may lie
// unread: it is read first, for as long as that was, but at most for mercy, and again where that was late too, but only so
// many times in a row.
const (
	heldUp  = 100 * time.Millisecond
	mercy   = time.Second
	mercies = 5
)

// keep keeps the time for all requests of the connection: one timer, set to
// the earliest thing that can be due. It returns when the connection has ended.
func (c *Conn) keep(ctx context.Context) {
	wait, excused := c.tick(), 0
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		meant := c.clock() + int64(wait)
		timer.Reset(wait)
		select {
		case <-timer.C:
			if late := time.Duration(c.clock() - meant); late > heldUp && excused < mercies {
				excused, wait = excused+1, min(late, mercy)
				continue
			}
			excused, wait = 0, c.tick()
		case <-c.alarm:
			wait = c.untilArmed()
		case <-ctx.Done():
			c.mu.Lock()
			c.hangUp(&Error{Reason: Cancelled, Err: ctx.Err()})
			c.mu.Unlock()
			ctx = context.Background()
		case <-c.stop:
			return
		}
	}
}

// wakeBy makes the keeper look at the time t or earlier.
func (c *Conn) wakeBy(t int64) {
	if t >= c.armed {
		return
	}
	c.armed = t
	select {
	case c.alarm <- struct{}{}:
	default:
	}
}

// clock is now for the keeper, whose clock a test may set.
func (c *Conn) clock() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *Conn) untilArmed() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(c.armed - c.now())
}

// tick does what is due and says when to look again.
func (c *Conn) tick() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	next := min(c.expire(now), c.ping(now))
	c.armed = max(next, now+grain)
	return time.Duration(c.armed - now)
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
	c.abort(s, http2.ErrCodeCancel, &Error{Reason: ResponseTimeout, Processed: s.processed(), Endpoint: true})
	return math.MaxInt64
}

// ping keeps watch over the peer's silence (RFC 9113 §6.7), and returns when
// to look again. Whatever the peer sends is a sign of life; an answer to the
// ping is only what a healthy peer cannot fail to send.
func (c *Conn) ping(now int64) int64 {
	heard, pinged := c.published.lastRead.Load(), &c.published.pinged
	if heard >= pinged.Load() {
		pinged.Store(0)
	}
	if pinged.Load() != 0 {
		return c.awaitPong(now)
	}
	due := heard + int64(c.cfg.PingIdle)
	if len(c.open) > 0 {
		due = max(heard, c.busy) + int64(c.cfg.PingBusy)
	}
	if now < due || c.ended {
		return due
	}
	_ = c.say.WritePing(false, [8]byte{'s', 'l', 'u', 'i', 'c', 'e'})
	c.work.Signal()
	pinged.Store(now)
	return now + int64(c.cfg.PingTimeout)
}

func (c *Conn) awaitPong(now int64) int64 {
	due := c.published.pinged.Load() + int64(c.cfg.PingTimeout)
	if now >= due {
		c.hangUp(&Error{Reason: PingTimeout, Endpoint: true})
	}
	return due
}
