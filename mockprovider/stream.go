// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"strconv"
	"time"

	"golang.org/x/net/http2"
)

// stream is one request in flight.
type stream struct {
	id         uint32
	req        request
	scheme     string
	raw, size  int     // of its header block, as sent and as decoded
	malformed  bool    // its header fields break RFC 9113
	trailersOf *stream // this is only the trailers of that one
	credit     int     // bytes that the client may still send
	whole      bool    // the request has ended
	d          decision
	timer      *time.Timer // of a delayed answer
	settled    bool        // in the ledger
	window     int         // bytes that may still be sent
	rest       []byte      // body that is yet to be sent
}

// newStream reuses one that has ended, if it can.
func (c *conn) newStream(id uint32) *stream {
	if n := len(c.free); n > 0 {
		st := c.free[n-1]
		c.free = c.free[:n-1]
		header, body := st.req.header[:0], st.req.body[:0]
		*st = stream{id: id, credit: streamCredit}
		st.req.header, st.req.body = header, body
		return st
	}
	return &stream{id: id, credit: streamCredit}
}

// begin admits a request, or refuses its stream.
func (c *conn) begin(st *stream) error {
	c.mu.Lock()
	ok := c.admit(st)
	c.mu.Unlock()
	if !ok {
		return nil
	}
	r := &st.req
	if st.malformed || r.method == "" || r.path == "" || st.scheme == "" || r.authority == "" && r.get("host") == "" {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	if c.ending {
		return c.complete(st)
	}
	return nil
}

// admit counts a new stream, unless it is one too many or comes after a GOAWAY. mu is held.
func (c *conn) admit(st *stream) bool {
	if st.id > c.cut {
		c.settleUnprocessed(st, "goaway")
		return false
	}
	if n := len(c.streams); n >= c.limit.enforced {
		return c.tooMany(st, n)
	}
	st.window = c.flow.initial
	c.streams[st.id] = st
	if n := len(c.streams); n > c.top {
		c.top = n
		c.ep.mock.ledger.StreamsInFlight(c.ep.entry, n)
	}
	return true
}

// tooMany refuses a stream. Google's services end the connection instead. mu is held.
func (c *conn) tooMany(st *stream, open int) bool {
	violation := c.limit.violated(open)
	c.ep.mock.ledger.StreamRefused(c.ep.entry, violation)
	if !c.ep.apple() && violation {
		c.leave(st.id-2, http2.ErrCodeProtocol, "exceeded_max_concurrent_streams")
		return false
	}
	_ = c.frames.WriteRSTStream(st.id, http2.ErrCodeRefusedStream)
	return false
}

// complete decides upon a whole request.
func (c *conn) complete(st *stream) error {
	st.whole = true
	if !st.req.tooLong && wrongLength(&st.req) {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	c.requests++
	st.d = c.decide(&st.req)
	d := &st.d
	switch {
	case d.reset:
		c.reset(d.processedShare)
		return nil
	case d.rst:
		c.resetStream(st.id, d.code)
	case d.silent:
		c.mu.Lock()
		c.settle(st, "")
		c.mu.Unlock()
	case d.delay > 0:
		c.later(st)
	default:
		c.respond(st)
	}
	if d.goAway != nil {
		c.goAway(d.goAway)
	}
	if !d.silent && d.delay == 0 {
		c.recycle(st)
	}
	return nil
}

// recycle keeps a stream that has been answered, for the next request.
func (c *conn) recycle(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[st.id] != st && len(c.free) < 64 {
		c.free = append(c.free, st)
	}
}

// wrongLength compares content-length with the body, RFC 9113 8.1.1.
func wrongLength(r *request) bool {
	said := r.get("content-length")
	if said == "" {
		return false
	}
	n, err := strconv.Atoi(said)
	return err != nil || n != len(r.body)
}

// later answers a stream after its delay.
func (c *conn) later(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st.timer = time.AfterFunc(st.d.delay, func() {
		c.respond(st)
		c.flush()
	})
}

// settle enters a stream that gets no answer into the ledger, once. A request that is not whole was never processed.
// mu is held.
func (c *conn) settle(st *stream, why string) {
	if st.timer != nil {
		st.timer.Stop()
	}
	if st.settled {
		return
	}
	st.settled = true
	if st.req.token == "" {
		c.ep.does.find(&st.req)
	}
	st.d.processed = st.d.processed && st.whole
	st.d.fault = or(st.d.fault, why)
	c.note(st.id, &st.req, st.d, false)
}

// settleUnprocessed is settle for a request that the service never looked at. mu is held.
func (c *conn) settleUnprocessed(st *stream, why string) {
	st.d.processed, st.d.fault = false, ""
	c.settle(st, why)
}

// forget ends a stream. mu is held.
func (c *conn) forget(st *stream) {
	delete(c.streams, st.id)
	if c.leaving && len(c.streams) == 0 {
		c.poke()
	}
}

// resetStream ends a stream by RST_STREAM, unprocessed.
func (c *conn) resetStream(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[id]; st != nil {
		fault := st.d.fault
		c.settleUnprocessed(st, or(fault, code.String()))
		c.forget(st)
	}
	_ = c.frames.WriteRSTStream(id, code)
}
