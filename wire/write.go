// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"runtime"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// maxBatchBytes is where the writer stops taking up requests and writes what it
	// has: two TLS records.
	maxBatchBytes = 32 << 10
	// smallBatch is how many requests are too few to write alone when others may be
	// about to come. Letting those come first halved the cost of a request at
	// 100 in flight (BenchmarkConn).
	smallBatch = 32
	// maxControlBytes is how many bytes of answers to the peer's own frames may wait.
	// A peer that provokes more and reads none is up to no good.
	maxControlBytes = 64 << 10
	// lastReadTimeout is how long we go on reading when nothing can be written any
	// more: the peer may have said GOAWAY, and only that tells which requests
	// it never processed.
	lastReadTimeout = 100 * time.Millisecond
)

// buffer is a buffer that frames are written into.
type buffer []byte

func (s *buffer) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

// writeLoop is the writer: all that leaves the connection leaves here.
func (c *Conn) writeLoop() {
	for {
		if c.waitForWork() {
			runtime.Gosched() // those who are about to ask get into the same write
		}
		more := c.fillBatch()
		if err := c.flush(); err != nil {
			c.writeFailed(err)
			return
		}
		if !more {
			_ = c.conn.Close() // ends the reader
			return
		}
	}
}

// waitForWork waits for work, and reports whether it is little.
func (c *Conn) waitForWork() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && len(c.controlBuf) == 0 && !c.canSendBody() && !c.canOpenStream() {
		c.work.Wait()
	}
	return c.waiting.n < smallBatch
}

// fillBatch puts as much of the work into c.out as should go out together. After
// it has returned false nothing follows.
func (c *Conn) fillBatch() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBuf = append(c.writeBuf[:0], c.controlBuf...)
	c.controlBuf = c.controlBuf[:0]
	for c.canSendBody() && len(c.writeBuf) < maxBatchBytes {
		c.sendBody(c.bodies.pop())
	}
	for c.canOpenStream() && len(c.writeBuf) < maxBatchBytes {
		c.openStream(c.waiting.pop())
	}
	c.publish()
	return !c.ended
}

func (c *Conn) flush() error {
	if len(c.writeBuf) == 0 {
		return nil
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(c.cfg.WriteTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(c.writeBuf)
	return err
}

// writeFailed lets the reader read what has come already, and then end the
// connection. Until then no request gets an ID, for only the writer gives them.
func (c *Conn) writeFailed(err error) {
	c.reader.writeErr.Store(&err)
	if c.conn.SetReadDeadline(time.Now().Add(lastReadTimeout)) != nil {
		_ = c.conn.Close()
	}
}

// canSendBody reports whether a body can go on.
func (c *Conn) canSendBody() bool { return c.bodies.n > 0 && c.outflow > 0 }

// canOpenStream reports whether the request that waits longest may become a stream.
// A body that could not follow its headers stays here, where it is still Never.
func (c *Conn) canOpenStream() bool {
	return c.waiting.n > 0 && !c.ended && len(c.open) < c.streamLimit() &&
		(c.outflow > 0 || len(c.waiting.first.req.Body) == 0)
}

// openStream gives s its ID (RFC 9113 §5.1.1): from here on nobody knows.
func (c *Conn) openStream(s *stream) {
	if len(c.open) == 0 {
		c.busySince = c.now()
		c.wakeBy(c.busySince + int64(c.cfg.ActivePingInterval))
	}
	s.id = c.nextID
	c.nextID += 2
	s.outflow = c.peerSettings.initialWindow
	c.open[s.id] = s
	s.endSent = len(s.req.Body) == 0
	c.sendHeaders(s)
	if !s.endSent && s.outflow > 0 {
		c.sendBody(s)
	}
	if c.nextID > maxStreamID {
		c.drainExhausted()
	}
}

// drainExhausted drains a connection that has no stream ID left (RFC 9113 §5.1.1).
func (c *Conn) drainExhausted() {
	c.draining = true
	for c.waiting.n > 0 {
		c.fail(c.waiting.first, &Error{Reason: LostBeforeWrite, Processed: Never, Err: errExhausted})
	}
}

// sendHeaders writes the request's head, in as many frames as the peer's
// largest frame asks for (RFC 9113 §6.10).
func (c *Conn) sendHeaders(s *stream) {
	c.encodeHeaders(s.req)
	rest := []byte(c.headerBuf)
	first := rest[:min(len(rest), c.peerSettings.maxFrameSize)]
	rest = rest[len(first):]
	_ = c.dataFramer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: s.id, BlockFragment: first, EndStream: s.endSent, EndHeaders: len(rest) == 0,
	})
	for len(rest) > 0 {
		next := rest[:min(len(rest), c.peerSettings.maxFrameSize)]
		rest = rest[len(next):]
		_ = c.dataFramer.WriteContinuation(s.id, len(rest) == 0, next)
	}
}

// encodeHeaders writes r's header block into c.header. The path names a device, so
// like every field marked Once it stays out of the compression table, which
// then holds only what comes again (RFC 7541 §7.1.3).
func (c *Conn) encodeHeaders(r *Request) {
	c.headerBuf = c.headerBuf[:0]
	c.encodeField(":method", r.Method)
	c.encodeField(":scheme", "https")
	c.encodeField(":authority", c.cfg.Authority)
	c.headerBuf = appendNeverIndexed(c.headerBuf, ":path", r.Path)
	for i := range r.Header {
		if f := &r.Header[i]; f.NeverIndexed {
			c.headerBuf = appendNeverIndexed(c.headerBuf, f.Name, f.Value)
		} else {
			c.encodeField(f.Name, f.Value)
		}
	}
}

func (c *Conn) encodeField(name, value string) {
	_ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
}

// sendBody writes as much of s's body as the windows, the largest frame and
// the batch allow. What is left waits: in the queue of bodies while its own
// window is open, else until that opens (RFC 9113 §6.9.1).
func (c *Conn) sendBody(s *stream) {
	for !s.endSent && s.outflow > 0 && c.outflow > 0 && len(c.writeBuf) < maxBatchBytes {
		n := min(len(s.req.Body)-s.bodySent, c.peerSettings.maxFrameSize, int(min(s.outflow, c.outflow)))
		s.endSent = s.bodySent+n == len(s.req.Body)
		_ = c.dataFramer.WriteData(s.id, s.endSent, s.req.Body[s.bodySent:s.bodySent+n])
		s.bodySent += n
		s.outflow -= int64(n)
		c.outflow -= int64(n)
	}
	if !s.endSent && s.outflow > 0 {
		c.bodies.push(s)
	}
}
