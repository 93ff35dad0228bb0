// SPDX-License-Identifier: Apache-2.0

package script

import (
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// Wire is the part of an h2.Conn that scripts act on.
type Wire interface {
	Freeze(on bool)
	SetMaxStreams(n int)
	GoAway(h2.GoAway)
	Reset(processedShare float64)
}

var _ Wire = (*h2.Conn)(nil)

// Conn is a connection as scripts see it: the conditions of faults refer to its state, and their
// effects change it.
type Conn struct {
	endpoint *Endpoint
	number   uint64
	wire     Wire

	requests    int           // requests so far
	lastRequest time.Time     // when the last one came
	maxIdle     time.Duration // longest time without a request
	busyUntil   time.Time     // when the service has handled all requests, at the rate of ServiceRate
}

// NewConn returns the state of a new connection. number counts the connections of the endpoint from 1.
func NewConn(e *Endpoint, number uint64, wire Wire) *Conn {
	return &Conn{endpoint: e, number: number, wire: wire, lastRequest: time.Now()}
}

// countRequest counts a request and updates the longest time without one.
func (c *Conn) countRequest() {
	now := time.Now()
	c.requests++
	c.maxIdle, c.lastRequest = max(c.maxIdle, now.Sub(c.lastRequest)), now
}

// queueDelay returns how long the newest request waits, including its own service time, if the
// connection handles rate requests a second; 0 if rate is 0.
func (c *Conn) queueDelay(rate float64) time.Duration {
	if rate == 0 {
		return 0
	}
	begin := later(c.busyUntil, c.lastRequest)
	c.busyUntil = begin.Add(time.Duration(float64(time.Second) / rate))
	return c.busyUntil.Sub(c.lastRequest)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
