// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"cmp"
	"strconv"
	"time"

	"golang.org/x/net/http2"
)

// stream is one request in flight.
type stream struct {
	id         uint32
	req        Request
	scheme     string
	blockSize  int     // size of the header block as sent
	fieldsSize int     // size of the header list as decoded
	malformed  bool    // the header fields violate RFC 9113
	trailersOf *stream // set if this is not a stream but only the trailers of that one
	recvWindow int     // bytes that the client may still send
	complete   bool    // the whole request was received
	decision   Decision
	timer      *time.Timer // sends a delayed response
	recorded   bool        // the handler's Record was called
	sendWindow int         // bytes that may still be sent
	unsent     []byte      // rest of the response body
}

// newStream returns a stream, if possible one that has ended.
func (c *Conn) newStream(id uint32) *stream {
	if n := len(c.free); n > 0 {
		st := c.free[n-1]
		c.free = c.free[:n-1]
		header, body := st.req.Header[:0], st.req.Body[:0]
		*st = stream{id: id, recvWindow: streamWindow}
		st.req.Header, st.req.Body = header, body
		return st
	}
	return &stream{id: id, recvWindow: streamWindow}
}

// begin opens or refuses the stream of a request whose header fields have been read.
func (c *Conn) begin(st *stream) error {
	c.mu.Lock()
	ok := c.admit(st)
	c.mu.Unlock()
	if !ok {
		return nil
	}
	r := &st.req
	if st.malformed || r.Method == "" || r.Path == "" || st.scheme == "" || r.Authority == "" && r.Get("host") == "" {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	if c.endsStream {
		return c.complete(st)
	}
	return nil
}

// admit opens a stream unless it exceeds the stream limit or comes after a GOAWAY. mu is held.
func (c *Conn) admit(st *stream) bool {
	if st.id > c.goAwayLast {
		c.recordUnprocessed(st, "goaway")
		return false
	}
	if n := len(c.streams); n >= c.limit.enforced {
		c.refuse(st, n)
		return false
	}
	st.sendWindow = c.outflow.initial
	c.streams[st.id] = st
	if n := len(c.streams); n > c.maxInFlight {
		c.maxInFlight = n
		c.handler.StreamsInFlight(n)
	}
	return true
}

// refuse refuses a stream that exceeds the stream limit. mu is held.
func (c *Conn) refuse(st *stream, open int) {
	violation := c.limit.violated(open)
	c.handler.StreamRefused(violation)
	if c.cfg.EndOnViolation && violation {
		c.sendGoAway(st.id-2, http2.ErrCodeProtocol, "exceeded_max_concurrent_streams")
		return
	}
	_ = c.frames.WriteRSTStream(st.id, http2.ErrCodeRefusedStream)
}

// complete lets the handler decide on a whole request and carries the decision out.
func (c *Conn) complete(st *stream) error {
	st.complete = true
	if !st.req.TooLong && wrongLength(&st.req) {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	st.decision = c.handler.Decide(&st.req)
	d := &st.decision
	switch {
	case d.Reset:
		c.Reset(d.ProcessedShare)
		return nil
	case d.RST:
		c.resetStream(st.id, d.Code)
	case d.Silent:
		c.mu.Lock()
		c.recordUnanswered(st, "")
		c.mu.Unlock()
	case d.Delay > 0:
		c.respondLater(st)
	default:
		c.respond(st)
	}
	if d.GoAway != nil {
		c.GoAway(*d.GoAway)
	}
	if !d.Silent && d.Delay == 0 {
		c.recycle(st)
	}
	return nil
}

// recycle keeps an answered stream for the next request.
func (c *Conn) recycle(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.streams[st.id] != st && len(c.free) < 64 {
		c.free = append(c.free, st)
	}
}

// wrongLength compares content-length with the body (RFC 9113, section 8.1.1).
func wrongLength(r *Request) bool {
	text := r.Get("content-length")
	if text == "" {
		return false
	}
	n, err := strconv.Atoi(text)
	return err != nil || n != len(r.Body)
}

// respondLater responds after the delay of the decision.
func (c *Conn) respondLater(st *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st.timer = time.AfterFunc(st.decision.Delay, func() {
		c.respond(st)
		c.flush()
	})
}

// recordUnanswered records a stream that gets no response, unless it has been recorded. An
// incomplete request counts as unprocessed. The decision's Fault takes precedence over reason. mu is
// held.
func (c *Conn) recordUnanswered(st *stream, reason string) {
	if st.timer != nil {
		st.timer.Stop()
	}
	if st.recorded {
		return
	}
	st.recorded = true
	st.decision.Processed = st.decision.Processed && st.complete
	st.decision.Fault = cmp.Or(st.decision.Fault, reason)
	c.handler.Record(st.id, &st.req, &st.decision, false)
}

// recordUnprocessed is recordUnanswered for a request that did not reach the service. mu is held.
func (c *Conn) recordUnprocessed(st *stream, reason string) {
	st.decision.Processed, st.decision.Fault = false, ""
	c.recordUnanswered(st, reason)
}

// remove removes a stream that has ended. mu is held.
func (c *Conn) remove(st *stream) {
	delete(c.streams, st.id)
	if c.draining && len(c.streams) == 0 {
		c.wakeWriter()
	}
}

// resetStream ends a stream with RST_STREAM, unprocessed.
func (c *Conn) resetStream(id uint32, code http2.ErrCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if st := c.streams[id]; st != nil {
		fault := st.decision.Fault
		c.recordUnprocessed(st, cmp.Or(fault, code.String()))
		c.remove(st)
	}
	_ = c.frames.WriteRSTStream(id, code)
}
