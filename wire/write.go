// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"runtime"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// batch is where the writer stops taking up requests and writes what it
	// has: two TLS records.
	batch = 32 << 10
	// few is how many requests are too few to write alone when others may be
	// about to come. Letting those come first halved the cost of a request at
	// 100 in flight (BenchmarkConn).
	few = 32
	// maxControl is how many bytes of answers to the peer's own frames may wait.
	// A peer that provokes more and reads none is up to no good.
	maxControl = 64 << 10
	// lastWords is how long we go on reading when nothing can be written any
	// more: the peer may have said GOAWAY, and only that tells which requests
	// it never processed.
	lastWords = 100 * time.Millisecond
)

// sink is a buffer that frames are written into.
type sink []byte

func (s *sink) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

// write is the writer: all that leaves the connection leaves here.
func (c *Conn) write() {
	for {
		if c.await() {
			runtime.Gosched() // those who are about to ask get into the same write
		}
		more := c.gather()
		if err := c.flush(); err != nil {
			c.writeFailed(err)
			return
		}
		if !more {
			_ = c.nc.Close() // ends the reader
			return
		}
	}
}

// await waits for work, and reports whether it is little.
func (c *Conn) await() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && len(c.control) == 0 && !c.maySend() && !c.mayOpen() {
		c.work.Wait()
	}
	return c.waiting.n < few
}

// gather puts as much of the work into c.out as should go out together. After
// it has returned false nothing follows.
func (c *Conn) gather() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out[:0], c.control...)
	c.control = c.control[:0]
	for c.maySend() && len(c.out) < batch {
		c.sendBody(c.bodies.pop())
	}
	for c.mayOpen() && len(c.out) < batch {
		c.openStream(c.waiting.pop())
	}
	c.publish()
	return !c.ended
}

func (c *Conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout)); err != nil {
		return err
	}
	_, err := c.nc.Write(c.out)
	return err
}

// writeFailed lets the reader read what has come already, and then end the
// connection. Until then no request gets an ID, for only the writer gives them.
func (c *Conn) writeFailed(err error) {
	c.source.broken.Store(&err)
	if c.nc.SetReadDeadline(time.Now().Add(lastWords)) != nil {
		_ = c.nc.Close()
	}
}

// maySend reports whether a body can go on.
func (c *Conn) maySend() bool { return c.bodies.n > 0 && c.window > 0 }

// mayOpen reports whether the request that waits longest may become a stream.
// A body that could not follow its headers stays here, where it is still Never.
func (c *Conn) mayOpen() bool {
	return c.waiting.n > 0 && !c.ended && len(c.open) < c.limit() &&
		(c.window > 0 || len(c.waiting.first.r.Body) == 0)
}

// openStream gives s its ID (RFC 9113 §5.1.1): from here on nobody knows.
func (c *Conn) openStream(s *stream) {
	if len(c.open) == 0 {
		c.busy = c.now()
		c.wakeBy(c.busy + int64(c.cfg.PingBusy))
	}
	s.id = c.nextID
	c.nextID += 2
	s.window = c.peer.window
	c.open[s.id] = s
	s.whole = len(s.r.Body) == 0
	c.sendHeaders(s)
	if !s.whole && s.window > 0 {
		c.sendBody(s)
	}
	if c.nextID > maxStreamID {
		c.exhausted()
	}
}

// exhausted drains a connection that has no stream ID left (RFC 9113 §5.1.1).
func (c *Conn) exhausted() {
	c.leaving = true
	for c.waiting.n > 0 {
		c.fail(c.waiting.first, &Error{Reason: LostBeforeWrite, Processed: Never, Err: errExhausted})
	}
}

// sendHeaders writes the request's head, in as many frames as the peer's
// largest frame asks for (RFC 9113 §6.10).
func (c *Conn) sendHeaders(s *stream) {
	c.encode(s.r)
	rest := []byte(c.header)
	first := rest[:min(len(rest), c.peer.frame)]
	rest = rest[len(first):]
	_ = c.put.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: first, EndStream: s.whole, EndHeaders: len(rest) == 0,
	})
	for len(rest) > 0 {
		next := rest[:min(len(rest), c.peer.frame)]
		rest = rest[len(next):]
		_ = c.put.WriteContinuation(s.id, len(rest) == 0, next)
	}
}

// encode writes r's header block into c.header. The path names a device, so
// like every field marked Once it stays out of the compression table, which
// then holds only what comes again (RFC 7541 §7.1.3).
func (c *Conn) encode(r *Request) {
	c.header = c.header[:0]
	c.field(":method", r.Method)
	c.field(":scheme", "https")
	c.field(":authority", c.cfg.Authority)
	c.header = appendOnce(c.header, ":path", r.Path)
	for i := range r.Header {
		if f := &r.Header[i]; f.Once {
			c.header = appendOnce(c.header, f.Name, f.Value)
		} else {
			c.field(f.Name, f.Value)
		}
	}
}

func (c *Conn) field(name, value string) {
	_ = c.fields.WriteField(hpack.HeaderField{Name: name, Value: value})
}

// sendBody writes as much of s's body as the windows, the largest frame and
// the batch allow. What is left waits: in the queue of bodies while its own
// window is open, else until that opens (RFC 9113 §6.9.1).
func (c *Conn) sendBody(s *stream) {
	for !s.whole && s.window > 0 && c.window > 0 && len(c.out) < batch {
		n := min(len(s.r.Body)-s.sent, c.peer.frame, int(min(s.window, c.window)))
		s.whole = s.sent+n == len(s.r.Body)
		_ = c.put.WriteData(s.id, s.whole, s.r.Body[s.sent:s.sent+n])
		s.sent += n
		s.window -= int64(n)
		c.window -= int64(n)
	}
	if !s.whole && s.window > 0 {
		c.bodies.push(s)
	}
}
