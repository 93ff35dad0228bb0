// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/wire"
)

// ledger records how often the peers processed each attempt.
type ledger struct {
	mu        sync.Mutex
	processed map[string]int
}

func (l *ledger) process(attempt string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.processed[attempt]++
}

// randomPeer is a peer that behaves randomly within the protocol.
type randomPeer struct {
	t       *testing.T
	rng     *rand.Rand
	ledger  *ledger
	nc      net.Conn
	framer  *http2.Framer
	decoder *hpack.Decoder
	path    string

	incomplete   map[uint32]string // streams whose request is incomplete
	pending      []uint32          // streams without a response
	open         map[uint32]string
	limit        uint32   // acknowledged by the client
	unacked      []uint32 // limits sent but not acknowledged
	lastStreamID uint32   // sent in GOAWAY
	highest      uint32   // highest stream ID that was processed
}

// serve serves the connection until it ends.
func (p *randomPeer) serve() {
	defer func() { _ = p.nc.Close() }()
	p.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":path" {
			p.path = f.Value
		}
	})
	p.incomplete, p.open, p.lastStreamID, p.limit = map[uint32]string{}, map[uint32]string{}, 1<<31-1, 1<<31-1
	if _, err := io.ReadFull(p.nc, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	p.sendLimit(1)
	for {
		f, err := p.framer.ReadFrame()
		if err != nil || !p.handleFrame(f) {
			return
		}
	}
}

func (p *randomPeer) sendLimit(n uint32) {
	p.unacked = append(p.unacked, n)
	_ = p.framer.WriteSettings(maxStreamsSetting(n))
}

func (p *randomPeer) handleFrame(f http2.Frame) bool {
	id := f.Header().StreamID
	switch f := f.(type) {
	case *http2.HeadersFrame:
		_, _ = p.decoder.Write(f.HeaderBlockFragment())
		_ = p.decoder.Close()
		p.incomplete[id] = p.path
		p.open[id] = p.path
		if uint32(len(p.open)) > p.limit {
			p.t.Errorf("%d streams are open, %d are allowed", len(p.open), p.limit)
		}
	case *http2.DataFrame:
		if f.StreamEnded() {
			_ = p.framer.WriteWindowUpdate(0, 2)
			return p.handleRequest(id)
		}
	case *http2.RSTStreamFrame:
		p.forget(id)
	case *http2.SettingsFrame:
		if f.IsAck() {
			p.limit, p.unacked = p.unacked[0], p.unacked[1:]
		} else {
			_ = p.framer.WriteSettingsAck()
		}
	case *http2.PingFrame:
		_ = p.framer.WritePing(true, f.Data)
		p.respondPending(0)
	}
	return true
}

func (p *randomPeer) process(id uint32) {
	p.highest = max(p.highest, id)
	p.ledger.process(p.open[id])
}

func (p *randomPeer) forget(id uint32) {
	delete(p.open, id)
	delete(p.incomplete, id)
}

// handleRequest decides at random how to treat a complete request. It returns false to close the
// connection.
func (p *randomPeer) handleRequest(id uint32) bool {
	if id > p.lastStreamID {
		return true // rejected by the GOAWAY
	}
	switch n := p.rng.IntN(200); {
	case n < 6:
		p.forget(id)
		_ = p.framer.WriteRSTStream(id, http2.ErrCodeRefusedStream)
	case n < 9:
		p.process(id)
		p.forget(id)
		_ = p.framer.WriteRSTStream(id, http2.ErrCodeInternal)
	case n < 12: // processed but never answered
		p.process(id)
	case n < 13:
		return false
	case n < 15:
		p.goAway(id)
		return n != 13
	case n < 25:
		p.sendLimit([]uint32{0, 1, 2, 1000}[p.rng.IntN(4)])
		p.sendLimit([]uint32{1, 1000}[p.rng.IntN(2)])
		fallthrough
	default:
		p.pending = append(p.pending, id)
		p.respondPending(p.rng.IntN(8))
	}
	return true
}

// goAway rejects some of the requests in flight and responds to the others.
func (p *randomPeer) goAway(id uint32) {
	p.lastStreamID = max(p.highest, id-min(id, 2*uint32(p.rng.IntN(4))))
	kept := p.pending[:0]
	for _, pendingID := range p.pending {
		if pendingID <= p.lastStreamID {
			kept = append(kept, pendingID)
		}
	}
	p.pending = kept
	if id <= p.lastStreamID {
		p.pending = append(p.pending, id)
	}
	_ = p.framer.WriteGoAway(p.lastStreamID, http2.ErrCodeNo, nil)
	p.respondPending(0)
}

// respondPending responds in random order until the given number of requests is left.
func (p *randomPeer) respondPending(left int) {
	for len(p.pending) > left {
		i := p.rng.IntN(len(p.pending))
		id := p.pending[i]
		p.pending = append(p.pending[:i], p.pending[i+1:]...)
		path, open := p.open[id]
		if !open {
			continue // reset by the client
		}
		p.process(id)
		p.forget(id)
		p.respond(id, path)
	}
}

func (p *randomPeer) respond(id uint32, path string) {
	var block byteBuffer
	_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true})
	_ = p.framer.WriteData(id, true, []byte(path))
}

type byteBuffer []byte

func (w *byteBuffer) Write(b []byte) (int, error) {
	*w = append(*w, b...)
	return len(b), nil
}

// connDialer returns a connection that accepts requests, and makes a new one if needed.
type connDialer struct {
	t       *testing.T
	rng     *rand.Rand
	ledger  *ledger
	running sync.WaitGroup

	mu      sync.Mutex
	current *wire.Conn
}

func (f *connDialer) conn() *wire.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current == nil || f.current.State().Draining {
		f.current = f.connect()
	}
	return f.current
}

func (f *connDialer) connect() *wire.Conn {
	clientSide, serverSide := net.Pipe()
	p := &randomPeer{t: f.t, rng: rand.New(rand.NewPCG(f.rng.Uint64(), 0)), ledger: f.ledger, nc: serverSide, framer: http2.NewFramer(serverSide, serverSide)}
	f.running.Go(p.serve)
	c, err := wire.Client(context.Background(), clientSide, wire.Config{Authority: "a", SerializeFirst: f.rng.IntN(2) == 0})
	if err != nil {
		f.t.Error(err)
		return nil
	}
	f.running.Go(func() { _ = c.Run(context.Background()) })
	return c
}

func TestNoRequestIsLostOrDuplicated(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runStress(t, seed) })
		})
	}
}

func runStress(t *testing.T, seed uint64) {
	f := &connDialer{t: t, rng: rand.New(rand.NewPCG(seed, 1)), ledger: &ledger{processed: map[string]int{}}}
	var callers sync.WaitGroup
	for i := range 40 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)+2))
		callers.Go(func() {
			for j := range 25 {
				f.send(fmt.Sprintf("/%d/%d", i, j), rng)
			}
		})
	}
	callers.Wait() // bounded by the bubble
	f.conn().Drain()
	f.running.Wait() // bounded by the bubble
}

// send retries until there is a response, or until the request may have been processed.
func (f *connDialer) send(request string, rng *rand.Rand) {
	for attempt := 0; ; attempt++ {
		path := fmt.Sprint(request, "/", attempt)
		res, err := f.try(path, rng)
		f.ledger.mu.Lock()
		processed := f.ledger.processed[path]
		f.ledger.mu.Unlock()
		var e *wire.Error
		switch {
		case err == nil:
			if string(res.Body) != path || processed != 1 {
				f.t.Errorf("%s got %q and was processed %d times", path, res.Body, processed)
			}
			return
		case !errors.As(err, &e):
			f.t.Errorf("%s failed with %v; want a *wire.Error", path, err)
			return
		case e.Processed == wire.Never && processed != 0:
			f.t.Errorf("%s was processed, but Do returned %v", path, err)
			return
		case e.Processed == wire.Unknown || e.Reason == wire.Canceled:
			return
		}
	}
}

func (f *connDialer) try(path string, rng *rand.Rand) (*wire.Response, error) {
	ctx := context.Background()
	if rng.IntN(20) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Millisecond)
		defer cancel()
	}
	r := &wire.Request{Method: "POST", Path: path, Body: []byte("{}"), Timeout: time.Duration(1+rng.IntN(5)) * time.Second}
	res, err := f.conn().Do(ctx, r)
	r.Body[0] = 'x' // detects with -race that the connection still reads the body
	return res, err
}
