// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

// peerResponses holds what a peer may send in response to a request, by path. It omits cases in
// which net/http ignores a frame and keeps waiting (HEADERS on an idle stream, for instance): there
// a Conn is stricter on purpose.
var peerResponses = map[string]func(p *peer, id uint32){
	"/head-only":  func(p *peer, id uint32) { p.respond(id, "200", "apns-id", "X") },
	"/empty-data": func(p *peer, id uint32) { p.sendHeaders(id, false, ":status", "200"); p.sendData(id, true, "") },
	"/body": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "400")
		p.sendData(id, true, `{"reason":"x"}`)
	},
	"/server-gone": func(p *peer, id uint32) { p.respond(id, "503", "retry-after", "5") },
	"/in-pieces": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "200", "content-length", "9")
		for _, piece := range []string{"one", "", "two", "six"} {
			p.sendData(id, piece == "six", piece)
		}
	},
	"/padded": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "200")
		p.check(p.framer.WriteDataPadded(id, true, []byte("padded"), make([]byte, 255)))
	},
	"/interim": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "103", "link", "</>")
		p.respond(id, "204", "apns-id", "X")
	},
	"/trailers": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "200")
		p.sendData(id, false, "body")
		p.sendHeaders(id, true, "x-trailer", "1")
	},
	"/continued": func(p *peer, id uint32) {
		block := p.encode(":status", "200", "apns-id", strings.Repeat("x", 300))
		p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block[:5], EndStream: true}))
		p.check(p.framer.WriteContinuation(id, false, block[5:9]))
		p.check(p.framer.WriteContinuation(id, true, block[9:]))
	},
	"/repeated-field": func(p *peer, id uint32) { p.respond(id, "200", "vary", "a", "vary", "b") },
	"/large-enough": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "200")
		for range 4 {
			p.sendData(id, false, strings.Repeat("x", 16<<10))
		}
		p.sendData(id, true, "")
	},
	"/refused":  func(p *peer, id uint32) { p.check(p.framer.WriteRSTStream(id, http2.ErrCodeRefusedStream)) },
	"/internal": func(p *peer, id uint32) { p.check(p.framer.WriteRSTStream(id, http2.ErrCodeInternal)) },
	"/cut-short": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "200")
		p.check(p.framer.WriteRSTStream(id, http2.ErrCodeCancel))
	},
	"/no-status":   func(p *peer, id uint32) { p.sendHeaders(id, true, "apns-id", "X") },
	"/capitals":    func(p *peer, id uint32) { p.sendHeaders(id, true, ":status", "200", "Apns-Id", "X") },
	"/late-status": func(p *peer, id uint32) { p.sendHeaders(id, true, "apns-id", "X", ":status", "200") },
	"/line-break":  func(p *peer, id uint32) { p.sendHeaders(id, true, ":status", "200", "a", "b\nc") },
	"/too-short": func(p *peer, id uint32) {
		p.sendHeaders(id, false, ":status", "200", "content-length", "9")
		p.sendData(id, true, "short")
	},
	"/body-no-head":   func(p *peer, id uint32) { p.sendData(id, true, "body") },
	"/interim-is-all": func(p *peer, id uint32) { p.sendHeaders(id, true, ":status", "100") },
	"/ping-first": func(p *peer, id uint32) {
		p.check(p.framer.WritePing(false, [8]byte{1}))
		p.sendSettings(maxStreamsSetting(7))
		p.check(p.framer.WriteRawFrame(0xfa, 0, 0, []byte("unknown")))
		p.respond(id, "200")
	},
	"/goaway-after": func(p *peer, id uint32) {
		p.check(p.framer.WriteGoAway(id, http2.ErrCodeNo, nil))
		p.respond(id, "200")
	},
	"/goaway-before": func(p *peer, id uint32) { p.check(p.framer.WriteGoAway(0, http2.ErrCodeNo, nil)) },
	"/closed":        func(p *peer, _ uint32) { _ = p.nc.Close() },
	"/push": func(p *peer, id uint32) {
		p.check(p.framer.WritePushPromise(http2.PushPromiseParam{StreamID: id, PromiseID: 2, EndHeaders: true}))
	},
	"/bad-table":      func(p *peer, id uint32) { p.check(p.framer.WriteRawFrame(http2.FrameHeaders, 5, id, []byte("\xfe"))) },
	"/window-too-big": func(p *peer, _ uint32) { p.check(p.framer.WriteWindowUpdate(0, 1<<31-1)) },
}

func (p *peer) sendData(id uint32, end bool, body string) {
	p.t.Helper()
	p.check(p.framer.WriteData(id, end, []byte(body)))
}

// serveResponses responds to each request according to its path.
func serveResponses(t *testing.T) func(net.Conn) {
	return func(nc net.Conn) {
		p := newPeer(t, nc)
		if p.framer.WriteSettings(maxStreamsSetting(100)) != nil {
			return
		}
		go p.readLoop()
		defer func() { <-p.closed }()
		for {
			select {
			case h := <-p.received:
				if h.kind == http2.FrameHeaders {
					peerResponses[h.fields[":path"]](p, h.stream)
				}
			case <-p.closed:
				return
			}
		}
	}
}

// TestConnMatchesNetHTTP sends each request with a Conn and with net/http, and compares the
// responses or the absence of one.
func TestConnMatchesNetHTTP(t *testing.T) {
	cert, roots := serverIdentity("push.example")
	addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, serveResponses(t))
	trust := &tls.Config{RootCAs: roots, ServerName: "push.example"}
	for _, path := range slices.Sorted(maps.Keys(peerResponses)) {
		for _, method := range []string{"GET", "POST"} {
			t.Run(method+path, func(t *testing.T) {
				connResult, netHTTPResult := viaConn(t, addr, trust, method, path), viaNetHTTP(t, addr, trust, method, path)
				if connResult != netHTTPResult {
					t.Errorf("Conn got\n%s\nnet/http got\n%s", connResult, netHTTPResult)
				}
			})
		}
	}
}

func viaConn(t *testing.T, addr netip.AddrPort, trust *tls.Config, method, path string) string {
	t.Helper()
	c, err := wire.Dial(t.Context(), addr, withLongTimeouts(wire.Config{Authority: "push.example", TLS: trust}))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Run(t.Context())
	}()
	defer func() {
		c.Drain()
		<-ended
	}()
	r := &wire.Request{Method: method, Path: path}
	if method == "POST" {
		r.Body = []byte("{}")
	}
	res, err := c.Do(t.Context(), r)
	if err != nil {
		return "no response"
	}
	return formatResponse(res.Status, res.Header, res.Body)
}

func viaNetHTTP(t *testing.T, addr netip.AddrPort, trust *tls.Config, method, path string) string {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	rt := &http.Transport{TLSClientConfig: trust, Protocols: protocols, DisableCompression: true}
	c, err := rt.NewClientConn(t.Context(), "https", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var body io.Reader
	if method == "POST" {
		body = bytes.NewReader([]byte("{}"))
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "https://push.example"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.RoundTrip(req)
	if err != nil {
		return "no response"
	}
	defer func() { _ = res.Body.Close() }()
	whole, err := io.ReadAll(res.Body)
	if err != nil {
		return "no response"
	}
	var fields []wire.Field
	for name, values := range res.Header {
		for _, v := range values {
			fields = append(fields, wire.Field{Name: strings.ToLower(name), Value: v})
		}
	}
	return formatResponse(res.StatusCode, fields, whole)
}

// formatResponse formats a response for comparison. It ignores content-length, which net/http adds
// where it can.
func formatResponse(status int, fields []wire.Field, body []byte) string {
	var lines []string
	for _, f := range fields {
		if f.Name != "content-length" {
			lines = append(lines, fmt.Sprintf("%s: %s", f.Name, f.Value))
		}
	}
	slices.Sort(lines)
	return fmt.Sprintf("%d %v %d bytes %.20q", status, lines, len(body), body)
}
