// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

func TestInterimResponsesAndTrailersAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 1, wire.Config{})
		tc.peer.sendHeaders(1, false, ":status", "100")
		tc.peer.sendHeaders(1, false, ":status", "103", "link", "</style.css>")
		tc.peer.sendHeaders(1, false, ":status", "200", "apns-id", "X")
		tc.peer.check(tc.peer.framer.WriteDataPadded(1, false, []byte("body"), make([]byte, 20)))
		tc.peer.sendHeaders(1, true, "grpc-status", "0")
		res := wantStatus(t, <-inFlight[1], 200)
		if string(res.Body) != "body" || len(res.Header) != 1 || res.Get("apns-id") != "X" || res.Get("link") != "" {
			t.Errorf("got %+v", res)
		}
	})
}

func TestHeadResponseMayDeclareContentLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		done := tc.start(t.Context(), &wire.Request{Method: "HEAD", Path: "/"})
		tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200", "content-length", "1000")
		wantStatus(t, <-done, 200)
	})
}

func TestResponseHeadersSpanFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 1, wire.Config{})
		block := tc.peer.encode(":status", "200", "apns-id", "a-long-one-that-is-cut-in-the-middle")
		tc.peer.check(tc.peer.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:7], EndStream: true}))
		tc.peer.check(tc.peer.framer.WriteContinuation(1, false, block[7:9]))
		tc.peer.check(tc.peer.framer.WriteContinuation(1, true, block[9:]))
		if res := wantStatus(t, <-inFlight[1], 200); res.Get("apns-id") != "a-long-one-that-is-cut-in-the-middle" {
			t.Errorf("got %+v", res)
		}
	})
}

func TestMalformedResponseEndsOnlyItsRequest(t *testing.T) {
	for name, script := range map[string]func(p *peer){
		"no :status":                       func(p *peer) { p.sendHeaders(1, true, "apns-id", "x") },
		"two :status fields":               func(p *peer) { p.sendHeaders(1, true, ":status", "200", ":status", "200") },
		":status with four digits":         func(p *peer) { p.sendHeaders(1, true, ":status", "2000") },
		":status with a sign":              func(p *peer) { p.sendHeaders(1, true, ":status", "+20") },
		"101 Switching Protocols":          func(p *peer) { p.sendHeaders(1, false, ":status", "101") },
		"request pseudo-header":            func(p *peer) { p.sendHeaders(1, true, ":status", "200", ":path", "/") },
		":status after a regular field":    func(p *peer) { p.sendHeaders(1, true, "a", "b", ":status", "200") },
		"upper-case name":                  func(p *peer) { p.sendHeaders(1, true, ":status", "200", "Apns-Id", "x") },
		"empty name":                       func(p *peer) { p.sendHeaders(1, true, ":status", "200", "", "x") },
		"line break in a value":            func(p *peer) { p.sendHeaders(1, true, ":status", "200", "a", "b\r\nc: d") },
		"interim response ends the stream": func(p *peer) { p.sendHeaders(1, true, ":status", "100") },
		"two content-lengths":              func(p *peer) { p.sendHeaders(1, true, ":status", "200", "content-length", "0", "content-length", "1") },
		"content-length is not a number":   func(p *peer) { p.sendHeaders(1, true, ":status", "200", "content-length", "ten") },
		"content-length without a body":    func(p *peer) { p.sendHeaders(1, true, ":status", "200", "content-length", "10") },
		"DATA before HEADERS":              func(p *peer) { p.check(p.framer.WriteData(1, true, []byte("x"))) },
		"DATA after an interim response": func(p *peer) {
			p.sendHeaders(1, false, ":status", "100")
			p.check(p.framer.WriteData(1, true, []byte("x")))
		},
		"body shorter than content-length": func(p *peer) {
			p.sendHeaders(1, false, ":status", "200", "content-length", "10")
			p.check(p.framer.WriteData(1, true, []byte("short")))
		},
		"second response": func(p *peer) {
			p.sendHeaders(1, false, ":status", "200")
			p.sendHeaders(1, true, ":status", "200")
		},
		"trailers without END_STREAM": func(p *peer) {
			p.sendHeaders(1, false, ":status", "200")
			p.sendHeaders(1, false, "a", "b")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc, inFlight := startRequests(t, 2, wire.Config{})
				script(tc.peer)
				wantError(t, <-inFlight[1], wire.MalformedResponse, wire.Unknown, true)
				if rst := tc.peer.nextFrame(http2.FrameRSTStream); rst.stream != 1 || rst.code != http2.ErrCodeProtocol {
					t.Errorf("the peer got %v", rst)
				}
				tc.peer.respond(3, "200")
				wantStatus(t, <-inFlight[3], 200)
			})
		})
	}
}

func TestProtocolViolationEndsConnWithGoAway(t *testing.T) {
	rawFrame := func(kind http2.FrameType, flags http2.Flags, id uint32, payload string) func(p *peer) {
		return func(p *peer) { p.check(p.framer.WriteRawFrame(kind, flags, id, []byte(payload))) }
	}
	setting := func(id http2.SettingID, value uint32) func(p *peer) {
		return func(p *peer) { p.sendSettings(http2.Setting{ID: id, Val: value}) }
	}
	for name, test := range map[string]struct {
		code   http2.ErrCode
		script func(p *peer)
	}{
		"DATA on an idle stream":                  {http2.ErrCodeProtocol, rawFrame(http2.FrameData, 0, 9, "x")},
		"DATA on stream 0":                        {http2.ErrCodeProtocol, rawFrame(http2.FrameData, 0, 0, "x")},
		"HEADERS on an idle stream":               {http2.ErrCodeProtocol, func(p *peer) { p.respond(9, "200") }},
		"HEADERS on an even stream":               {http2.ErrCodeProtocol, func(p *peer) { p.respond(2, "200") }},
		"RST_STREAM on an idle stream":            {http2.ErrCodeProtocol, rawFrame(http2.FrameRSTStream, 0, 9, "\x00\x00\x00\x08")},
		"RST_STREAM of three bytes":               {http2.ErrCodeFrameSize, rawFrame(http2.FrameRSTStream, 0, 1, "\x00\x00\x08")},
		"WINDOW_UPDATE on an idle stream":         {http2.ErrCodeProtocol, rawFrame(http2.FrameWindowUpdate, 0, 9, "\x00\x00\x00\x08")},
		"WINDOW_UPDATE of zero":                   {http2.ErrCodeProtocol, rawFrame(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x00\x00")},
		"WINDOW_UPDATE of zero on an idle stream": {http2.ErrCodeProtocol, rawFrame(http2.FrameWindowUpdate, 0, 9, "\x00\x00\x00\x00")},
		"WINDOW_UPDATE beyond 2^31-1":             {http2.ErrCodeFlowControl, rawFrame(http2.FrameWindowUpdate, 0, 0, "\x7f\xff\xff\xff")},
		"PUSH_PROMISE":                            {http2.ErrCodeProtocol, rawFrame(http2.FramePushPromise, 4, 1, "\x00\x00\x00\x02")},
		"PING of seven bytes":                     {http2.ErrCodeFrameSize, rawFrame(http2.FramePing, 0, 0, "1234567")},
		"PING on a stream":                        {http2.ErrCodeProtocol, rawFrame(http2.FramePing, 0, 1, "12345678")},
		"SETTINGS of five bytes":                  {http2.ErrCodeFrameSize, rawFrame(http2.FrameSettings, 0, 0, "12345")},
		"SETTINGS on a stream":                    {http2.ErrCodeProtocol, rawFrame(http2.FrameSettings, 0, 1, "")},
		"SETTINGS that enable push":               {http2.ErrCodeProtocol, setting(http2.SettingEnablePush, 1)},
		"initial window beyond 2^31-1":            {http2.ErrCodeFlowControl, setting(http2.SettingInitialWindowSize, 1<<31)},
		"max frame size too small":                {http2.ErrCodeProtocol, setting(http2.SettingMaxFrameSize, 1000)},
		"GOAWAY on a stream":                      {http2.ErrCodeProtocol, rawFrame(http2.FrameGoAway, 0, 1, "12345678")},
		"GOAWAY of four bytes":                    {http2.ErrCodeFrameSize, rawFrame(http2.FrameGoAway, 0, 0, "1234")},
		"frame that is too large":                 {http2.ErrCodeFrameSize, rawFrame(http2.FrameData, 0, 1, strings.Repeat("x", 16385))},
		"padding only":                            {http2.ErrCodeFrameSize, rawFrame(http2.FrameData, 8, 1, "")},
		"more padding than frame":                 {http2.ErrCodeProtocol, rawFrame(http2.FrameData, 8, 1, "\x09x")},
		"HEADERS with too much padding":           {http2.ErrCodeProtocol, rawFrame(http2.FrameHeaders, 8|4, 1, "\x09x")},
		"CONTINUATION without HEADERS":            {http2.ErrCodeProtocol, rawFrame(http2.FrameContinuation, 4, 1, "x")},
		"other frame inside a header block": {http2.ErrCodeProtocol, func(p *peer) {
			p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}}))
			p.check(p.framer.WritePing(false, [8]byte{}))
		}},
		"HPACK index beyond the table": {http2.ErrCodeCompression, rawFrame(http2.FrameHeaders, 4|1, 1, "\xfe")},
		"truncated header block":       {http2.ErrCodeCompression, rawFrame(http2.FrameHeaders, 4|1, 1, "\x40\x05ab")},
		"header value that is too long": {http2.ErrCodeCompression, func(p *peer) {
			p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("\x40\x01a\x7f\xff\xff\x03")}))
		}},
		"endless header block": {http2.ErrCodeEnhanceYourCalm, func(p *peer) {
			p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}}))
			for range 20 {
				p.check(p.framer.WriteContinuation(1, false, nil))
			}
		}},
		"HEADERS after END_STREAM": {http2.ErrCodeStreamClosed, func(p *peer) {
			p.respond(3, "200")
			p.respond(3, "200")
		}},
		"DATA after END_STREAM": {http2.ErrCodeStreamClosed, func(p *peer) {
			p.respond(3, "200")
			p.check(p.framer.WriteData(3, true, []byte("x")))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc, inFlight := startRequests(t, 2, wire.Config{})
				synctest.Wait()
				go test.script(tc.peer) // writes may block once the connection has ended
				e := requireError(t, <-inFlight[1], wire.LostAfterWrite, wire.Unknown, true)
				if goAway := tc.peer.nextFrame(http2.FrameGoAway); goAway.code != test.code || goAway.body == "" || goAway.value != 0 {
					t.Errorf("the peer got %v; want %v", goAway, test.code)
				}
				if err := <-tc.runErr; !errors.Is(err, e) {
					t.Errorf("Run returned %v; the request got %v", err, e)
				}
			})
		})
	}
}

func TestStreamErrorEndsOnlyItsStream(t *testing.T) {
	for name, payload := range map[string]string{"zero": "\x00\x00\x00\x00", "too much": "\x7f\xff\xff\xff"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc, inFlight := startRequests(t, 2, wire.Config{})
				tc.peer.check(tc.peer.framer.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, []byte(payload)))
				wantError(t, <-inFlight[1], wire.MalformedResponse, wire.Unknown, true)
				tc.peer.respond(3, "200")
				wantStatus(t, <-inFlight[3], 200)
			})
		})
	}
}

func TestIgnoredFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{})
		tc.peer.respond(1, "200")
		wantStatus(t, <-inFlight[1], 200)
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(1, 10)) // crosses the end of the stream
		tc.peer.check(tc.peer.framer.WriteRSTStream(1, http2.ErrCodeNo))
		tc.peer.check(tc.peer.framer.WritePriority(3, http2.PriorityParam{Weight: 5}))
		tc.peer.check(tc.peer.framer.WriteRawFrame(0xbe, 0xff, 3, []byte("unknown")))
		tc.peer.check(tc.peer.framer.WriteSettingsAck())
		tc.peer.sendSettings(http2.Setting{ID: 0xbeef, Val: 1})
		tc.peer.respond(3, "200")
		wantStatus(t, <-inFlight[3], 200)
	})
}

func TestControlBacklogEndsConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 1, wire.Config{})
		tc.peer.stopReading.Store(true)
		go func() {
			for range 10000 {
				if tc.peer.framer.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		}()
		e := requireError(t, <-inFlight[1], wire.LostAfterWrite, wire.Unknown, true)
		if !strings.Contains(e.Error(), "ENHANCE_YOUR_CALM") {
			t.Errorf("the cause is %v", e)
		}
		if err := <-tc.runErr; err == nil {
			t.Error("Run returned no error")
		}
	})
}
