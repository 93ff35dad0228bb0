// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/wire"
)

// recvFrame is one frame that the peer received.
type recvFrame struct {
	kind         http2.FrameType
	stream       uint32
	flags        http2.Flags
	code         http2.ErrCode
	value        uint32 // increment of a WINDOW_UPDATE or last stream ID of a GOAWAY
	body         string
	size         int // of the frame, or of a whole header block
	fields       map[string]string
	neverIndexed map[string]bool // fields encoded as never-indexed
	settings     map[http2.SettingID]uint32
}

func (h recvFrame) String() string {
	return fmt.Sprintf("%v(%d) flags %x code %v value %d %q %v", h.kind, h.stream, h.flags, h.code, h.value, h.body, h.fields)
}

func (h recvFrame) endsStream() bool { return h.flags.Has(http2.FlagDataEndStream) }

// peer is a scripted HTTP/2 server at the other end of a pipe. It sends only what the test
// requests, and records the frames that it receives.
type peer struct {
	t           *testing.T
	nc          net.Conn
	framer      *http2.Framer
	received    chan recvFrame
	closed      chan struct{}
	decoder     *hpack.Decoder
	fields      []hpack.HeaderField
	encoder     *hpack.Encoder
	encodeBuf   bytes.Buffer
	headerBuf   []byte
	stopReading atomic.Bool // read at most one more frame
}

func newPeer(t *testing.T, nc net.Conn) *peer {
	p := &peer{t: t, nc: nc, framer: http2.NewFramer(nc, nc), received: make(chan recvFrame, 1<<16), closed: make(chan struct{})}
	p.framer.AllowIllegalWrites = true
	p.framer.AllowIllegalReads = true
	p.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) { p.fields = append(p.fields, f) })
	p.encoder = hpack.NewEncoder(&p.encodeBuf)
	return p
}

// readLoop reads the preface and then every frame until the connection ends.
func (p *peer) readLoop() {
	defer close(p.closed)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.nc, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	for !p.stopReading.Load() {
		f, err := p.framer.ReadFrame()
		if err != nil {
			return
		}
		p.record(f)
	}
}

func (p *peer) record(f http2.Frame) {
	h := recvFrame{kind: f.Header().Type, stream: f.Header().StreamID, flags: f.Header().Flags, size: int(f.Header().Length)}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		if p.headerBuf = append(p.headerBuf[:0], f.HeaderBlockFragment()...); f.HeadersEnded() {
			p.recordFields(&h)
		}
	case *http2.ContinuationFrame:
		if p.headerBuf = append(p.headerBuf, f.HeaderBlockFragment()...); f.HeadersEnded() {
			p.recordFields(&h)
		}
	case *http2.DataFrame:
		h.body = string(f.Data())
	case *http2.RSTStreamFrame:
		h.code = f.ErrCode
	case *http2.GoAwayFrame:
		h.code, h.value, h.body = f.ErrCode, f.LastStreamID, string(f.DebugData())
	case *http2.WindowUpdateFrame:
		h.value = f.Increment
	case *http2.PingFrame:
		h.body = string(f.Data[:])
	case *http2.SettingsFrame:
		h.settings = map[http2.SettingID]uint32{}
		_ = f.ForeachSetting(func(s http2.Setting) error { h.settings[s.ID] = s.Val; return nil })
	}
	p.received <- h
}

func (p *peer) recordFields(h *recvFrame) {
	p.fields = nil
	if _, err := p.decoder.Write(p.headerBuf); err != nil {
		p.t.Errorf("the peer cannot decode a header block: %v", err)
	}
	_ = p.decoder.Close()
	h.fields, h.neverIndexed = map[string]string{}, map[string]bool{}
	for _, f := range p.fields {
		h.fields[f.Name] = f.Value
		h.neverIndexed[f.Name] = f.Sensitive
	}
}

// nextFrame waits for the next frame of this kind and skips others.
func (p *peer) nextFrame(kind http2.FrameType) recvFrame {
	p.t.Helper()
	for {
		select {
		case h := <-p.received:
			if h.kind == kind {
				return h
			}
		case <-p.closed:
			select {
			case h := <-p.received:
				if h.kind == kind {
					return h
				}
				continue
			default:
			}
			p.t.Fatalf("the connection ended before the peer got %v", kind)
		case <-time.After(time.Minute):
			p.t.Fatalf("the peer did not get %v", kind)
		}
	}
}

// remaining returns the unread frames of this kind and discards all others.
func (p *peer) remaining(kind http2.FrameType) (all []recvFrame) {
	synctest.Wait()
	for {
		select {
		case h := <-p.received:
			if h.kind == kind {
				all = append(all, h)
			}
		default:
			return all
		}
	}
}

// check fails the test if err is not nil, unless the connection has ended.
func (p *peer) check(err error) {
	p.t.Helper()
	ended := errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
	if err != nil && !ended {
		p.t.Fatalf("the peer cannot write: %v", err)
	}
}

func (p *peer) encode(fields ...string) []byte {
	p.encodeBuf.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.check(p.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return p.encodeBuf.Bytes()
}

// sendHeaders sends a HEADERS frame with these fields.
func (p *peer) sendHeaders(stream uint32, end bool, fields ...string) {
	p.t.Helper()
	p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: p.encode(fields...), EndHeaders: true, EndStream: end,
	}))
}

// respond sends a complete response without a body.
func (p *peer) respond(stream uint32, status string, fields ...string) {
	p.t.Helper()
	p.sendHeaders(stream, true, append([]string{":status", status}, fields...)...)
}

func (p *peer) sendSettings(s ...http2.Setting) {
	p.t.Helper()
	p.check(p.framer.WriteSettings(s...))
}

func maxStreamsSetting(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

// testConn is a running connection and its peer.
type testConn struct {
	*wire.Conn
	peer   *peer
	runErr chan error // receives the result of Run
	stop   context.CancelFunc
}

// newTestConn connects over a pipe to a peer that sends these settings first.
func newTestConn(t *testing.T, cfg wire.Config, s ...http2.Setting) *testConn {
	t.Helper()
	clientSide, serverSide := net.Pipe()
	p := newPeer(t, serverSide)
	go p.readLoop()
	settingsSent := make(chan struct{})
	go func() {
		defer close(settingsSent)
		_ = p.framer.WriteSettings(s...)
	}()
	if cfg.Authority == "" {
		cfg.Authority = "push.example"
	}
	c, err := wire.Client(t.Context(), clientSide, cfg)
	if err != nil {
		t.Fatal(err)
	}
	testwait.For(t, settingsSent, "the settings of the peer")
	ctx, stop := context.WithCancel(context.Background())
	tc := &testConn{Conn: c, peer: p, runErr: make(chan error, 1), stop: stop}
	go func() { tc.runErr <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-p.closed
		_ = serverSide.Close()
	})
	p.nextFrame(http2.FrameSettings) // the client's
	p.nextFrame(http2.FrameSettings) // the client's acknowledgement
	return tc
}

// result is the result of Do.
type result struct {
	res *wire.Response
	err error
}

// start calls Do in a goroutine.
func (tc *testConn) start(ctx context.Context, r *wire.Request) chan result {
	done := make(chan result, 1)
	go func() {
		res, err := tc.Do(ctx, r)
		done <- result{res, err}
	}()
	return done
}

func post(path string) *wire.Request {
	return &wire.Request{Method: "POST", Path: path, Header: []wire.Field{{Name: "apns-topic", Value: "com.example"}}, Body: []byte("{}")}
}

// wantError checks the error of a request that got no response.
func wantError(t *testing.T, r result, reason wire.Reason, processed wire.Processed, atFault bool) {
	t.Helper()
	_ = requireError(t, r, reason, processed, atFault)
}

// requireError is like wantError and returns the error.
func requireError(t *testing.T, r result, reason wire.Reason, processed wire.Processed, atFault bool) *wire.Error {
	t.Helper()
	var e *wire.Error
	if !errors.As(r.err, &e) {
		t.Fatalf("got %v, %v; want an error with reason %s", r.res, r.err, reason)
	}
	if e.Reason != reason || e.Processed != processed || e.EndpointAtFault != atFault {
		t.Fatalf("got %v (processed %d, endpoint at fault %v); want %s, %d, %v",
			e, e.Processed, e.EndpointAtFault, reason, processed, atFault)
	}
	return e
}

func wantStatus(t *testing.T, r result, status int) *wire.Response {
	t.Helper()
	if r.err != nil || r.res == nil || r.res.Status != status {
		t.Fatalf("got %+v, %v; want status %d", r.res, r.err, status)
	}
	return r.res
}
