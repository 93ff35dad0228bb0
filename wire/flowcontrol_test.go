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

// joinData joins the DATA that came, and says whether it ended the stream.
func joinData(frames []recvFrame) (body string, ended bool) {
	for _, f := range frames {
		body += f.body
		ended = ended || f.endsStream()
	}
	return body, ended
}

func TestBodyWaitsForStreamWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, windowSetting(4))
		done := h.start(t.Context(), postBody("0123456789"))
		if got, ended := joinData(h.peer.remaining(http2.FrameData)); got != "0123" || ended {
			t.Fatalf("%q came, ended: %v", got, ended)
		}
		h.peer.check(h.peer.framer.WriteWindowUpdate(1, 3))
		if got, ended := joinData(h.peer.remaining(http2.FrameData)); got != "456" || ended {
			t.Fatalf("%q came, ended: %v", got, ended)
		}
		h.peer.check(h.peer.framer.WriteWindowUpdate(1, 100))
		if got, ended := joinData(h.peer.remaining(http2.FrameData)); got != "789" || !ended {
			t.Fatalf("%q came, ended: %v", got, ended)
		}
		h.peer.respond(1, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestZeroWindowStillOpensStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, windowSetting(0))
		done := h.start(t.Context(), postBody("body"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		h.peer.check(h.peer.framer.WriteWindowUpdate(head.stream, 4))
		if got := h.peer.nextFrame(http2.FrameData); got.body != "body" || !got.endsStream() {
			t.Errorf("came %v", got)
		}
		h.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestSettingsMayMakeWindowNegative(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, windowSetting(6))
		h.start(t.Context(), postBody("0123456789"))
		joinData(h.peer.remaining(http2.FrameData))
		h.peer.sendSettings(windowSetting(2)) // now at -4
		h.peer.check(h.peer.framer.WriteWindowUpdate(1, 4))
		if got, _ := joinData(h.peer.remaining(http2.FrameData)); got != "" {
			t.Fatalf("a window of zero let %q through", got)
		}
		h.peer.sendSettings(windowSetting(4))
		if got, _ := joinData(h.peer.remaining(http2.FrameData)); got != "67" {
			t.Fatalf("a window of two let %q through", got)
		}
		h.peer.sendSettings(windowSetting(100))
		if got, ended := joinData(h.peer.remaining(http2.FrameData)); got != "89" || !ended {
			t.Fatalf("%q came, ended: %v", got, ended)
		}
	})
}

func TestRequestBlockedByConnWindowStaysUnprocessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, windowSetting(1<<20))
		first := h.start(t.Context(), postBody(strings.Repeat("x", 65535)))
		synctest.Wait()
		r := postBody("second")
		r.Timeout = time.Second
		second := h.start(t.Context(), r)
		synctest.Wait()
		bodiless := h.start(t.Context(), &wire.Request{Method: "GET", Path: "/none"})
		heads := h.peer.remaining(http2.FrameHeaders)
		if len(heads) != 1 {
			t.Fatalf("%d heads came", len(heads))
		}
		h.peer.respond(heads[0].stream, "200")
		wantStatus(t, <-first, 200)
		wantError(t, <-second, wire.ResponseTimeout, wire.Never, true)
		h.peer.respond(h.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-bodiless, 200)
	})
}

func TestConnWindowIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, windowSetting(1<<20))
		a := h.start(t.Context(), postBody(strings.Repeat("a", 50000)))
		synctest.Wait()
		b := h.start(t.Context(), postBody(strings.Repeat("b", 50000)))
		if got, _ := joinData(h.peer.remaining(http2.FrameData)); len(got) != 65535 {
			t.Fatalf("%d bytes came", len(got))
		}
		h.peer.check(h.peer.framer.WriteWindowUpdate(0, 100000))
		if got, ended := joinData(h.peer.remaining(http2.FrameData)); len(got) != 100000-65535 || !ended {
			t.Fatalf("%d bytes came, ended: %v", len(got), ended)
		}
		h.peer.respond(1, "200")
		h.peer.respond(3, "200")
		wantStatus(t, <-a, 200)
		wantStatus(t, <-b, 200)
	})
}

func TestFramesRespectPeerMaxFrameSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		r := postBody(strings.Repeat("b", 40000))
		r.Header = []wire.Field{{Name: "x-long", Value: strings.Repeat("\x7e", 20000), NeverIndexed: true}}
		h.start(t.Context(), r)
		synctest.Wait()
		frames := 0
		for len(h.peer.received) > 0 {
			f := <-h.peer.received
			frames++
			if f.size > 16384 {
				t.Errorf("a %v of %d bytes came", f.kind, f.size)
			}
			if f.fields != nil && len(f.fields["x-long"]) != 20000 {
				t.Errorf("the long field arrived with %d bytes", len(f.fields["x-long"]))
			}
		}
		if frames != 2+3 {
			t.Errorf("it came in %d frames", frames)
		}
	})
}

func TestLongBodiesShareConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, windowSetting(1<<24))
		h.peer.check(h.peer.framer.WriteWindowUpdate(0, 1<<24))
		var done []chan result
		for range 2 {
			done = append(done, h.start(t.Context(), postBody(strings.Repeat("x", 1<<20))))
		}
		if got, _ := joinData(h.peer.remaining(http2.FrameData)); len(got) != 2<<20 {
			t.Fatalf("%d bytes came", len(got))
		}
		h.peer.respond(1, "200")
		h.peer.respond(3, "200")
		for i := range done {
			wantStatus(t, <-done[i], 200)
		}
	})
}

func TestResponseBeforeEndOfRequestBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, windowSetting(4))
		done := h.start(t.Context(), postBody("0123456789"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		h.peer.respond(head.stream, "413")
		wantStatus(t, <-done, 413)
		if rst := h.peer.nextFrame(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer was told %v", rst)
		}
	})
}

func TestTooLargeBodyEndsOnlyItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 2, wire.Config{MaxResponseBytes: 1000})
		h.peer.sendHeaders(1, false, ":status", "200")
		h.peer.check(h.peer.framer.WriteData(1, false, make([]byte, 1000)))
		h.peer.check(h.peer.framer.WriteData(1, false, make([]byte, 1)))
		wantError(t, <-flying[1], wire.ResponseTooLarge, wire.Unknown, true)
		if rst := h.peer.nextFrame(http2.FrameRSTStream); rst.stream != 1 {
			t.Errorf("the peer was told %v", rst)
		}
		h.peer.check(h.peer.framer.WriteData(1, true, make([]byte, 1000))) // it was under way
		h.peer.sendHeaders(3, false, ":status", "200")
		h.peer.check(h.peer.framer.WriteData(3, true, make([]byte, 1000)))
		if res := wantStatus(t, <-flying[3], 200); len(res.Body) != 1000 {
			t.Errorf("%d bytes came", len(res.Body))
		}
	})
}

func TestTooLargeHeadersEndOnlyTheirRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 2, wire.Config{})
		fields := []string{":status", "200"}
		for i := range 500 {
			fields = append(fields, fmt.Sprint("x-", i), "a value")
		}
		h.peer.respond(1, "200", fields[2:]...)
		wantError(t, <-flying[1], wire.ResponseTooLarge, wire.Unknown, true)
		h.peer.respond(3, "200", "x-499", "a value") // from the table: it was decoded to its end
		if res := wantStatus(t, <-flying[3], 200); res.Get("x-499") != "a value" {
			t.Errorf("got %+v", res)
		}
	})
}

func TestConnWindowIsReplenished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		allowed := 1 << 20 // by the WINDOW_UPDATE that went with our preface
		for range 200 {
			done := h.start(t.Context(), post("/"))
			head := h.peer.nextFrame(http2.FrameHeaders)
			h.peer.sendHeaders(head.stream, false, ":status", "200")
			for i := range 4 {
				h.peer.check(h.peer.framer.WriteDataPadded(head.stream, i == 3, make([]byte, 10000), make([]byte, 200)))
				allowed -= 10201
			}
			wantStatus(t, <-done, 200)
			for _, f := range h.peer.remaining(http2.FrameWindowUpdate) {
				allowed += int(f.value)
			}
			if allowed < 0 {
				t.Fatal("the peer was not allowed to send that")
			}
		}
	})
}

func TestOnlyIndexedFieldsEnterHeaderTable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		r := post("/3/device/secret")
		r.Header = []wire.Field{{Name: "apns-topic", Value: "com.example"}, {Name: "apns-id", Value: "1", NeverIndexed: true}}
		h.start(t.Context(), r)
		head := h.peer.nextFrame(http2.FrameHeaders)
		if !head.neverIndexed[":path"] || !head.neverIndexed["apns-id"] || head.neverIndexed["apns-topic"] {
			t.Errorf("never indexed are %v", head.neverIndexed)
		}
		h.start(t.Context(), r)
		if again := h.peer.nextFrame(http2.FrameHeaders); again.size >= head.size-len("com.example") {
			t.Errorf("the second head has %d bytes, the first had %d", again.size, head.size)
		}
	})
}

func TestNeverIndexedFieldsOfAnyLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		for _, size := range []int{0, 1, 126, 127, 128, 254, 255, 256, 3000} {
			text := strings.Repeat("x", size)
			r := post("/" + text)
			r.Header = []wire.Field{{Name: "authorization", Value: text, NeverIndexed: true}, {Name: "n" + text, Value: text, NeverIndexed: true}}
			h.start(t.Context(), r)
			head := h.peer.nextFrame(http2.FrameHeaders)
			if head.fields[":path"] != "/"+text || head.fields["authorization"] != text || head.fields["n"+text] != text {
				t.Errorf("a field of %d bytes has come as another", size)
			}
			if !head.neverIndexed[":path"] || !head.neverIndexed["authorization"] || !head.neverIndexed["n"+text] {
				t.Errorf("with %d bytes, never indexed are not all three", size)
			}
		}
	})
}

func TestPeerHeaderTableSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		h.start(t.Context(), post("/"))
		first := h.peer.nextFrame(http2.FrameHeaders)
		h.peer.sendSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
		h.peer.nextFrame(http2.FrameSettings)
		h.peer.decoder.SetAllowedMaxDynamicTableSize(0)
		for range 2 {
			h.start(t.Context(), post("/"))
			if again := h.peer.nextFrame(http2.FrameHeaders); again.size < first.size-2 || again.fields["apns-topic"] != "com.example" {
				t.Errorf("without a table the head has %d bytes; with a new one it had %d", again.size, first.size)
			}
		}
	})
}
