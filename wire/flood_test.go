// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/wire"
)

// initialStreamWindow is the stream window that a Conn with the default Config announces.
const initialStreamWindow = 64<<10 + 16<<10

// resetByTimeout starts one request and lets it time out, so that the Conn resets stream 1.
func resetByTimeout(t *testing.T) *testConn {
	t.Helper()
	tc := newTestConn(t, wire.Config{})
	r := post("/")
	r.Timeout = time.Second
	wantError(t, testwait.For(t, tc.start(t.Context(), r), "the response timeout"), wire.ResponseTimeout, wire.Unknown, true)
	tc.peer.nextFrame(http2.FrameRSTStream)
	return tc
}

// flood writes frames until a write fails, at most a million. The result receives their number.
func (tc *testConn) flood(send func(f *http2.Framer) error) (sent chan int) {
	sent = make(chan int, 1)
	go func() {
		n := 0
		for n < 1<<20 && send(tc.peer.framer) == nil {
			n++
		}
		sent <- n
	}()
	return sent
}

func sendData(f *http2.Framer) error { return f.WriteData(1, false, make([]byte, 16<<10)) }

func TestLateResponseOnResetStreamIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := resetByTimeout(t)
		tc.peer.sendHeaders(1, false, ":status", "200")
		for range initialStreamWindow / (16 << 10) {
			tc.peer.check(tc.peer.framer.WriteData(1, false, make([]byte, 16<<10)))
		}
		second := tc.start(t.Context(), post("/"))
		tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-second, 200)
	})
}

func TestLateResponsesNeverExhaustConnWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		allowed := 1 << 20
		for range 100 {
			r := post("/")
			r.Timeout = time.Second
			done := tc.start(t.Context(), r)
			stream := tc.peer.nextFrame(http2.FrameHeaders).stream
			wantError(t, <-done, wire.ResponseTimeout, wire.Unknown, true)
			tc.peer.sendHeaders(stream, false, ":status", "200")
			for range initialStreamWindow / (16 << 10) {
				tc.peer.check(tc.peer.framer.WriteData(stream, false, make([]byte, 16<<10)))
				allowed -= 16 << 10
			}
			for _, f := range tc.peer.remaining(http2.FrameWindowUpdate) {
				allowed += int(f.value)
			}
			if allowed < 0 {
				t.Fatal("the connection window is exhausted")
			}
		}
	})
}

func TestDataOnResetStreamIsBounded(t *testing.T) {
	for name, reset := range map[string]func(tc *testConn){
		"reset by this side": func(*testConn) {},
		"reset by the peer": func(tc *testConn) {
			tc.start(tc.peer.t.Context(), post("/"))
			tc.peer.check(tc.peer.framer.WriteRSTStream(tc.peer.nextFrame(http2.FrameHeaders).stream, http2.ErrCodeNo))
		},
		"unprocessed after GOAWAY": func(tc *testConn) {
			tc.start(tc.peer.t.Context(), post("/"))
			tc.start(tc.peer.t.Context(), post("/")) // keeps the connection open
			stream := tc.peer.nextFrame(http2.FrameHeaders).stream
			tc.peer.check(tc.peer.framer.WriteGoAway(stream, http2.ErrCodeNo, nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc := resetByTimeout(t)
				reset(tc)
				synctest.Wait()
				sent := tc.flood(sendData)
				if goAway := tc.peer.nextFrame(http2.FrameGoAway); goAway.code != http2.ErrCodeFlowControl {
					t.Errorf("the peer got %v; want FLOW_CONTROL_ERROR", goAway)
				}
				if n, limit := <-sent<<14, 3*initialStreamWindow+64<<10; n > limit {
					t.Errorf("the peer sent %d bytes on reset streams; want at most %d", n, limit)
				}
			})
		})
	}
}

func TestDataOnManyResetStreamsIsBoundedByConnWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		var last chan result
		for range 1000 { // their stream windows together are 80 MB
			r := post("/")
			r.Timeout = time.Second
			last = tc.start(t.Context(), r)
		}
		<-last
		synctest.Wait()
		sent := tc.flood(sendData)
		for tc.peer.nextFrame(http2.FrameGoAway).code != http2.ErrCodeFlowControl {
			t.Error("want FLOW_CONTROL_ERROR")
		}
		if n, limit := <-sent<<14, 1<<20+64<<10; n > limit {
			t.Errorf("the peer sent %d bytes on reset streams; want at most %d", n, limit)
		}
	})
}

func TestFrameFloodEndsConn(t *testing.T) {
	headers := func(block string) func(f *http2.Framer) error {
		return func(f *http2.Framer) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block), EndHeaders: true})
		}
	}
	raw := func(kind http2.FrameType, stream uint32, size int) func(f *http2.Framer) error {
		return func(f *http2.Framer) error { return f.WriteRawFrame(kind, 0, stream, make([]byte, size)) }
	}
	for name, send := range map[string]func(f *http2.Framer) error{ // stream 1 is reset, stream 3 is open
		"PING":                 func(f *http2.Framer) error { return f.WritePing(false, [8]byte{}) },
		"PING acknowledgement": func(f *http2.Framer) error { return f.WritePing(true, [8]byte{}) },
		"empty SETTINGS":       func(f *http2.Framer) error { return f.WriteSettings() },
		"SETTINGS": func(f *http2.Framer) error {
			return f.WriteSettings(windowSetting(70000), maxStreamsSetting(1000))
		},
		"SETTINGS acknowledgement":              func(f *http2.Framer) error { return f.WriteSettingsAck() },
		"empty DATA":                            func(f *http2.Framer) error { return f.WriteData(3, false, nil) },
		"empty DATA on reset stream":            func(f *http2.Framer) error { return f.WriteData(1, true, nil) },
		"PRIORITY":                              raw(http2.FramePriority, 3, 5),
		"unknown":                               raw(0xbe, 0, 0),
		"long unknown":                          raw(0xbe, 0, 16<<10),
		"WINDOW_UPDATE":                         func(f *http2.Framer) error { return f.WriteWindowUpdate(0, 1) },
		"WINDOW_UPDATE on reset stream":         func(f *http2.Framer) error { return f.WriteWindowUpdate(1, 1) },
		"WINDOW_UPDATE of zero on reset stream": raw(http2.FrameWindowUpdate, 1, 4),
		"RST_STREAM":                            func(f *http2.Framer) error { return f.WriteRSTStream(1, http2.ErrCodeNo) },
		"GOAWAY":                                func(f *http2.Framer) error { return f.WriteGoAway(3, http2.ErrCodeNo, []byte("x")) },
		"HEADERS on reset stream":               headers("\x88"),                                    // :status 200
		"long HEADERS on reset stream":          headers("\x88" + strings.Repeat("\x82", 16<<10-1)), // and :method GET
		"103 on reset stream":                   headers("\x48\x03103"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tc := resetByTimeout(t)
				r := post("/")
				r.Timeout = time.Hour
				inFlight := tc.start(t.Context(), r)
				tc.peer.nextFrame(http2.FrameHeaders)
				tc.peer.sendHeaders(3, false, ":status", "200")
				sent := tc.flood(send)
				e := requireError(t, <-inFlight, wire.LostAfterWrite, wire.Unknown, true)
				if goAway := tc.peer.nextFrame(http2.FrameGoAway); goAway.code != http2.ErrCodeEnhanceYourCalm {
					t.Errorf("the peer got %v; want ENHANCE_YOUR_CALM", goAway)
				}
				if err := <-tc.runErr; !errors.Is(err, e) {
					t.Errorf("Run returned %v; the request got %v", err, e)
				}
				if n := <-sent; n > 17_000 {
					t.Errorf("the connection ended after %d frames; want at most 17000", n)
				}
			})
		})
	}
}

func TestPaddingCountsAsBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{MaxResponseBytes: 1000})
		tc.peer.sendHeaders(1, false, ":status", "200")
		for range 4 {
			tc.peer.check(tc.peer.framer.WriteDataPadded(1, false, nil, make([]byte, 255)))
		}
		wantError(t, <-inFlight[1], wire.ResponseTooLarge, wire.Unknown, true)
		tc.peer.respond(3, "200")
		wantStatus(t, <-inFlight[3], 200)
	})
}

func TestEndlessInterimResponsesEndOnlyTheirRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{})
		for range 1000 {
			tc.peer.sendHeaders(1, false, ":status", "103", "link", "</style.css>")
		}
		wantError(t, <-inFlight[1], wire.ResponseTooLarge, wire.Unknown, true)
		if rst := tc.peer.nextFrame(http2.FrameRSTStream); rst.stream != 1 || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer got %v", rst)
		}
		tc.peer.respond(3, "200")
		wantStatus(t, <-inFlight[3], 200)
	})
}

// TestUsualControlFramesAreNoFlood: a peer that pings ten times a second, sends SETTINGS once a
// second and two WINDOW_UPDATEs per request keeps its connection.
func TestUsualControlFramesAreNoFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		for i := range 36_000 { // an hour
			tc.peer.check(tc.peer.framer.WritePing(false, [8]byte{}))
			if i%10 == 0 {
				tc.peer.sendSettings(maxStreamsSetting(1000))
			}
			tc.peer.remaining(http2.FramePing)
			time.Sleep(100 * time.Millisecond)
		}
		for range 36_000 { // all within an instant
			done := tc.start(t.Context(), post("/"))
			head := tc.peer.nextFrame(http2.FrameHeaders)
			tc.peer.check(tc.peer.framer.WriteWindowUpdate(0, 2))
			tc.peer.check(tc.peer.framer.WriteWindowUpdate(head.stream, 2))
			tc.peer.respond(head.stream, "200")
			wantStatus(t, <-done, 200)
		}
	})
}
