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
		h, flying := startRequests(t, 1, wire.Config{})
		h.peer.sendHeaders(1, false, ":status", "100")
		h.peer.sendHeaders(1, false, ":status", "103", "link", "</style.css>")
		h.peer.sendHeaders(1, false, ":status", "200", "apns-id", "X")
		h.peer.check(h.peer.framer.WriteDataPadded(1, false, []byte("body"), make([]byte, 20)))
		h.peer.sendHeaders(1, true, "grpc-status", "0")
		res := wantStatus(t, <-flying[1], 200)
		if string(res.Body) != "body" || len(res.Header) != 1 || res.Get("apns-id") != "X" || res.Get("link") != "" {
			t.Errorf("got %+v", res)
		}
	})
}

func TestHeadResponseMayDeclareContentLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		done := h.start(t.Context(), &wire.Request{Method: "HEAD", Path: "/"})
		h.peer.respond(h.peer.nextFrame(http2.FrameHeaders).stream, "200", "content-length", "1000")
		wantStatus(t, <-done, 200)
	})
}

func TestResponseHeadersSpanFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 1, wire.Config{})
		block := h.peer.encode(":status", "200", "apns-id", "a-long-one-that-is-cut-in-the-middle")
		h.peer.check(h.peer.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block[:7], EndStream: true}))
		h.peer.check(h.peer.framer.WriteContinuation(1, false, block[7:9]))
		h.peer.check(h.peer.framer.WriteContinuation(1, true, block[9:]))
		if res := wantStatus(t, <-flying[1], 200); res.Get("apns-id") != "a-long-one-that-is-cut-in-the-middle" {
			t.Errorf("got %+v", res)
		}
	})
}

func TestMalformedResponseEndsOnlyItsRequest(t *testing.T) {
	for name, script := range map[string]func(p *peer){
		"no status":                 func(p *peer) { p.sendHeaders(1, true, "apns-id", "x") },
		"two statuses":              func(p *peer) { p.sendHeaders(1, true, ":status", "200", ":status", "200") },
		"a status of four digits":   func(p *peer) { p.sendHeaders(1, true, ":status", "2000") },
		"a status of words":         func(p *peer) { p.sendHeaders(1, true, ":status", "+20") },
		"switching protocols":       func(p *peer) { p.sendHeaders(1, false, ":status", "101") },
		"a pseudo-field of its own": func(p *peer) { p.sendHeaders(1, true, ":status", "200", ":path", "/") },
		"the status after a field":  func(p *peer) { p.sendHeaders(1, true, "a", "b", ":status", "200") },
		"a name in capitals":        func(p *peer) { p.sendHeaders(1, true, ":status", "200", "Apns-Id", "x") },
		"a name that is empty":      func(p *peer) { p.sendHeaders(1, true, ":status", "200", "", "x") },
		"a value with a line break": func(p *peer) { p.sendHeaders(1, true, ":status", "200", "a", "b\r\nc: d") },
		"an interim answer as last": func(p *peer) { p.sendHeaders(1, true, ":status", "100") },
		"two lengths":               func(p *peer) { p.sendHeaders(1, true, ":status", "200", "content-length", "0", "content-length", "1") },
		"a length of words":         func(p *peer) { p.sendHeaders(1, true, ":status", "200", "content-length", "ten") },
		"a length without a body":   func(p *peer) { p.sendHeaders(1, true, ":status", "200", "content-length", "10") },
		"a body before its head":    func(p *peer) { p.check(p.framer.WriteData(1, true, []byte("x"))) },
		"a body after an interim answer": func(p *peer) {
			p.sendHeaders(1, false, ":status", "100")
			p.check(p.framer.WriteData(1, true, []byte("x")))
		},
		"a body of another length": func(p *peer) {
			p.sendHeaders(1, false, ":status", "200", "content-length", "10")
			p.check(p.framer.WriteData(1, true, []byte("short")))
		},
		"a second head": func(p *peer) {
			p.sendHeaders(1, false, ":status", "200")
			p.sendHeaders(1, true, ":status", "200")
		},
		"trailers without an end": func(p *peer) {
			p.sendHeaders(1, false, ":status", "200")
			p.sendHeaders(1, false, "a", "b")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, flying := startRequests(t, 2, wire.Config{})
				script(h.peer)
				wantError(t, <-flying[1], wire.MalformedResponse, wire.Unknown, true)
				if rst := h.peer.nextFrame(http2.FrameRSTStream); rst.stream != 1 || rst.code != http2.ErrCodeProtocol {
					t.Errorf("the peer was told %v", rst)
				}
				h.peer.respond(3, "200")
				wantStatus(t, <-flying[3], 200)
			})
		})
	}
}

func TestProtocolViolationEndsConnWithGoAway(t *testing.T) {
	raw := func(kind http2.FrameType, flags http2.Flags, id uint32, payload string) func(p *peer) {
		return func(p *peer) { p.check(p.framer.WriteRawFrame(kind, flags, id, []byte(payload))) }
	}
	set := func(id http2.SettingID, value uint32) func(p *peer) {
		return func(p *peer) { p.sendSettings(http2.Setting{ID: id, Val: value}) }
	}
	for name, test := range map[string]struct {
		code   http2.ErrCode
		script func(p *peer)
	}{
		"DATA on an idle stream":          {http2.ErrCodeProtocol, raw(http2.FrameData, 0, 9, "x")},
		"DATA on stream 0":                {http2.ErrCodeProtocol, raw(http2.FrameData, 0, 0, "x")},
		"HEADERS on an idle stream":       {http2.ErrCodeProtocol, func(p *peer) { p.respond(9, "200") }},
		"HEADERS on a stream of its own":  {http2.ErrCodeProtocol, func(p *peer) { p.respond(2, "200") }},
		"RST_STREAM on an idle stream":    {http2.ErrCodeProtocol, raw(http2.FrameRSTStream, 0, 9, "\x00\x00\x00\x08")},
		"RST_STREAM of three bytes":       {http2.ErrCodeFrameSize, raw(http2.FrameRSTStream, 0, 1, "\x00\x00\x08")},
		"WINDOW_UPDATE on an idle stream": {http2.ErrCodeProtocol, raw(http2.FrameWindowUpdate, 0, 9, "\x00\x00\x00\x08")},
		"WINDOW_UPDATE of zero":           {http2.ErrCodeProtocol, raw(http2.FrameWindowUpdate, 0, 0, "\x00\x00\x00\x00")},
		"zero for an idle stream":         {http2.ErrCodeProtocol, raw(http2.FrameWindowUpdate, 0, 9, "\x00\x00\x00\x00")},
		"WINDOW_UPDATE beyond 2^31-1":     {http2.ErrCodeFlowControl, raw(http2.FrameWindowUpdate, 0, 0, "\x7f\xff\xff\xff")},
		"PUSH_PROMISE":                    {http2.ErrCodeProtocol, raw(http2.FramePushPromise, 4, 1, "\x00\x00\x00\x02")},
		"PING of seven bytes":             {http2.ErrCodeFrameSize, raw(http2.FramePing, 0, 0, "1234567")},
		"PING on a stream":                {http2.ErrCodeProtocol, raw(http2.FramePing, 0, 1, "12345678")},
		"SETTINGS of five bytes":          {http2.ErrCodeFrameSize, raw(http2.FrameSettings, 0, 0, "12345")},
		"SETTINGS on a stream":            {http2.ErrCodeProtocol, raw(http2.FrameSettings, 0, 1, "")},
		"SETTINGS that allow it push":     {http2.ErrCodeProtocol, set(http2.SettingEnablePush, 1)},
		"a window beyond 2^31-1":          {http2.ErrCodeFlowControl, set(http2.SettingInitialWindowSize, 1<<31)},
		"a largest frame too small":       {http2.ErrCodeProtocol, set(http2.SettingMaxFrameSize, 1000)},
		"GOAWAY on a stream":              {http2.ErrCodeProtocol, raw(http2.FrameGoAway, 0, 1, "12345678")},
		"GOAWAY of four bytes":            {http2.ErrCodeFrameSize, raw(http2.FrameGoAway, 0, 0, "1234")},
		"a frame that is too large":       {http2.ErrCodeFrameSize, raw(http2.FrameData, 0, 1, strings.Repeat("x", 16385))},
		"padding and nothing else":        {http2.ErrCodeFrameSize, raw(http2.FrameData, 8, 1, "")},
		"more padding than frame":         {http2.ErrCodeProtocol, raw(http2.FrameData, 8, 1, "\x09x")},
		"HEADERS with too much padding":   {http2.ErrCodeProtocol, raw(http2.FrameHeaders, 8|4, 1, "\x09x")},
		"CONTINUATION of nothing":         {http2.ErrCodeProtocol, raw(http2.FrameContinuation, 4, 1, "x")},
		"a head that another frame cuts": {http2.ErrCodeProtocol, func(p *peer) {
			p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}}))
			p.check(p.framer.WritePing(false, [8]byte{}))
		}},
		"an index beyond the table": {http2.ErrCodeCompression, raw(http2.FrameHeaders, 4|1, 1, "\xfe")},
		"a head that is cut short":  {http2.ErrCodeCompression, raw(http2.FrameHeaders, 4|1, 1, "\x40\x05ab")},
		"a value beyond measure": {http2.ErrCodeCompression, func(p *peer) {
			p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte("\x40\x01a\x7f\xff\xff\x03")}))
		}},
		"a head without end": {http2.ErrCodeEnhanceYourCalm, func(p *peer) {
			p.check(p.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x88}}))
			for range 20 {
				p.check(p.framer.WriteContinuation(1, false, nil))
			}
		}},
		"HEADERS after the end": {http2.ErrCodeStreamClosed, func(p *peer) {
			p.respond(3, "200")
			p.respond(3, "200")
		}},
		"DATA after the end": {http2.ErrCodeStreamClosed, func(p *peer) {
			p.respond(3, "200")
			p.check(p.framer.WriteData(3, true, []byte("x")))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, flying := startRequests(t, 2, wire.Config{})
				synctest.Wait()
				go test.script(h.peer) // its last frames may find nobody
				e := requireError(t, <-flying[1], wire.LostAfterWrite, wire.Unknown, true)
				if bye := h.peer.nextFrame(http2.FrameGoAway); bye.code != test.code || bye.body == "" || bye.value != 0 {
					t.Errorf("the peer was told %v; want %v", bye, test.code)
				}
				if err := <-h.runErr; !errors.Is(err, e) {
					t.Errorf("Run returned %v; the request %v", err, e)
				}
			})
		})
	}
}

func TestStreamErrorEndsOnlyItsStream(t *testing.T) {
	for name, payload := range map[string]string{"zero": "\x00\x00\x00\x00", "too much": "\x7f\xff\xff\xff"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, flying := startRequests(t, 2, wire.Config{})
				h.peer.check(h.peer.framer.WriteRawFrame(http2.FrameWindowUpdate, 0, 1, []byte(payload)))
				wantError(t, <-flying[1], wire.MalformedResponse, wire.Unknown, true)
				h.peer.respond(3, "200")
				wantStatus(t, <-flying[3], 200)
			})
		})
	}
}

func TestIgnoredFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 2, wire.Config{})
		h.peer.respond(1, "200")
		wantStatus(t, <-flying[1], 200)
		h.peer.check(h.peer.framer.WriteWindowUpdate(1, 10)) // crossed its end
		h.peer.check(h.peer.framer.WriteRSTStream(1, http2.ErrCodeNo))
		h.peer.check(h.peer.framer.WritePriority(3, http2.PriorityParam{Weight: 5}))
		h.peer.check(h.peer.framer.WriteRawFrame(0xbe, 0xff, 3, []byte("unknown")))
		h.peer.check(h.peer.framer.WriteSettingsAck())
		h.peer.sendSettings(http2.Setting{ID: 0xbeef, Val: 1})
		h.peer.respond(3, "200")
		wantStatus(t, <-flying[3], 200)
	})
}

func TestControlBacklogEndsConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 1, wire.Config{})
		h.peer.stopReading.Store(true)
		go func() {
			for range 10000 {
				if h.peer.framer.WritePing(false, [8]byte{}) != nil {
					return
				}
			}
		}()
		e := requireError(t, <-flying[1], wire.LostAfterWrite, wire.Unknown, true)
		if !strings.Contains(e.Error(), "ENHANCE_YOUR_CALM") {
			t.Errorf("the cause is %v", e)
		}
		if err := <-h.runErr; err == nil {
			t.Error("Run returned no error")
		}
	})
}
