// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

func TestDoReturnsWholeResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		done := h.start(t.Context(), post("/3/device/aa"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		if head.fields[":path"] != "/3/device/aa" || head.fields[":authority"] != "push.example" ||
			head.fields[":method"] != "POST" || head.fields[":scheme"] != "https" || head.fields["apns-topic"] != "com.example" {
			t.Errorf("the head is %v", head.fields)
		}
		if body := h.peer.nextFrame(http2.FrameData); body.body != "{}" || !body.endsStream() {
			t.Errorf("the body is %v", body)
		}
		h.peer.sendHeaders(head.stream, false, ":status", "400", "apns-id", "X")
		h.peer.check(h.peer.framer.WriteData(head.stream, true, []byte(`{"reason":"BadDeviceToken"}`)))
		res := wantStatus(t, <-done, 400)
		if res.Get("apns-id") != "X" || string(res.Body) != `{"reason":"BadDeviceToken"}` {
			t.Errorf("got %+v", res)
		}
	})
}

func TestRequestWithoutBodyEndsWithHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		done := h.start(t.Context(), &wire.Request{Method: "GET", Path: "/"})
		head := h.peer.nextFrame(http2.FrameHeaders)
		if !head.endsStream() {
			t.Errorf("the head does not end the stream: %v", head)
		}
		h.peer.respond(head.stream, "405")
		wantStatus(t, <-done, 405)
	})
}

func TestResponsesArriveInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		var done []chan result
		var heads []recvFrame
		for i := range 10 {
			done = append(done, h.start(t.Context(), post(fmt.Sprint("/", i))))
			heads = append(heads, h.peer.nextFrame(http2.FrameHeaders))
		}
		for i := len(heads) - 1; i >= 0; i-- {
			h.peer.respond(heads[i].stream, "200", "path", heads[i].fields[":path"])
		}
		for i := range done {
			if got := wantStatus(t, <-done[i], 200).Get("path"); got != fmt.Sprint("/", i) {
				t.Errorf("request %d got the answer for %s", i, got)
			}
		}
	})
}

func TestRequestsRespectPeerStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(2))
		for i := range 5 {
			h.start(t.Context(), post(fmt.Sprint("/", i)))
			synctest.Wait()
		}
		first := h.peer.remaining(http2.FrameHeaders)
		if len(first) != 2 {
			t.Fatalf("%d requests are in flight", len(first))
		}
		if s := h.State(); s.InFlight != 2 || s.Waiting != 3 || s.MaxStreams != 2 || s.StreamsOpened != 2 {
			t.Errorf("the state is %+v", s)
		}
		h.peer.respond(first[1].stream, "200")
		if next := h.peer.remaining(http2.FrameHeaders); len(next) != 1 || next[0].fields[":path"] != "/2" {
			t.Errorf("after one answer came %v", next)
		}
	})
}

func TestPeerMayChangeStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(3))
		for i := range 10 {
			h.start(t.Context(), post(fmt.Sprint("/", i)))
		}
		open := h.peer.remaining(http2.FrameHeaders)
		h.peer.sendSettings(maxStreamsSetting(1))
		h.peer.nextFrame(http2.FrameSettings)
		h.peer.respond(open[0].stream, "200")
		h.peer.respond(open[1].stream, "200")
		if more := h.peer.remaining(http2.FrameHeaders); len(more) != 0 {
			t.Fatalf("one is in flight, one is allowed, and %v came", more)
		}
		h.peer.sendSettings(maxStreamsSetting(0))
		h.peer.respond(open[2].stream, "200")
		if more := h.peer.remaining(http2.FrameHeaders); len(more) != 0 {
			t.Fatalf("none is allowed, and %v came", more)
		}
		h.peer.sendSettings(maxStreamsSetting(1000))
		if more := h.peer.remaining(http2.FrameHeaders); len(more) != 7 {
			t.Fatalf("the other 7 are allowed, and %d came", len(more))
		}
	})
}

func TestMaxStreamsCapsPeerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{MaxStreams: 2}, maxStreamsSetting(100))
		for range 5 {
			h.start(t.Context(), post("/"))
		}
		if got := h.peer.remaining(http2.FrameHeaders); len(got) != 2 || h.State().MaxStreams != 2 {
			t.Errorf("%d are in flight, the state is %+v", len(got), h.State())
		}
	})
}

func TestSerializeFirstWaitsForAnyResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{SerializeFirst: true}, maxStreamsSetting(1000))
		for range 50 {
			h.start(t.Context(), post("/"))
		}
		first := h.peer.remaining(http2.FrameHeaders)
		if len(first) != 1 || h.State().MaxStreams != 1 {
			t.Fatalf("%d are in flight before the first answer", len(first))
		}
		h.peer.respond(first[0].stream, "403")
		if got := h.peer.remaining(http2.FrameHeaders); len(got) != 49 {
			t.Errorf("%d came after the first answer", len(got))
		}
	})
}

func TestSerializeFirstAfterFailedFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{SerializeFirst: true}, maxStreamsSetting(1000))
		for range 3 {
			h.start(t.Context(), post("/"))
		}
		first := h.peer.remaining(http2.FrameHeaders)
		h.peer.check(h.peer.framer.WriteRSTStream(first[0].stream, http2.ErrCodeInternal))
		if next := h.peer.remaining(http2.FrameHeaders); len(next) != 1 {
			t.Errorf("%d came after the first had died", len(next))
		}
	})
}

func TestStreamsOpenInCallOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(0))
		for i := range 20 {
			h.start(t.Context(), post(fmt.Sprint("/", i)))
			synctest.Wait()
		}
		h.peer.sendSettings(maxStreamsSetting(100))
		for i, head := range h.peer.remaining(http2.FrameHeaders) {
			if head.fields[":path"] != fmt.Sprint("/", i) || head.stream != uint32(2*i+1) {
				t.Errorf("request %d came as %v", i, head)
			}
		}
	})
}

func TestFullQueueFailsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{MaxWaiting: 2}, maxStreamsSetting(1))
		for range 3 {
			h.start(t.Context(), post("/"))
		}
		synctest.Wait()
		wantError(t, <-h.start(t.Context(), post("/")), wire.QueueFull, wire.Never, false)
	})
}

func TestNegativeMaxWaitingDisablesQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{MaxWaiting: -1}, maxStreamsSetting(1))
		h.start(t.Context(), post("/"))
		synctest.Wait()
		wantError(t, <-h.start(t.Context(), post("/")), wire.QueueFull, wire.Never, false)
	})
}

func TestTimeoutAfterWriteIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{ActivePingInterval: time.Hour}, maxStreamsSetting(1))
		at := time.Now()
		done := h.start(t.Context(), post("/"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		wantError(t, <-done, wire.ResponseTimeout, wire.Unknown, true)
		if took := time.Since(at); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if rst := h.peer.nextFrame(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer was told %v", rst)
		}
		h.peer.respond(head.stream, "200") // too late, and no harm
		done = h.start(t.Context(), post("/"))
		h.peer.respond(h.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestTimeoutInQueueIsUnprocessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(0))
		at := time.Now()
		wantError(t, <-h.start(t.Context(), post("/")), wire.ResponseTimeout, wire.Never, true)
		if took := time.Since(at); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		h.peer.sendSettings(maxStreamsSetting(1))
		if got := h.peer.remaining(http2.FrameHeaders); len(got) != 0 {
			t.Errorf("it was sent all the same: %v", got)
		}
	})
}

func TestRequestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{ActivePingInterval: time.Hour})
		at := time.Now()
		ended := make(chan time.Duration, 3)
		for _, timeout := range []time.Duration{3 * time.Second, time.Second, 2 * time.Second} {
			r := post("/")
			r.Timeout = timeout
			go func() {
				_, err := h.Do(t.Context(), r)
				wantError(t, result{err: err}, wire.ResponseTimeout, wire.Unknown, true)
				ended <- time.Since(at)
			}()
		}
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
			if got := <-ended; got != want {
				t.Errorf("one ended after %v, not %v", got, want)
			}
		}
	})
}

func TestCancelIsNotEndpointFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		ctx, leave := context.WithCancel(t.Context())
		written := h.start(ctx, post("/"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		queued, leaveQueue := context.WithCancel(t.Context())
		waiting := h.start(queued, post("/"))
		synctest.Wait()
		leaveQueue()
		b := <-waiting
		wantError(t, b, wire.Cancelled, wire.Never, false)
		leave()
		a := <-written
		wantError(t, a, wire.Cancelled, wire.Unknown, false)
		if !errors.Is(a.err, context.Canceled) || !errors.Is(b.err, context.Canceled) {
			t.Errorf("the context's error is lost: %v, %v", a.err, b.err)
		}
		if rst := h.peer.nextFrame(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer was told %v", rst)
		}
		if s := h.State(); s.InFlight+s.Waiting != 0 {
			t.Errorf("the state is %+v", s)
		}
	})
}

func TestContextDeadlineIsNotEndpointFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := <-h.start(ctx, post("/"))
		wantError(t, r, wire.Cancelled, wire.Unknown, false)
		if !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("the context's error is lost: %v", r.err)
		}
	})
}

func TestDoWithEndedContextSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		ctx, leave := context.WithCancel(t.Context())
		leave()
		wantError(t, <-h.start(ctx, post("/")), wire.Cancelled, wire.Never, false)
		if got := h.peer.remaining(http2.FrameHeaders); len(got) != 0 {
			t.Errorf("it was sent: %v", got)
		}
	})
}

func TestDrainFinishesAcceptedRequestsAndRejectsNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		written := h.start(t.Context(), post("/written"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		waiting := h.start(t.Context(), post("/waiting"))
		synctest.Wait()
		h.Drain()
		if !h.State().Draining {
			t.Error("the state does not say so")
		}
		wantError(t, <-h.start(t.Context(), post("/new")), wire.LostBeforeWrite, wire.Never, false)
		h.peer.respond(head.stream, "200")
		wantStatus(t, <-written, 200)
		h.peer.respond(h.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-waiting, 200)
		if err := <-h.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if bye := h.peer.nextFrame(http2.FrameGoAway); bye.code != http2.ErrCodeNo {
			t.Errorf("the peer was told %v", bye)
		}
	})
}

func TestDrainEndsIdleConnImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		h.Drain()
		if err := <-h.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestRunContextEndFailsAllRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		written := h.start(t.Context(), post("/"))
		h.peer.nextFrame(http2.FrameHeaders)
		waiting := h.start(t.Context(), post("/"))
		synctest.Wait()
		h.stop()
		wantError(t, <-written, wire.Cancelled, wire.Unknown, false)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		wantError(t, result{err: <-h.runErr}, wire.Cancelled, wire.Unknown, false)
		wantError(t, <-h.start(t.Context(), post("/")), wire.LostBeforeWrite, wire.Never, false)
	})
}

func TestConnLossDistinguishesWrittenFromUnwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		written := h.start(t.Context(), post("/"))
		h.peer.nextFrame(http2.FrameHeaders)
		waiting := h.start(t.Context(), post("/"))
		synctest.Wait()
		_ = h.peer.nc.Close()
		wantError(t, <-written, wire.LostAfterWrite, wire.Unknown, true)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		wantError(t, result{err: <-h.runErr}, wire.LostAfterWrite, wire.Unknown, true)
		if !h.State().Draining {
			t.Error("the state does not say that it has ended")
		}
	})
}

func TestPeerMayCloseIdleConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		_ = h.peer.nc.Close()
		wantError(t, result{err: <-h.runErr}, wire.LostBeforeWrite, wire.Never, false)
	})
}

func TestConnDrainsWhenStreamIDsRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(0))
		h.SetRemainingStreamIDs(2)
		var done []chan result
		for range 3 {
			done = append(done, h.start(t.Context(), post("/")))
			synctest.Wait()
		}
		h.peer.sendSettings(maxStreamsSetting(100))
		wantError(t, <-done[2], wire.LostBeforeWrite, wire.Never, false)
		wantError(t, <-h.start(t.Context(), post("/")), wire.LostBeforeWrite, wire.Never, false)
		for i := range 2 {
			h.peer.respond(h.peer.nextFrame(http2.FrameHeaders).stream, "200")
			wantStatus(t, <-done[i], 200)
		}
		if err := <-h.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}
