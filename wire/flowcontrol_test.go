// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

func windowSetting(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
}

func postBody(body string) *wire.Request {
	return &wire.Request{Method: "POST", Path: "/", Body: []byte(body)}
}

// joinData joins the bodies of DATA frames and reports whether one of them ends the stream.
func joinData(frames []recvFrame) (body string, ended bool) {
	for _, f := range frames {
		body += f.body
		ended = ended || f.endsStream()
	}
	return body, ended
}

func TestBodyWaitsForStreamWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, windowSetting(4))
		done := tc.start(t.Context(), postBody("0123456789"))
		if got, ended := joinData(tc.peer.remaining(http2.FrameData)); got != "0123" || ended {
			t.Fatalf("got %q, ended: %v", got, ended)
		}
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(1, 3))
		if got, ended := joinData(tc.peer.remaining(http2.FrameData)); got != "456" || ended {
			t.Fatalf("got %q, ended: %v", got, ended)
		}
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(1, 100))
		if got, ended := joinData(tc.peer.remaining(http2.FrameData)); got != "789" || !ended {
			t.Fatalf("got %q, ended: %v", got, ended)
		}
		tc.peer.respond(1, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestZeroWindowStillOpensStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, windowSetting(0))
		done := tc.start(t.Context(), postBody("body"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(head.stream, 4))
		if got := tc.peer.nextFrame(http2.FrameData); got.body != "body" || !got.endsStream() {
			t.Errorf("got %v", got)
		}
		tc.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestSettingsMayMakeWindowNegative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, windowSetting(6))
		tc.start(t.Context(), postBody("0123456789"))
		joinData(tc.peer.remaining(http2.FrameData))
		tc.peer.sendSettings(windowSetting(2)) // the window is now -4
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(1, 4))
		if got, _ := joinData(tc.peer.remaining(http2.FrameData)); got != "" {
			t.Fatalf("%q was sent with a window of zero", got)
		}
		tc.peer.sendSettings(windowSetting(4))
		if got, _ := joinData(tc.peer.remaining(http2.FrameData)); got != "67" {
			t.Fatalf("%q was sent with a window of two", got)
		}
		tc.peer.sendSettings(windowSetting(100))
		if got, ended := joinData(tc.peer.remaining(http2.FrameData)); got != "89" || !ended {
			t.Fatalf("got %q, ended: %v", got, ended)
		}
	})
}

func TestRequestBlockedByConnWindowStaysUnprocessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, windowSetting(1<<20))
		first := tc.start(t.Context(), postBody(strings.Repeat("x", 65535)))
		synctest.Wait()
		r := postBody("second")
		r.Timeout = time.Second
		second := tc.start(t.Context(), r)
		synctest.Wait()
		bodiless := tc.start(t.Context(), &wire.Request{Method: "GET", Path: "/none"})
		heads := tc.peer.remaining(http2.FrameHeaders)
		if len(heads) != 1 {
			t.Fatalf("got %d HEADERS; want 1", len(heads))
		}
		tc.peer.respond(heads[0].stream, "200")
		wantStatus(t, <-first, 200)
		wantError(t, <-second, wire.ResponseTimeout, wire.Never, true)
		tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-bodiless, 200)
	})
}

func TestConnWindowIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, windowSetting(1<<20))
		a := tc.start(t.Context(), postBody(strings.Repeat("a", 50000)))
		synctest.Wait()
		b := tc.start(t.Context(), postBody(strings.Repeat("b", 50000)))
		if got, _ := joinData(tc.peer.remaining(http2.FrameData)); len(got) != 65535 {
			t.Fatalf("got %d bytes; want 65535", len(got))
		}
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(0, 100000))
		if got, ended := joinData(tc.peer.remaining(http2.FrameData)); len(got) != 100000-65535 || !ended {
			t.Fatalf("got %d bytes, ended: %v", len(got), ended)
		}
		tc.peer.respond(1, "200")
		tc.peer.respond(3, "200")
		wantStatus(t, <-a, 200)
		wantStatus(t, <-b, 200)
	})
}

func TestFramesRespectPeerMaxFrameSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		r := postBody(strings.Repeat("b", 40000))
		r.Header = []wire.Field{{Name: "x-long", Value: strings.Repeat("\x7e", 20000), NeverIndexed: true}}
		tc.start(t.Context(), r)
		synctest.Wait()
		frames := 0
		for len(tc.peer.received) > 0 {
			f := <-tc.peer.received
			frames++
			if f.size > 16384 {
				t.Errorf("got a %v frame of %d bytes", f.kind, f.size)
			}
			if f.fields != nil && len(f.fields["x-long"]) != 20000 {
				t.Errorf("the long field arrived with %d bytes", len(f.fields["x-long"]))
			}
		}
		if frames != 2+3 {
			t.Errorf("got %d frames; want 5", frames)
		}
	})
}

func TestLongBodiesShareConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, windowSetting(1<<24))
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(0, 1<<24))
		var done []chan result
		for range 2 {
			done = append(done, tc.start(t.Context(), postBody(strings.Repeat("x", 1<<20))))
		}
		if got, _ := joinData(tc.peer.remaining(http2.FrameData)); len(got) != 2<<20 {
			t.Fatalf("got %d bytes", len(got))
		}
		tc.peer.respond(1, "200")
		tc.peer.respond(3, "200")
		for i := range done {
			wantStatus(t, <-done[i], 200)
		}
	})
}

func TestResponseBeforeEndOfRequestBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, windowSetting(4))
		done := tc.start(t.Context(), postBody("0123456789"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		tc.peer.respond(head.stream, "413")
		wantStatus(t, <-done, 413)
		if rst := tc.peer.nextFrame(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer got %v", rst)
		}
	})
}

func TestTooLargeBodyEndsOnlyItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{MaxResponseBytes: 1000})
		tc.peer.sendHeaders(1, false, ":status", "200")
		tc.peer.check(tc.peer.framer.WriteData(1, false, make([]byte, 1000)))
		tc.peer.check(tc.peer.framer.WriteData(1, false, make([]byte, 1)))
		wantError(t, <-inFlight[1], wire.ResponseTooLarge, wire.Unknown, true)
		if rst := tc.peer.nextFrame(http2.FrameRSTStream); rst.stream != 1 {
			t.Errorf("the peer got %v", rst)
		}
		tc.peer.check(tc.peer.framer.WriteData(1, true, make([]byte, 1000))) // still on its way
		tc.peer.sendHeaders(3, false, ":status", "200")
		tc.peer.check(tc.peer.framer.WriteData(3, true, make([]byte, 1000)))
		if res := wantStatus(t, <-inFlight[3], 200); len(res.Body) != 1000 {
			t.Errorf("got %d bytes; want 1000", len(res.Body))
		}
	})
}

func TestTooLargeHeadersEndOnlyTheirRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{})
		fields := []string{":status", "200"}
		for i := range 500 {
			fields = append(fields, fmt.Sprint("x-", i), "a value")
		}
		tc.peer.respond(1, "200", fields[2:]...)
		wantError(t, <-inFlight[1], wire.ResponseTooLarge, wire.Unknown, true)
		tc.peer.respond(3, "200", "x-499", "a value") // from the HPACK table, so the first block was decoded completely
		if res := wantStatus(t, <-inFlight[3], 200); res.Get("x-499") != "a value" {
			t.Errorf("got %+v", res)
		}
	})
}

func TestConnWindowIsReplenished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		allowed := 1 << 20 // set by the WINDOW_UPDATE after the preface
		for range 200 {
			done := tc.start(t.Context(), post("/"))
			head := tc.peer.nextFrame(http2.FrameHeaders)
			tc.peer.sendHeaders(head.stream, false, ":status", "200")
			for i := range 4 {
				tc.peer.check(tc.peer.framer.WriteDataPadded(head.stream, i == 3, make([]byte, 10000), make([]byte, 200)))
				allowed -= 10201
			}
			wantStatus(t, <-done, 200)
			for _, f := range tc.peer.remaining(http2.FrameWindowUpdate) {
				allowed += int(f.value)
			}
			if allowed < 0 {
				t.Fatal("the peer exceeded its window")
			}
		}
	})
}

func TestOnlyIndexedFieldsEnterHeaderTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		r := post("/3/device/secret")
		r.Header = []wire.Field{{Name: "apns-topic", Value: "com.example"}, {Name: "apns-id", Value: "1", NeverIndexed: true}}
		tc.start(t.Context(), r)
		head := tc.peer.nextFrame(http2.FrameHeaders)
		if !head.neverIndexed[":path"] || !head.neverIndexed["apns-id"] || head.neverIndexed["apns-topic"] {
			t.Errorf("the never-indexed fields are %v", head.neverIndexed)
		}
		tc.start(t.Context(), r)
		if again := tc.peer.nextFrame(http2.FrameHeaders); again.size >= head.size-len("com.example") {
			t.Errorf("the second header block has %d bytes, the first %d", again.size, head.size)
		}
	})
}

func TestNeverIndexedFieldsOfAnyLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		for _, size := range []int{0, 1, 126, 127, 128, 254, 255, 256, 3000} {
			text := strings.Repeat("x", size)
			r := post("/" + text)
			r.Header = []wire.Field{{Name: "authorization", Value: text, NeverIndexed: true}, {Name: "n" + text, Value: text, NeverIndexed: true}}
			tc.start(t.Context(), r)
			head := tc.peer.nextFrame(http2.FrameHeaders)
			if head.fields[":path"] != "/"+text || head.fields["authorization"] != text || head.fields["n"+text] != text {
				t.Errorf("a field of %d bytes arrived changed", size)
			}
			if !head.neverIndexed[":path"] || !head.neverIndexed["authorization"] || !head.neverIndexed["n"+text] {
				t.Errorf("with %d bytes, not all three fields are never-indexed", size)
			}
		}
	})
}

func TestPeerHeaderTableSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		tc.start(t.Context(), post("/"))
		first := tc.peer.nextFrame(http2.FrameHeaders)
		for range 2 { // these use the table
			tc.start(t.Context(), post("/"))
			tc.peer.nextFrame(http2.FrameHeaders)
		}
		tc.peer.sendSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		tc.peer.nextFrame(http2.FrameSettings)
		tc.peer.decoder.SetAllowedMaxDynamicTableSize(0)
		for range 2 {
			tc.start(t.Context(), post("/"))
			if again := tc.peer.nextFrame(http2.FrameHeaders); again.size < first.size-2 || again.fields["apns-topic"] != "com.example" {
				t.Errorf("without a table the header block has %d bytes; with a new table it had %d", again.size, first.size)
			}
		}
	})
}
