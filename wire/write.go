// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"runtime"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// maxBatchBytes is the size at which the writer stops adding requests to a batch and writes it:
	// two TLS records.
	maxBatchBytes = 32 << 10
	// smallBatch is the number of waiting requests below which the writer yields once before it
	// writes, so that other callers can add theirs. This halves the cost of a request at 100 in
	// flight (BenchmarkConn).
	smallBatch = 32
	// maxControlBytes limits the unsent replies to the peer's control frames. A peer that causes
	// more without reading them misbehaves.
	maxControlBytes = 64 << 10
	// lastReadTimeout is how long the reader continues after a write has failed. The peer may have
	// sent a GOAWAY, and only that tells which requests it did not process.
	lastReadTimeout = 100 * time.Millisecond
)

// buffer collects frames.
type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// writeLoop writes everything that leaves the connection.
func (c *Conn) writeLoop() {
	defer c.endOnPanic()
	for {
		if c.waitForWork() {
			runtime.Gosched() // let other callers add requests to this write
		}
		more := c.fillBatch()
		if c.nextID > maxStreamID { // drainExhausted has ended the waiting requests
			c.deliver()
		}
		if err := c.flush(); err != nil {
			c.writeFailed(err)
			return
		}
		if !more {
			_ = c.conn.Close() // ends readLoop
			return
		}
	}
}

// waitForWork blocks until there is something to write. It reports whether the batch is still
// small.
func (c *Conn) waitForWork() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.ended && len(c.controlBuf) == 0 && !c.canSendBody() && !c.canOpenStream() {
		c.work.Wait()
	}
	return c.waiting.n < smallBatch
}

// fillBatch fills writeBuf with what should be written together. It returns false if this is the
// last batch.
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

// writeFailed makes the reader read what has already arrived and then end the connection. Until
// then no request gets a stream ID, because only the writer assigns them.
func (c *Conn) writeFailed(err error) {
	c.reader.writeErr.Store(&err)
	if c.conn.SetReadDeadline(time.Now().Add(lastReadTimeout)) != nil {
		_ = c.conn.Close()
	}
}

// canSendBody reports whether a waiting body can continue.
func (c *Conn) canSendBody() bool { return c.bodies.n > 0 && c.outflow > 0 }

// canOpenStream reports whether the first waiting request may get a stream. A request whose body
// could not follow its headers stays in the queue, where it is still unprocessed.
func (c *Conn) canOpenStream() bool {
	return c.waiting.n > 0 && !c.ended && len(c.open) < c.streamLimit() &&
		(c.outflow > 0 || len(c.waiting.first.req.Body) == 0)
}

// openStream assigns the stream ID (RFC 9113 §5.1.1). From then on the peer may have processed the
// request.
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

// drainExhausted drains a connection that has used up its stream IDs (RFC 9113 §5.1.1).
func (c *Conn) drainExhausted() {
	c.draining = true
	for c.waiting.n > 0 {
		c.fail(c.waiting.first, &Error{Reason: LostBeforeWrite, Processed: Never, Err: errExhausted})
	}
}

// sendHeaders writes the headers of the request, in as many frames as the peer's maximum frame size
// requires (RFC 9113 §6.10).
func (c *Conn) sendHeaders(s *stream) {
	c.encodeHeaders(s.req)
	rest := c.headerBuf
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

// encodeHeaders writes the header block of r into headerBuf. The path contains the device token, so
// like every field marked NeverIndexed it stays out of the HPACK table, which then holds only
// values that repeat (RFC 7541 §7.1.3).
func (c *Conn) encodeHeaders(r *Request) {
	pseudo, rest := c.encodeIndexed(r)
	c.headerBuf = append(c.headerBuf[:0], pseudo...)
	c.headerBuf = appendNeverIndexed(c.headerBuf, ":path", r.Path)
	c.headerBuf = append(c.headerBuf, rest...)
	for i := range r.Header {
		if f := &r.Header[i]; f.NeverIndexed {
			c.headerBuf = appendNeverIndexed(c.headerBuf, f.Name, f.Value)
		}
	}
}

func (c *Conn) encodeField(name, value string) {
	_ = c.encoder.WriteField(hpack.HeaderField{Name: name, Value: value})
}

// sendBody writes as much of the body as the windows, the frame size and the batch allow. A stream
// that still has a window waits in c.bodies; otherwise handleWindowUpdate queues it again (RFC 9113
// §6.9.1).
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
