// SPDX-License-Identifier: Apache-2.0

// Package h2 serves HTTP/2 connections frame by frame. A caller can give a connection the faults of
// the real services, which are faults of frames: a stream limit that changes, GOAWAY with a chosen
// last stream, missing acknowledgements, a TCP reset. A Handler decides what happens to each request.
// The package is independent of the services.
package h2

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

// Handler handles the requests of one connection. Its methods are called while the connection is
// locked, one at a time: they must not call methods of the connection.
type Handler interface {
	// Decide returns what happens to a request. It is called in the order in which the requests become
	// complete, or for requests on held streams, when their streams are admitted.
	Decide(r *Request) Decision
	// Record is called once for each request, when its response is on the way or when it is certain
	// that there will be none. It must not keep r.
	Record(stream uint32, r *Request, d *Decision, answered bool)
	// Silent reports whether PING and SETTINGS stay without acknowledgement.
	Silent() bool
	// StreamsInFlight is called when the number of concurrent streams reaches a new maximum.
	StreamsInFlight(n int)
	// StreamRefused is called for a stream beyond the stream limit. violation is true if the client
	// must have received the limit.
	StreamRefused(violation bool)
}

// Config configures a Conn.
type Config struct {
	Streams Streams
	// EndOnViolation ends the connection with GOAWAY when a client exceeds a stream limit that it has
	// acknowledged. The default is to refuse the stream with RST_STREAM, as with any other stream
	// beyond the limit.
	EndOnViolation bool
	// MaxHeaderList is the value of SETTINGS_MAX_HEADER_LIST_SIZE, in bytes.
	MaxHeaderList uint32
}

// Conn is one connection. One goroutine reads frames and handles them, another one writes; there is no
// goroutine per stream.
type Conn struct {
	cfg     Config
	handler Handler
	raw     *net.TCPConn
	nc      *tls.Conn       // nil before Handshake
	ctx     context.Context // ends with the connection
	cancel  context.CancelFunc
	wake    chan struct{} // wakes the writer

	// Fields of the reading goroutine.
	br     *bufio.Reader
	frames *http2.Framer // reads from br, and writes to out with mu held

	mu           sync.Mutex
	fields       *hpack.Decoder
	reading      *stream // the stream of the header block that is being decoded
	recvWindow   int     // bytes that the client may still send
	free         []*stream
	out          []byte // frames for the writer
	spare        []byte // the writer's other buffer
	encoder      *hpack.Encoder
	block        []byte        // output of encoder
	frozen       chan struct{} // non-nil while the connection is frozen; closed at the end of that
	streams      map[uint32]*stream
	held         []*stream           // the streams that wait for others to end, oldest first
	abandoned    map[uint32]struct{} // closed streams on which the client may still send
	lastStream   uint32              // greatest stream ID received
	lastAnswered uint32              // greatest stream ID with a response
	maxInFlight  int
	outflow      outflow
	limit        streamLimit
	goAwayLast   uint32 // streams with a greater ID are not processed
	draining     bool   // GOAWAY was sent: the writer closes when no stream is left
}

// maxStreamID is the greatest stream ID of HTTP/2.
const maxStreamID = 1<<31 - 1

// Initial receive windows, in bytes.
const (
	connWindow   = 1 << 20
	streamWindow = 65535
)

// NewConn returns a connection on which nothing has been read yet. Call Handshake and then Serve,
// or Close.
func NewConn(raw *net.TCPConn, cfg Config, handler Handler) *Conn {
	c := &Conn{
		cfg: cfg, handler: handler, raw: raw, wake: make(chan struct{}, 1), goAwayLast: maxStreamID,
		streams: map[uint32]*stream{}, abandoned: map[uint32]struct{}{}, recvWindow: connWindow, outflow: newOutflow(),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.fields = hpack.NewDecoder(4096, c.addField)
	c.encoder = hpack.NewEncoder((*blockWriter)(c))
	return c
}

// Handshake makes the TLS handshake. It begins after acceptDelay and takes tlsDelay longer than
// usual.
func (c *Conn) Handshake(config *tls.Config, acceptDelay, tlsDelay time.Duration) (*tls.Conn, error) {
	if !sleep(c.ctx, acceptDelay) {
		return nil, c.ctx.Err()
	}
	if tlsDelay > 0 {
		config = config.Clone()
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			sleep(c.ctx, tlsDelay)
			return nil, nil
		}
	}
	if !c.waitUnfrozen() {
		return nil, c.ctx.Err()
	}
	c.nc = tls.Server(c.raw, config)
	return c.nc, c.nc.HandshakeContext(c.ctx)
}

// Serve reads and answers requests until the connection ends. When it returns, every request has
// been recorded.
func (c *Conn) Serve() {
	defer c.recordRest()
	var writer sync.WaitGroup
	writer.Go(c.write)
	defer writer.Wait()
	defer c.Close()
	c.read()
}

// read reads frames until the connection ends. It closes the connection of a client that does not
// begin with the preface of HTTP/2, for instance one that uses HTTP/1.1.
func (c *Conn) read() {
	c.br = bufio.NewReaderSize(c.nc, 32<<10)
	c.frames = http2.NewFramer((*frameWriter)(c), c.br)
	c.frames.SetReuseFrames()
	c.frames.SetMaxReadFrameSize(16384)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.br, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	c.writeServerPreface()
	for {
		c.flushBeforeBlocking()
		f, err := c.frames.ReadFrame()
		if !c.waitUnfrozen() {
			return
		}
		if err = c.handle(f, err); err != nil {
			c.abort(err)
			return
		}
	}
}

// flushBeforeBlocking wakes the writer if the next frame has not arrived yet. The responses to
// requests that arrived together are thus written together.
func (c *Conn) flushBeforeBlocking() {
	if n := c.br.Buffered(); n >= 9 {
		head, _ := c.br.Peek(3)
		if n >= 9+(int(head[0])<<16|int(head[1])<<8|int(head[2])) {
			return
		}
	}
	c.flush()
}

// handle handles a frame, or an error that occurred when it was read. It responds to the errors of a
// stream, and returns those of the connection.
func (c *Conn) handle(f http2.Frame, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		err = c.handleFrame(f)
	}
	if ofStream, ok := errors.AsType[http2.StreamError](err); ok {
		if c.isIdle(ofStream.StreamID) {
			return http2.ConnectionError(ofStream.Code)
		}
		c.resetStream(ofStream.StreamID, ofStream.Code)
		err = nil
	}
	c.admitHeld()
	return err
}

// abort sends GOAWAY for a connection error, and reads on for up to a second so that the client can
// read the GOAWAY before the connection is closed. It does nothing if the connection has ended.
func (c *Conn) abort(err error) {
	code, ok := errors.AsType[http2.ConnectionError](err)
	if errors.Is(err, http2.ErrFrameTooLarge) {
		code = http2.ConnectionError(http2.ErrCodeFrameSize)
	} else if !ok {
		return
	}
	debug := ""
	if detail := c.frames.ErrorDetail(); detail != nil {
		debug = detail.Error()
	}
	c.mu.Lock()
	c.sendGoAway(c.lastStream, http2.ErrCode(code), debug)
	c.recordAll()
	c.mu.Unlock()
	_ = c.raw.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.Copy(io.Discard, c.br)
}

// waitUnfrozen waits while the connection is frozen. It returns false if the connection has ended.
func (c *Conn) waitUnfrozen() bool {
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

// Close closes the connection immediately.
func (c *Conn) Close() {
	c.cancel()
	_ = c.raw.Close()
}

// recordRest records the requests that are still without a response.
func (c *Conn) recordRest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recordAll()
}

// recordAll records all open streams as unanswered and removes them. mu is held.
func (c *Conn) recordAll() {
	for _, st := range c.streams {
		c.recordUnanswered(st, "closed")
	}
	c.clearStreams()
}

// sleep waits for d. It returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
