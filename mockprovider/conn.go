// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// conn is one connection of a client. It works on frames, for the faults of the real services are faults of frames:
// stream limits that change, GOAWAY with a chosen last stream, silence. One goroutine reads and answers what needs no
// delay, another writes what has gathered; there is none per stream.
type conn struct {
	ep        *endpoint
	peer      peer
	raw       *net.TCPConn
	nc        *tls.Conn
	ctx       context.Context // ends with the connection
	cancel    context.CancelFunc
	kick      chan struct{} // tells the writer that something has gathered
	requests  int           // whole requests so far
	heardAt   time.Time     // when the last one came
	idled     time.Duration // the longest time without one
	busyUntil time.Time     // when the service will have worked off all, at a service_rate

	// The reader's own.
	br       *bufio.Reader
	frames   *http2.Framer // reads from br, and writes to out under mu
	fields   *hpack.Decoder
	reading  *stream // whose header block is being decoded
	ending   bool    // that block ends its stream
	credit   int     // bytes that the client may still send
	consumed int     // bytes of credit not yet given back
	free     []*stream

	mu      sync.Mutex
	out     []byte // frames for the writer
	spare   []byte // the other buffer
	encoder *hpack.Encoder
	block   []byte // where encoder writes
	frozen  chan struct{}
	streams map[uint32]*stream // open ones
	last    uint32             // the greatest stream ID seen
	done    uint32             // the greatest one that has been answered
	top     int                // most streams at once
	flow    flow
	limit   limit
	cut     uint32 // streams above it are not processed; noCut: none
	leaving bool   // the writer closes once all streams have ended
}

const noCut = 1<<31 - 1

// connection credits, in bytes.
const (
	connCredit   = 1 << 20
	streamCredit = 65535
)

func newConn(e *endpoint, raw *net.TCPConn, number uint64) *conn {
	c := &conn{
		ep: e, raw: raw, peer: peer{number: number}, kick: make(chan struct{}, 1), cut: noCut, heardAt: time.Now(),
		streams: map[uint32]*stream{}, credit: connCredit, flow: newFlow(),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.fields = hpack.NewDecoder(4096, c.emit)
	c.encoder = hpack.NewEncoder((*blockWriter)(c))
	return c
}

// run carries the connection from its handshake to its end.
func (c *conn) run() {
	defer c.end()
	c.ep.mock.enter(c)
	if !c.shake() {
		return
	}
	if c.ep.http1 != nil && c.nc.ConnectionState().NegotiatedProtocol != "h2" {
		c.ep.http1.give(&handed{Conn: c.nc, from: c, closed: make(chan struct{})})
		return
	}
	var writer sync.WaitGroup
	writer.Go(c.write)
	defer writer.Wait()
	defer c.shut()
	c.serve()
}

// shake makes the TLS handshake, as late as the script and the latency profile say.
func (c *conn) shake() bool {
	m := c.ep.mock
	config, late := c.ep.tls, m.latency["tls"].draw(m)
	if f := m.program.Load().connection(c.ep, c.peer.number, (*rule).hesitates); f != nil {
		late += f.TLSDelay
		if !wait(c.ctx, f.AcceptDelay) {
			return false
		}
	}
	if late > 0 {
		config = config.Clone()
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			wait(c.ctx, late)
			return nil, nil
		}
	}
	if !c.hold() {
		return false
	}
	c.nc = tls.Server(c.raw, config)
	if err := c.nc.HandshakeContext(c.ctx); err != nil {
		m.cfg.Logger.Debug("handshake failed", "service", c.ep.service, "endpoint", c.ep.text, "error", err)
		return false
	}
	if certs := c.nc.ConnectionState().PeerCertificates; len(certs) > 0 {
		c.peer.cert = certs[0]
	}
	return true
}

// serve reads frames until the connection ends. A client that does not begin with HTTP/2's preface, which is one that
// speaks HTTP/1.1, is dropped without a word.
func (c *conn) serve() {
	c.br = bufio.NewReaderSize(c.nc, 32<<10)
	c.frames = http2.NewFramer((*frameWriter)(c), c.br)
	c.frames.SetReuseFrames()
	c.frames.SetMaxReadFrameSize(16384)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.br, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	c.greet()
	for {
		c.flushBeforeBlocking()
		f, err := c.frames.ReadFrame()
		if !c.hold() {
			return
		}
		if err == nil {
			err = c.handle(f)
		}
		if err != nil && !c.survives(err) {
			return
		}
	}
}

// flushBeforeBlocking wakes the writer when the next frame is not here yet, so that the answers to all requests that
// came together leave together.
func (c *conn) flushBeforeBlocking() {
	if n := c.br.Buffered(); n >= 9 {
		head, _ := c.br.Peek(3)
		if n >= 9+(int(head[0])<<16|int(head[1])<<8|int(head[2])) {
			return
		}
	}
	c.flush()
}

// survives answers a protocol error, and says whether the connection goes on.
func (c *conn) survives(err error) bool {
	var ofStream http2.StreamError
	if errors.As(err, &ofStream) {
		c.resetStream(ofStream.StreamID, ofStream.Code)
		return true
	}
	var ofConn http2.ConnectionError
	switch {
	case errors.As(err, &ofConn):
		c.abort(http2.ErrCode(ofConn), c.frames.ErrorDetail())
	case errors.Is(err, http2.ErrFrameTooLarge):
		c.abort(http2.ErrCodeFrameSize, nil)
	}
	return false
}

// abort says why the connection ends, and reads on for a moment, so that the peer gets to read it.
func (c *conn) abort(code http2.ErrCode, detail error) {
	debug := ""
	if detail != nil {
		debug = detail.Error()
	}
	c.mu.Lock()
	c.leave(c.last, code, debug)
	c.settleAll()
	c.mu.Unlock()
	_ = c.raw.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, c.br)
}

// hold waits while the connection is frozen, and returns false when it has ended.
func (c *conn) hold() bool {
	for {
		c.mu.Lock()
		frozen := c.frozen
		c.mu.Unlock()
		if frozen == nil {
			return c.ctx.Err() == nil
		}
		select {
		case <-frozen:
		case <-c.ctx.Done():
			return false
		}
	}
}

// shut ends the connection at once.
func (c *conn) shut() {
	c.cancel()
	_ = c.raw.Close()
}

// end enters what was left unanswered into the ledger.
func (c *conn) end() {
	c.shut()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleAll()
}

// settleAll enters all streams into the ledger as unanswered. mu is held.
func (c *conn) settleAll() {
	for _, st := range c.streams {
		c.settle(st, "closed")
	}
	clear(c.streams)
}
