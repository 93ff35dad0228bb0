// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"math"
	"time"

	"golang.org/x/net/http2"
)

// minTick is the minimum time between two scans of the streams.
const minTick = int64(time.Millisecond)

// If runTimers wakes late, the process or the whole machine was paused, and the peer's responses
// may still be unread. Timeouts are then postponed by the delay, at most maxGrace, so that the
// reader catches up first. This happens at most maxGraces times in a row.
const (
	lateWake  = 100 * time.Millisecond
	maxGrace  = time.Second
	maxGraces = 5
)

// runTimers handles the timeouts and pings of the connection. It uses one timer, set to the
// earliest deadline, and returns when the connection has ended.
func (c *Conn) runTimers(ctx context.Context) {
	defer c.endOnPanic()
	wait, graces := c.tick(), 0
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.deliver()
		planned := c.readClock() + int64(wait)
		timer.Reset(wait)
		select {
		case <-timer.C:
			if late := time.Duration(c.readClock() - planned); late > lateWake && graces < maxGraces {
				graces, wait = graces+1, min(late, maxGrace)
				continue
			}
			graces, wait = 0, c.tick()
		case <-c.rearm:
			wait = c.untilNextWake()
		case <-ctx.Done():
			c.cancelConn(ctx.Err())
			ctx = context.Background()
		case <-c.done:
			return
		}
	}
}

func (c *Conn) cancelConn(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abortConn(&Error{Reason: Canceled, Err: cause})
}

// wakeBy makes runTimers run at time t or earlier.
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

// readClock returns now. It holds the lock because a test may move the clock.
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

// tick runs everything that is due and returns the time until the next tick.
func (c *Conn) tick() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	next := min(c.expire(now), c.checkPing(now))
	c.nextWake = max(next, now+minTick)
	return time.Duration(c.nextWake - now)
}

// expire fails the requests whose deadline has passed and returns the earliest remaining deadline.
// It scans all requests, but runs only when the earliest known deadline is due: about once per
// timeout while the peer responds.
func (c *Conn) expire(now int64) int64 {
	next := int64(math.MaxInt64)
	for s := c.waiting.first; s != nil; {
		nextStream := s.next
		next = min(next, c.expireOne(s, now))
		s = nextStream
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

// checkPing sends a ping if the peer has been silent for too long (RFC 9113 §6.7), and returns when
// to check again. Any bytes from the peer prove that it is alive, not only the acknowledgement of
// the ping.
func (c *Conn) checkPing(now int64) int64 {
	lastRead, pingSentAt := c.stats.lastRead.Load(), &c.stats.pingSentAt
	if lastRead >= pingSentAt.Load() {
		pingSentAt.Store(0)
	}
	if pingSentAt.Load() != 0 {
		return c.checkPingTimeout(now)
	}
	due := lastRead + int64(c.cfg.IdlePingInterval)
	if len(c.open) > 0 {
		due = max(lastRead, c.busySince) + int64(c.cfg.ActivePingInterval)
	}
	if now < due || c.ended {
		return due
	}
	_ = c.controlFramer.WritePing(false, [8]byte{'s', 'l', 'u', 'i', 'c', 'e'})
	c.work.Signal()
	pingSentAt.Store(now)
	return now + int64(c.cfg.PingTimeout)
}

func (c *Conn) checkPingTimeout(now int64) int64 {
	due := c.stats.pingSentAt.Load() + int64(c.cfg.PingTimeout)
	if now >= due {
		c.abortConn(&Error{Reason: PingTimeout, EndpointAtFault: true})
	}
	return due
}
