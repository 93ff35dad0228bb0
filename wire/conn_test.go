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
		tc := newTestConn(t, wire.Config{})
		done := tc.start(t.Context(), post("/3/device/aa"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		if head.fields[":path"] != "/3/device/aa" || head.fields[":authority"] != "push.example" ||
			head.fields[":method"] != "POST" || head.fields[":scheme"] != "https" || head.fields["apns-topic"] != "com.example" {
			t.Errorf("the headers are %v", head.fields)
		}
		if body := tc.peer.nextFrame(http2.FrameData); body.body != "{}" || !body.endsStream() {
			t.Errorf("the body is %v", body)
		}
		tc.peer.sendHeaders(head.stream, false, ":status", "400", "apns-id", "X")
		tc.peer.check(tc.peer.framer.WriteData(head.stream, true, []byte(`{"reason":"BadDeviceToken"}`)))
		res := wantStatus(t, <-done, 400)
		if res.Get("apns-id") != "X" || string(res.Body) != `{"reason":"BadDeviceToken"}` {
			t.Errorf("got %+v", res)
		}
	})
}

func TestRequestWithoutBodyEndsWithHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		done := tc.start(t.Context(), &wire.Request{Method: "GET", Path: "/"})
		head := tc.peer.nextFrame(http2.FrameHeaders)
		if !head.endsStream() {
			t.Errorf("HEADERS do not end the stream: %v", head)
		}
		tc.peer.respond(head.stream, "405")
		wantStatus(t, <-done, 405)
	})
}

func TestResponsesArriveInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		var done []chan result
		var heads []recvFrame
		for i := range 10 {
			done = append(done, tc.start(t.Context(), post(fmt.Sprint("/", i))))
			heads = append(heads, tc.peer.nextFrame(http2.FrameHeaders))
		}
		for i := len(heads) - 1; i >= 0; i-- {
			tc.peer.respond(heads[i].stream, "200", "path", heads[i].fields[":path"])
		}
		for i := range done {
			if got := wantStatus(t, <-done[i], 200).Get("path"); got != fmt.Sprint("/", i) {
				t.Errorf("request %d got the response for %s", i, got)
			}
		}
	})
}

func TestRequestsRespectPeerStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(2))
		for i := range 5 {
			tc.start(t.Context(), post(fmt.Sprint("/", i)))
			synctest.Wait()
		}
		first := tc.peer.remaining(http2.FrameHeaders)
		if len(first) != 2 {
			t.Fatalf("%d requests are in flight", len(first))
		}
		if s := tc.State(); s.InFlight != 2 || s.Waiting != 3 || s.MaxStreams != 2 || s.StreamsOpened != 2 {
			t.Errorf("the state is %+v", s)
		}
		tc.peer.respond(first[1].stream, "200")
		if next := tc.peer.remaining(http2.FrameHeaders); len(next) != 1 || next[0].fields[":path"] != "/2" {
			t.Errorf("after one response the peer got %v", next)
		}
	})
}

func TestPeerMayChangeStreamLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(3))
		for i := range 10 {
			tc.start(t.Context(), post(fmt.Sprint("/", i)))
		}
		open := tc.peer.remaining(http2.FrameHeaders)
		tc.peer.sendSettings(maxStreamsSetting(1))
		tc.peer.nextFrame(http2.FrameSettings)
		tc.peer.respond(open[0].stream, "200")
		tc.peer.respond(open[1].stream, "200")
		if more := tc.peer.remaining(http2.FrameHeaders); len(more) != 0 {
			t.Fatalf("one request is in flight and the limit is one, but the peer got %v", more)
		}
		tc.peer.sendSettings(maxStreamsSetting(0))
		tc.peer.respond(open[2].stream, "200")
		if more := tc.peer.remaining(http2.FrameHeaders); len(more) != 0 {
			t.Fatalf("the limit is zero, but the peer got %v", more)
		}
		tc.peer.sendSettings(maxStreamsSetting(1000))
		if more := tc.peer.remaining(http2.FrameHeaders); len(more) != 7 {
			t.Fatalf("the limit allows the other 7, but the peer got %d", len(more))
		}
	})
}

func TestMaxStreamsCapsPeerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{MaxStreams: 2}, maxStreamsSetting(100))
		for range 5 {
			tc.start(t.Context(), post("/"))
		}
		if got := tc.peer.remaining(http2.FrameHeaders); len(got) != 2 || tc.State().MaxStreams != 2 {
			t.Errorf("%d are in flight, the state is %+v", len(got), tc.State())
		}
	})
}

func TestSerializeFirstWaitsForAnyResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{SerializeFirst: true}, maxStreamsSetting(1000))
		for range 50 {
			tc.start(t.Context(), post("/"))
		}
		first := tc.peer.remaining(http2.FrameHeaders)
		if len(first) != 1 || tc.State().MaxStreams != 1 {
			t.Fatalf("%d are in flight before the first response", len(first))
		}
		tc.peer.respond(first[0].stream, "403")
		if got := tc.peer.remaining(http2.FrameHeaders); len(got) != 49 {
			t.Errorf("%d were sent after the first response; want 49", len(got))
		}
	})
}

func TestSerializeFirstAfterFailedFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{SerializeFirst: true}, maxStreamsSetting(1000))
		for range 3 {
			tc.start(t.Context(), post("/"))
		}
		first := tc.peer.remaining(http2.FrameHeaders)
		tc.peer.check(tc.peer.framer.WriteRSTStream(first[0].stream, http2.ErrCodeInternal))
		if next := tc.peer.remaining(http2.FrameHeaders); len(next) != 1 {
			t.Errorf("%d were sent after the first request failed; want 1", len(next))
		}
	})
}

func TestStreamsOpenInCallOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(0))
		for i := range 20 {
			tc.start(t.Context(), post(fmt.Sprint("/", i)))
			synctest.Wait()
		}
		tc.peer.sendSettings(maxStreamsSetting(100))
		for i, head := range tc.peer.remaining(http2.FrameHeaders) {
			if head.fields[":path"] != fmt.Sprint("/", i) || head.stream != uint32(2*i+1) {
				t.Errorf("request %d was sent as %v", i, head)
			}
		}
	})
}

func TestFullQueueFailsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{MaxWaiting: 2}, maxStreamsSetting(1))
		for range 3 {
			tc.start(t.Context(), post("/"))
		}
		synctest.Wait()
		wantError(t, <-tc.start(t.Context(), post("/")), wire.QueueFull, wire.Never, false)
	})
}

func TestNegativeMaxWaitingDisablesQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{MaxWaiting: -1}, maxStreamsSetting(1))
		tc.start(t.Context(), post("/"))
		synctest.Wait()
		wantError(t, <-tc.start(t.Context(), post("/")), wire.QueueFull, wire.Never, false)
	})
}

func TestLoweredStreamLimitEndsTheLastInQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{MaxWaiting: -1}, maxStreamsSetting(10))
		whole := &wire.Request{Method: "POST", Path: "/", Body: make([]byte, 65535)} // the send window of the connection
		first := tc.start(t.Context(), whole)
		synctest.Wait()
		var queued []chan result
		for range 5 {
			queued = append(queued, tc.start(t.Context(), post("/")))
			synctest.Wait()
		}
		tc.peer.sendSettings(maxStreamsSetting(3))
		for _, done := range queued[2:] {
			wantError(t, <-done, wire.QueueFull, wire.Never, false)
		}
		tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-first, 200)
		tc.peer.check(tc.peer.framer.WriteWindowUpdate(0, 65535))
		for _, done := range queued[:2] {
			tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200")
			wantStatus(t, <-done, 200)
		}
	})
}

func TestTimeoutAfterWriteIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{ActivePingInterval: time.Hour}, maxStreamsSetting(1))
		at := time.Now()
		done := tc.start(t.Context(), post("/"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		wantError(t, <-done, wire.ResponseTimeout, wire.Unknown, true)
		if took := time.Since(at); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if rst := tc.peer.nextFrame(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer got %v", rst)
		}
		tc.peer.respond(head.stream, "200") // too late, must be ignored
		done = tc.start(t.Context(), post("/"))
		tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestTimeoutInQueueIsUnprocessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(0))
		at := time.Now()
		wantError(t, <-tc.start(t.Context(), post("/")), wire.ResponseTimeout, wire.Never, true)
		if took := time.Since(at); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		tc.peer.sendSettings(maxStreamsSetting(1))
		if got := tc.peer.remaining(http2.FrameHeaders); len(got) != 0 {
			t.Errorf("the request was sent after its timeout: %v", got)
		}
	})
}

func TestRequestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{ActivePingInterval: time.Hour})
		at := time.Now()
		ended := make(chan time.Duration, 3)
		for _, timeout := range []time.Duration{3 * time.Second, time.Second, 2 * time.Second} {
			r := post("/")
			r.Timeout = timeout
			go func() {
				_, err := tc.Do(t.Context(), r)
				wantError(t, result{err: err}, wire.ResponseTimeout, wire.Unknown, true)
				ended <- time.Since(at)
			}()
		}
		for _, want := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
			if got := <-ended; got != want {
				t.Errorf("a request ended after %v; want %v", got, want)
			}
		}
	})
}

func TestCancelIsNotEndpointFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		ctx, cancel := context.WithCancel(t.Context())
		written := tc.start(ctx, post("/"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		queued, cancelQueued := context.WithCancel(t.Context())
		waiting := tc.start(queued, post("/"))
		synctest.Wait()
		cancelQueued()
		b := <-waiting
		wantError(t, b, wire.Canceled, wire.Never, false)
		cancel()
		a := <-written
		wantError(t, a, wire.Canceled, wire.Unknown, false)
		if !errors.Is(a.err, context.Canceled) || !errors.Is(b.err, context.Canceled) {
			t.Errorf("the errors do not wrap the context's error: %v, %v", a.err, b.err)
		}
		if rst := tc.peer.nextFrame(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer got %v", rst)
		}
		if s := tc.State(); s.InFlight+s.Waiting != 0 {
			t.Errorf("the state is %+v", s)
		}
	})
}

func TestContextDeadlineIsNotEndpointFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := <-tc.start(ctx, post("/"))
		wantError(t, r, wire.Canceled, wire.Unknown, false)
		if !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("the error does not wrap the context's error: %v", r.err)
		}
	})
}

func TestDoWithEndedContextSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		wantError(t, <-tc.start(ctx, post("/")), wire.Canceled, wire.Never, false)
		if got := tc.peer.remaining(http2.FrameHeaders); len(got) != 0 {
			t.Errorf("the request was sent: %v", got)
		}
	})
}

func TestDrainFinishesAcceptedRequestsAndRejectsNewOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		written := tc.start(t.Context(), post("/written"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		waiting := tc.start(t.Context(), post("/waiting"))
		synctest.Wait()
		tc.Drain()
		if !tc.State().Draining {
			t.Error("State does not report Draining")
		}
		wantError(t, <-tc.start(t.Context(), post("/new")), wire.LostBeforeWrite, wire.Never, false)
		tc.peer.respond(head.stream, "200")
		wantStatus(t, <-written, 200)
		tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-waiting, 200)
		if err := <-tc.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if goAway := tc.peer.nextFrame(http2.FrameGoAway); goAway.code != http2.ErrCodeNo {
			t.Errorf("the peer got %v", goAway)
		}
	})
}

func TestDrainEndsIdleConnImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		tc.Drain()
		if err := <-tc.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestRunContextEndFailsAllRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		written := tc.start(t.Context(), post("/"))
		tc.peer.nextFrame(http2.FrameHeaders)
		waiting := tc.start(t.Context(), post("/"))
		synctest.Wait()
		tc.stop()
		wantError(t, <-written, wire.Canceled, wire.Unknown, false)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		wantError(t, result{err: <-tc.runErr}, wire.Canceled, wire.Unknown, false)
		wantError(t, <-tc.start(t.Context(), post("/")), wire.LostBeforeWrite, wire.Never, false)
	})
}

func TestConnLossDistinguishesWrittenFromUnwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		written := tc.start(t.Context(), post("/"))
		tc.peer.nextFrame(http2.FrameHeaders)
		waiting := tc.start(t.Context(), post("/"))
		synctest.Wait()
		_ = tc.peer.nc.Close()
		wantError(t, <-written, wire.LostAfterWrite, wire.Unknown, true)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		wantError(t, result{err: <-tc.runErr}, wire.LostAfterWrite, wire.Unknown, true)
		if !tc.State().Draining {
			t.Error("State does not report Draining")
		}
	})
}

func TestPeerMayCloseIdleConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		_ = tc.peer.nc.Close()
		wantError(t, result{err: <-tc.runErr}, wire.LostBeforeWrite, wire.Never, false)
	})
}

func TestConnDrainsWhenStreamIDsRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(0))
		tc.SetRemainingStreamIDs(2)
		var done []chan result
		for range 3 {
			done = append(done, tc.start(t.Context(), post("/")))
			synctest.Wait()
		}
		tc.peer.sendSettings(maxStreamsSetting(100))
		wantError(t, <-done[2], wire.LostBeforeWrite, wire.Never, false)
		wantError(t, <-tc.start(t.Context(), post("/")), wire.LostBeforeWrite, wire.Never, false)
		for i := range 2 {
			tc.peer.respond(tc.peer.nextFrame(http2.FrameHeaders).stream, "200")
			wantStatus(t, <-done[i], 200)
		}
		if err := <-tc.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}
