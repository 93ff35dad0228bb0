// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/mockprovider"
)

// line is a client that knows frames only, and nothing of what is allowed.
type line struct {
	t      testing.TB
	m      *mockprovider.Mock
	raw    net.Conn
	nc     *tls.Conn
	frames *http2.Framer
	fields *hpack.Decoder
	buf    bytes.Buffer
	enc    *hpack.Encoder
	next   uint32
	auth   string
	limits []uint32 // every MAX_CONCURRENT_STREAMS that was announced
}

// connect dials and shakes hands; without ALPN if alpn is empty.
func connect(t testing.TB, m *mockprovider.Mock, addr netip.AddrPort, alpn ...string) *line {
	t.Helper()
	raw, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(time.Minute))
	config := m.ClientTLS()
	config.ServerName, config.NextProtos = "api.push.apple.com", alpn
	l := &line{t: t, m: m, raw: raw, nc: tls.Client(raw, config), fields: hpack.NewDecoder(4096, nil), next: 1}
	l.frames = http2.NewFramer(l.nc, l.nc)
	l.enc = hpack.NewEncoder(&l.buf)
	return l
}

// open is a line to APNs after SETTINGS have been exchanged.
func open(t testing.TB, m *mockprovider.Mock, addr netip.AddrPort) *line {
	t.Helper()
	l := connect(t, m, addr, "h2")
	l.auth = "bearer " + providerToken(t, m.Credentials()[0], 0)
	l.preface()
	for len(l.limits) == 0 {
		l.read()
	}
	return l
}

func (l *line) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *line) preface(settings ...http2.Setting) {
	l.t.Helper()
	_, err := l.nc.Write([]byte(http2.ClientPreface))
	l.must(err)
	l.must(l.frames.WriteSettings(settings...))
}

// read returns the next frame that is not housekeeping, and acknowledges SETTINGS.
func (l *line) read() http2.Frame {
	l.t.Helper()
	f, err := l.tryRead()
	l.must(err)
	return f
}

func (l *line) tryRead() (http2.Frame, error) {
	for {
		f, err := l.frames.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				l.limits = append(l.limits, n)
			}
			_ = l.frames.WriteSettingsAck()
		case *http2.WindowUpdateFrame:
			continue
		}
		return f, nil
	}
}

// begin sends a request's HEADERS and returns its stream.
func (l *line) begin(token string, end bool, more ...string) uint32 {
	l.t.Helper()
	l.buf.Reset()
	fields := append([]string{":method", "POST", ":scheme", "https", ":authority", "api.push.apple.com", ":path", "/3/device/" + token,
		"authorization", l.auth, "apns-topic", "com.example.app", "apns-push-type", "alert"}, more...)
	return l.send(fields, end)
}

// send sends any HEADERS.
func (l *line) send(fields []string, end bool) uint32 {
	l.t.Helper()
	for i := 0; i < len(fields); i += 2 {
		l.must(l.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	id := l.next
	l.next += 2
	l.must(l.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: l.buf.Bytes(), EndHeaders: true, EndStream: end}))
	l.buf.Reset()
	return id
}

// push sends a whole request.
func (l *line) push(token string, more ...string) uint32 {
	l.t.Helper()
	id := l.begin(token, false, more...)
	l.must(l.frames.WriteData(id, true, []byte(hello)))
	return id
}

// result is an answer by frames.
type result struct {
	stream uint32
	status int
	fields map[string]string
	body   string
	frames []string // as provider-exchanges.json writes them
	code   http2.ErrCode
}

// answer reads until some stream has ended. Answers to more than one stream at once must not be mixed.
func (l *line) answer() result {
	l.t.Helper()
	var r result
	for {
		switch f := l.read().(type) {
		case *http2.HeadersFrame:
			r.stream = f.StreamID
			list, err := l.fields.DecodeFull(f.HeaderBlockFragment())
			l.must(err)
			r.fields = map[string]string{}
			for _, field := range list {
				r.fields[field.Name] = field.Value
			}
			r.status, _ = strconv.Atoi(r.fields[":status"])
			r.frames = append(r.frames, describe("HEADERS", f.HeadersEnded(), f.StreamEnded()))
			if f.StreamEnded() {
				return r
			}
		case *http2.DataFrame:
			r.body += string(f.Data())
			r.frames = append(r.frames, describe("DATA", false, f.StreamEnded()))
			if f.StreamEnded() {
				return r
			}
		case *http2.RSTStreamFrame:
			return result{stream: f.StreamID, code: f.ErrCode, frames: []string{"RST_STREAM"}}
		}
	}
}

func describe(name string, headersEnded, streamEnded bool) string {
	switch {
	case headersEnded && streamEnded:
		return name + "(END_HEADERS,END_STREAM)"
	case headersEnded:
		return name + "(END_HEADERS)"
	case streamEnded:
		return name + "(END_STREAM)"
	}
	return name
}

// ended reads until the connection has, and returns the GOAWAY that it ended with, if any.
func (l *line) ended() (away *http2.GoAwayFrame, debug string, err error) {
	for {
		f, err := l.tryRead()
		if err != nil {
			return away, debug, err
		}
		if f, ok := f.(*http2.GoAwayFrame); ok {
			copied := *f
			away, debug = &copied, string(f.DebugData())
		}
	}
}

// ping waits for a PING's acknowledgement, and all that comes before it.
func (l *line) ping() {
	l.t.Helper()
	l.must(l.frames.WritePing(false, [8]byte{1}))
	for {
		if f, ok := l.read().(*http2.PingFrame); ok && f.IsAck() {
			return
		}
	}
}

func TestAClientWithoutALPNIsServedOnAPNs(t *testing.T) {
	m := mockprovider.Start(t)
	l := connect(t, m, m.APNsAddrs()[0])
	l.auth = "bearer " + providerToken(t, m.Credentials()[0], 0)
	l.preface()
	l.push(goodToken)
	if r := l.answer(); r.status != 200 || fmt.Sprint(r.frames) != "[HEADERS(END_HEADERS,END_STREAM)]" {
		t.Fatalf("got %+v", r)
	}
}

func TestAClientOfHTTP1IsDroppedWithoutAWordOnAPNs(t *testing.T) {
	m := mockprovider.Start(t)
	for _, alpn := range [][]string{nil, {"http/1.1"}} {
		l := connect(t, m, m.APNsAddrs()[0], alpn...)
		_, err := l.nc.Write([]byte("POST /3/device/" + goodToken + " HTTP/1.1\r\nHost: api.push.apple.com\r\n\r\n"))
		l.must(err)
		if got, _ := io.ReadAll(l.nc); len(got) != 0 {
			t.Errorf("was told %q", got)
		}
	}
}

func TestTheStreamLimitStartsAtOneAndRisesWithTheFirstAcceptedPush(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{ShrinkOn4xx: true}})
	l := open(t, m, m.APNsAddrs()[0])
	for _, token := range []string{goodToken, "deadbeef", "dead0000" + goodToken[8:], goodToken} {
		l.push(token)
		l.answer()
		l.ping()
	}
	if got, want := fmt.Sprint(l.limits), "[1 1000 1 1000]"; got != want {
		t.Errorf("announced %s, want %s: a 410 must not shrink it", got, want)
	}
}

func TestAStreamTooManyIsRefusedAndCountedAsAViolationOnceTheLimitIsKnown(t *testing.T) {
	m := mockprovider.Start(t)
	l := open(t, m, m.APNsAddrs()[0])
	l.ping()
	first := l.begin(goodToken, false)
	second := l.push(goodToken)
	if r := l.answer(); r.stream != second || r.code != http2.ErrCodeRefusedStream {
		t.Fatalf("got %+v", r)
	}
	l.must(l.frames.WriteData(first, true, []byte(hello)))
	if r := l.answer(); r.stream != first || r.status != 200 {
		t.Fatalf("got %+v", r)
	}
	s := m.Ledger().Summary().Services[mockprovider.APNs]
	if s.Refused != 1 || s.Violations != 1 || s.MaxInFlight != 1 || s.Requests != 1 || s.Accepted != 1 || s.Dials != 1 {
		t.Errorf("summary %+v", s.Counts)
	}
}

func TestAnUnadvertisedLimitIsPolicedAndNoViolation(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{Unadvertised: true}})
	l := open(t, m, m.APNsAddrs()[0])
	if l.limits[0] != 1000 {
		t.Fatalf("announced %d", l.limits[0])
	}
	l.ping()
	l.begin(goodToken, false)
	l.push(goodToken)
	if r := l.answer(); r.code != http2.ErrCodeRefusedStream {
		t.Fatalf("got %+v", r)
	}
	if s := m.Ledger().Summary().Services[mockprovider.APNs]; s.Refused != 1 || s.Violations != 0 {
		t.Errorf("summary %+v", s.Counts)
	}
}

func TestFCMEndsAConnectionThatGoesOver100Streams(t *testing.T) {
	m := mockprovider.Start(t)
	l := open(t, m, m.FCMAddrs()[0])
	l.ping()
	for range 101 {
		l.begin("x", false)
	}
	away, ok := l.read().(*http2.GoAwayFrame)
	if !ok || away.ErrCode != http2.ErrCodeProtocol || away.LastStreamID != 199 ||
		string(away.DebugData()) != "exceeded_max_concurrent_streams" {
		t.Fatalf("got %+v", away)
	}
}

func TestABodyWaitsForTheClientsWindow(t *testing.T) {
	m := mockprovider.Start(t)
	l := connect(t, m, m.APNsAddrs()[0], "h2")
	l.preface(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	l.auth = "none"
	id := l.push(goodToken)
	l.ping()
	l.must(l.frames.WriteWindowUpdate(id, 100))
	var r result
	for r.body == "" {
		if f, ok := l.read().(*http2.DataFrame); ok {
			r.body = string(f.Data())
		}
	}
	if r.body != `{"reason":"InvalidProviderToken"}` {
		t.Errorf("got %q", r.body)
	}
}

func TestABrokenRequestIsAStreamErrorAndTheConnectionGoesOn(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}})
	l := open(t, m, m.APNsAddrs()[0])
	for name, fields := range map[string][]string{
		"upper case":      {":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/", "Apns-Topic", "x"},
		"connection":      {":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/", "connection", "close"},
		"no path":         {":method", "POST", ":scheme", "https", ":authority", "a"},
		"no authority":    {":method", "POST", ":scheme", "https", ":path", "/"},
		"late pseudo":     {":method", "POST", ":scheme", "https", ":authority", "a", "x", "y", ":path", "/"},
		"wrong length":    {":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/", "content-length", "5"},
		"unknown pseudo":  {":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/", ":status", "200"},
		"repeated pseudo": {":method", "POST", ":method", "POST", ":scheme", "https", ":authority", "a", ":path", "/"},
	} {
		l.send(fields, true)
		if r := l.answer(); r.code != http2.ErrCodeProtocol {
			t.Errorf("%s: got %+v", name, r)
		}
	}
	l.push(goodToken)
	if r := l.answer(); r.status != 200 {
		t.Errorf("afterwards: got %+v", r)
	}
}

func TestABrokenConnectionEndsWithAGoAwayThatSaysWhy(t *testing.T) {
	m := mockprovider.Start(t, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}})
	for name, c := range map[string]struct {
		code http2.ErrCode
		sin  func(*line) error
	}{
		"even stream":   {http2.ErrCodeProtocol, func(l *line) error { l.next = 2; l.push(goodToken); return nil }},
		"old stream":    {http2.ErrCodeProtocol, func(l *line) error { l.next = 5; l.push(goodToken); l.next = 3; l.push(goodToken); return nil }},
		"data on idle":  {http2.ErrCodeProtocol, func(l *line) error { return l.frames.WriteData(7, true, nil) }},
		"reset of idle": {http2.ErrCodeProtocol, func(l *line) error { return l.frames.WriteRSTStream(7, 0) }},
		"bad compression": {http2.ErrCodeCompression, func(l *line) error {
			return l.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0x0f}, EndHeaders: true})
		}},
		"huge frame": {http2.ErrCodeFrameSize, func(l *line) error { return l.frames.WriteRawFrame(0x77, 0, 0, make([]byte, 1<<15)) }},
		"push promise": {http2.ErrCodeProtocol, func(l *line) error {
			return l.frames.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, EndHeaders: true})
		}},
		"window overflow":  {http2.ErrCodeFlowControl, func(l *line) error { return l.frames.WriteWindowUpdate(0, 1<<31-1) }},
		"headers too long": {http2.ErrCodeEnhanceYourCalm, flood},
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t, m, m.APNsAddrs()[1])
			l.must(c.sin(l))
			away, _, err := l.ended()
			if away == nil || away.ErrCode != c.code || !errors.Is(err, io.EOF) {
				t.Fatalf("got %+v, %v; want %v", away, err, c.code)
			}
		})
	}
}

// flood sends a header block without an end.
func flood(l *line) error {
	if err := l.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: bytes.Repeat([]byte{0x82}, 10)}); err != nil {
		return err
	}
	for range 8 {
		if err := l.frames.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 10<<10)); err != nil {
			return nil // it has been cut off already
		}
	}
	return nil
}

func TestTrailersEndARequest(t *testing.T) {
	m := mockprovider.Start(t)
	l := open(t, m, m.APNsAddrs()[0])
	id := l.begin(goodToken, false)
	l.must(l.frames.WriteData(id, false, []byte(hello)))
	l.buf.Reset()
	l.must(l.enc.WriteField(hpack.HeaderField{Name: "x-sum", Value: "1"}))
	l.must(l.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: l.buf.Bytes(), EndHeaders: true, EndStream: true}))
	if r := l.answer(); r.status != 200 {
		t.Fatalf("got %+v", r)
	}
}

// FuzzFrames finds no bytes that break the services: whatever a client sends, the next one is served.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8})
	f.Add([]byte{0, 0, 3, 1, 5, 0, 0, 0, 1, 0x82, 0x87, 0x84, 0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8})
	f.Add([]byte{0, 0, 2, 1, 1, 0, 0, 0, 3, 0x83, 0x87, 0, 0, 1, 9, 4, 0, 0, 0, 3, 0x84, 0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 1})
	f.Add([]byte{0, 0, 4, 8, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0})
	m := mockprovider.Start(f, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}, LedgerSize: 1000})
	f.Fuzz(func(t *testing.T, frames []byte) {
		for _, addr := range []netip.AddrPort{m.APNsAddrs()[0], m.FCMAddrs()[0]} {
			l := connect(t, m, addr, "h2")
			l.preface()
			_, _ = l.nc.Write(frames)
			_ = l.nc.CloseWrite()
			_, _ = io.Copy(io.Discard, l.nc)
			_ = l.raw.Close()
		}
		l := open(t, m, m.APNsAddrs()[0])
		l.push(goodToken)
		if r := l.answer(); r.status != 200 {
			t.Fatalf("got %+v", r)
		}
		_ = l.raw.Close()
	})
}
