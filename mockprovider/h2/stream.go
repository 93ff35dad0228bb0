// SPDX-License-Identifier: Apache-2.0

package h2

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"golang.org/x/net/http2"
)

// stream is one request in flight.
type stream struct {
	id         uint32
	req        Request
	scheme     string
	blockSize  int  // size of the header block as sent
	fieldsSize int  // size of the header list as decoded
	malformed  bool // the header fields violate RFC 9113
	trailers   bool // this is not a stream but only the trailers of one
	recvWindow int  // bytes that the client may still send
	ended      bool // the client has ended or reset the stream
	complete   bool // the whole request was received, or so much that it is too long
	held       bool // the stream waits for others to end
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

// begin opens or refuses the stream of a request whose header fields have been read. mu is held.
func (c *Conn) begin(st *stream) error {
	if !c.admit(st) {
		c.abandon(st)
		return nil
	}
	r := &st.req
	if st.malformed || r.Method == "" || r.Path == "" || st.scheme == "" || r.Authority == "" && r.Get("host") == "" {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	if st.ended {
		return c.complete(st)
	}
	return nil
}

// maxHeld is how many streams a connection may hold.
const maxHeld = 1000

// admit opens a stream unless it exceeds the stream limit or comes after a GOAWAY. It holds a stream
// that exceeds a limit of which the client cannot know yet. mu is held.
func (c *Conn) admit(st *stream) bool {
	if st.id > c.goAwayLast {
		c.recordUnprocessed(st, "goaway")
		return false
	}
	if !c.hasRoom() {
		violation := c.limit.violated(len(c.streams))
		if violation || c.cfg.Streams.Strict || c.cfg.Streams.Unadvertised || len(c.held) >= maxHeld {
			c.refuse(st, violation)
			return false
		}
		st.held = true
		c.held = append(c.held, st)
	}
	st.sendWindow = c.outflow.initial
	c.streams[st.id] = st
	c.countInFlight()
	return true
}

// inFlight returns the number of open streams that are not held. mu is held.
func (c *Conn) inFlight() int { return len(c.streams) - len(c.held) }

// hasRoom reports whether the stream limit allows another stream. mu is held.
func (c *Conn) hasRoom() bool { return c.inFlight() < c.limit.enforced }

// countInFlight reports a new maximum of concurrent streams. mu is held.
func (c *Conn) countInFlight() {
	if n := c.inFlight(); n > c.maxInFlight {
		c.maxInFlight = n
		c.handler.StreamsInFlight(n)
	}
}

// admitHeld admits held streams as long as there is room, and handles their requests. mu is held.
func (c *Conn) admitHeld() {
	for len(c.held) > 0 && c.hasRoom() {
		st := c.held[0]
		c.held = c.held[1:]
		st.held = false
		c.countInFlight()
		if st.complete {
			c.process(st)
		}
	}
}

// refuse refuses a stream that exceeds the stream limit. mu is held.
func (c *Conn) refuse(st *stream, violation bool) {
	c.handler.StreamRefused(violation)
	if c.cfg.EndOnViolation && violation {
		c.sendGoAway(st.id-2, http2.ErrCodeProtocol, "exceeded_max_concurrent_streams")
		return
	}
	_ = c.frames.WriteRSTStream(st.id, http2.ErrCodeRefusedStream)
}

// complete handles a whole request, unless its stream is held. mu is held.
func (c *Conn) complete(st *stream) error {
	if st.complete {
		return nil // the body was cut, and now the stream has ended
	}
	if !st.req.TooLong && wrongLength(&st.req) {
		return http2.StreamError{StreamID: st.id, Code: http2.ErrCodeProtocol}
	}
	st.complete = true
	if !st.held {
		c.process(st)
	}
	return nil
}

// process lets the handler decide on a request and carries the decision out. mu is held.
func (c *Conn) process(st *stream) {
	st.decision = c.handler.Decide(&st.req)
	d := &st.decision
	switch {
	case d.Reset:
		c.reset(d.ProcessedShare)
		return
	case d.RST:
		c.resetStream(st.id, d.Code)
	case d.Silent:
		c.recordUnanswered(st, "")
	case d.Delay > 0:
		c.respondLater(st)
	default:
		c.respond(st)
	}
	if d.GoAway != nil {
		c.goAway(*d.GoAway)
	}
	if !d.Silent && d.Delay == 0 && c.streams[st.id] != st && len(c.free) < 64 {
		c.free = append(c.free, st) // keep the answered stream for the next request
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

// respondLater responds after the delay of the decision. mu is held.
func (c *Conn) respondLater(st *stream) {
	st.timer = time.AfterFunc(st.decision.Delay, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.respond(st)
		c.admitHeld()
		c.wakeWriter()
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
	if st.held {
		c.held = slices.DeleteFunc(c.held, func(other *stream) bool { return other == st })
	}
	c.abandon(st)
	if c.draining && len(c.streams) == 0 {
		c.wakeWriter()
	}
}

// clearStreams removes all streams at the end of the connection. mu is held.
func (c *Conn) clearStreams() {
	clear(c.streams)
	c.held = nil
}

// abandon lets the client send more frames on a closed stream unless it has ended the stream: it may not
// know yet that the stream is closed. mu is held.
func (c *Conn) abandon(st *stream) {
	if st.ended {
		return
	}
	if len(c.abandoned) >= maxAbandoned {
		clear(c.abandoned) // for later frames, the client gets RST_STREAM once more
	}
	c.abandoned[st.id] = struct{}{}
}

// maxAbandoned limits the memory for closed streams.
const maxAbandoned = 10_000

// resetStream ends a stream with RST_STREAM. mu is held.
func (c *Conn) resetStream(id uint32, code http2.ErrCode) {
	if st := c.streams[id]; st != nil {
		c.recordUnanswered(st, code.String())
		c.remove(st)
	}
	_ = c.frames.WriteRSTStream(id, code)
}
