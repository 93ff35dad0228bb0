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

	"github.com/sluice-push/sluice/wire"
)

// heard is one frame that the peer read.
type heard struct {
	kind   http2.FrameType
	stream uint32
	flags  http2.Flags
	code   http2.ErrCode
	n      uint32 // a window's increment, a GOAWAY's last stream
	body   string
	size   int // of the frame, or of a whole header block
	fields map[string]string
	never  map[string]bool // fields that were marked never-indexed
	set    map[http2.SettingID]uint32
}

func (h heard) String() string {
	return fmt.Sprintf("%v(%d) flags %x code %v n %d %q %v", h.kind, h.stream, h.flags, h.code, h.n, h.body, h.fields)
}

func (h heard) ends() bool { return h.flags.Has(http2.FlagDataEndStream) }

// peer is a scripted HTTP/2 server at the other end of a pipe. It says only
// what the test tells it to, and keeps what it hears.
type peer struct {
	t      *testing.T
	nc     net.Conn
	fr     *http2.Framer
	heard  chan heard
	closed chan struct{}
	decode *hpack.Decoder
	fields []hpack.HeaderField
	enc    *hpack.Encoder
	block  bytes.Buffer
	head   []byte
	deaf   atomic.Bool // read at most one more frame
}

func newPeer(t *testing.T, nc net.Conn) *peer {
	p := &peer{t: t, nc: nc, fr: http2.NewFramer(nc, nc), heard: make(chan heard, 1<<16), closed: make(chan struct{})}
	p.fr.AllowIllegalWrites = true
	p.fr.AllowIllegalReads = true
	p.decode = hpack.NewDecoder(4096, func(f hpack.HeaderField) { p.fields = append(p.fields, f) })
	p.enc = hpack.NewEncoder(&p.block)
	return p
}

// listen reads the preface and then every frame until the end.
func (p *peer) listen() {
	defer close(p.closed)
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(p.nc, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	for !p.deaf.Load() {
		f, err := p.fr.ReadFrame()
		if err != nil {
			return
		}
		p.note(f)
	}
}

func (p *peer) note(f http2.Frame) {
	h := heard{kind: f.Header().Type, stream: f.Header().StreamID, flags: f.Header().Flags, size: int(f.Header().Length)}
	switch f := f.(type) {
	case *http2.HeadersFrame:
		if p.head = append(p.head[:0], f.HeaderBlockFragment()...); f.HeadersEnded() {
			p.noteFields(&h)
		}
	case *http2.ContinuationFrame:
		if p.head = append(p.head, f.HeaderBlockFragment()...); f.HeadersEnded() {
			p.noteFields(&h)
		}
	case *http2.DataFrame:
		h.body = string(f.Data())
	case *http2.RSTStreamFrame:
		h.code = f.ErrCode
	case *http2.GoAwayFrame:
		h.code, h.n, h.body = f.ErrCode, f.LastStreamID, string(f.DebugData())
	case *http2.WindowUpdateFrame:
		h.n = f.Increment
	case *http2.PingFrame:
		h.body = string(f.Data[:])
	case *http2.SettingsFrame:
		h.set = map[http2.SettingID]uint32{}
		_ = f.ForeachSetting(func(s http2.Setting) error { h.set[s.ID] = s.Val; return nil })
	}
	p.heard <- h
}

func (p *peer) noteFields(h *heard) {
	p.fields = nil
	if _, err := p.decode.Write(p.head); err != nil {
		p.t.Errorf("the peer cannot decode a header block: %v", err)
	}
	_ = p.decode.Close()
	h.fields, h.never = map[string]string{}, map[string]bool{}
	for _, f := range p.fields {
		h.fields[f.Name] = f.Value
		h.never[f.Name] = f.Sensitive
	}
}

// next returns the next frame of that kind; those of other kinds are passed over.
func (p *peer) next(kind http2.FrameType) heard {
	p.t.Helper()
	for {
		select {
		case h := <-p.heard:
			if h.kind == kind {
				return h
			}
		case <-p.closed:
			select {
			case h := <-p.heard:
				if h.kind == kind {
					return h
				}
				continue
			default:
			}
			p.t.Fatalf("the connection ended before a %v came", kind)
		case <-time.After(time.Minute):
			p.t.Fatalf("no %v came", kind)
		}
	}
}

// rest returns the frames of that kind which have come and were not asked for.
func (p *peer) rest(kind http2.FrameType) (all []heard) {
	synctest.Wait()
	for {
		select {
		case h := <-p.heard:
			if h.kind == kind {
				all = append(all, h)
			}
		default:
			return all
		}
	}
}

// do fails the test unless the peer could write, or there is nobody left to
// write to.
func (p *peer) do(err error) {
	p.t.Helper()
	gone := errors.Is(err, io.ErrClosedPipe) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
	if err != nil && !gone {
		p.t.Fatalf("the peer cannot write: %v", err)
	}
}

func (p *peer) encode(fields ...string) []byte {
	p.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		p.do(p.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return p.block.Bytes()
}

// sendHead sends a HEADERS frame with these fields.
func (p *peer) sendHead(stream uint32, end bool, fields ...string) {
	p.t.Helper()
	p.do(p.fr.WriteHeaders(http2.HeadersFrameParam{
		StreamID: stream, BlockFragment: p.encode(fields...), EndHeaders: true, EndStream: end,
	}))
}

// answer sends a whole answer without a body.
func (p *peer) answer(stream uint32, status string, fields ...string) {
	p.t.Helper()
	p.sendHead(stream, true, append([]string{":status", status}, fields...)...)
}

func (p *peer) settings(s ...http2.Setting) {
	p.t.Helper()
	p.do(p.fr.WriteSettings(s...))
}

func limit(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: n}
}

// house is a connection that runs, and the peer it talks to.
type house struct {
	*wire.Conn
	peer  *peer
	ended chan error // what Run returned
	stop  context.CancelFunc
}

// build connects over a pipe to a peer whose first SETTINGS are these.
func build(t *testing.T, cfg wire.Config, s ...http2.Setting) *house {
	t.Helper()
	ours, theirs := net.Pipe()
	p := newPeer(t, theirs)
	go p.listen()
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		_ = p.fr.WriteSettings(s...)
	}()
	if cfg.Authority == "" {
		cfg.Authority = "push.example"
	}
	c, err := wire.Client(t.Context(), ours, cfg)
	if err != nil {
		t.Fatal(err)
	}
	<-greeted
	ctx, stop := context.WithCancel(context.Background())
	h := &house{Conn: c, peer: p, ended: make(chan error, 1), stop: stop}
	go func() { h.ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-p.closed
		_ = theirs.Close()
	})
	p.next(http2.FrameSettings) // ours
	p.next(http2.FrameSettings) // our acknowledgement
	return h
}

// result is what a Do returned.
type result struct {
	res *wire.Response
	err error
}

// send starts a Do beside the test.
func (h *house) send(ctx context.Context, r *wire.Request) chan result {
	done := make(chan result, 1)
	go func() {
		res, err := h.Do(ctx, r)
		done <- result{res, err}
	}()
	return done
}

func post(path string) *wire.Request {
	return &wire.Request{Method: "POST", Path: path, Header: []wire.Field{{Name: "apns-topic", Value: "com.example"}}, Body: []byte("{}")}
}

// wantError checks the whole truth about a request that got no answer.
func wantError(t *testing.T, r result, reason wire.Reason, processed wire.Processed, endpoint bool) {
	t.Helper()
	_ = theError(t, r, reason, processed, endpoint)
}

// theError checks the same and returns the error.
func theError(t *testing.T, r result, reason wire.Reason, processed wire.Processed, endpoint bool) *wire.Error {
	t.Helper()
	var e *wire.Error
	if !errors.As(r.err, &e) {
		t.Fatalf("got %v, %v; want the error %s", r.res, r.err, reason)
	}
	if e.Reason != reason || e.Processed != processed || e.Endpoint != endpoint {
		t.Fatalf("got %v (processed %d, endpoint's fault %v); want %s, %d, %v",
			e, e.Processed, e.Endpoint, reason, processed, endpoint)
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
