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

func TestAnAnswerComesBackWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		done := h.send(t.Context(), post("/3/device/aa"))
		head := h.peer.next(http2.FrameHeaders)
		if head.fields[":path"] != "/3/device/aa" || head.fields[":authority"] != "push.example" ||
			head.fields[":method"] != "POST" || head.fields[":scheme"] != "https" || head.fields["apns-topic"] != "com.example" {
			t.Errorf("the head is %v", head.fields)
		}
		if body := h.peer.next(http2.FrameData); body.body != "{}" || !body.ends() {
			t.Errorf("the body is %v", body)
		}
		h.peer.sendHead(head.stream, false, ":status", "400", "apns-id", "X")
		h.peer.do(h.peer.fr.WriteData(head.stream, true, []byte(`{"reason":"BadDeviceToken"}`)))
		res := wantStatus(t, <-done, 400)
		if res.Get("apns-id") != "X" || string(res.Body) != `{"reason":"BadDeviceToken"}` {
			t.Errorf("got %+v", res)
		}
	})
}

func TestARequestWithoutABodyEndsWithItsHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		done := h.send(t.Context(), &wire.Request{Method: "GET", Path: "/"})
		head := h.peer.next(http2.FrameHeaders)
		if !head.ends() {
			t.Errorf("the head does not end the stream: %v", head)
		}
		h.peer.answer(head.stream, "405")
		wantStatus(t, <-done, 405)
	})
}

func TestAnswersMayComeInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		var done []chan result
		var heads []heard
		for i := range 10 {
			done = append(done, h.send(t.Context(), post(fmt.Sprint("/", i))))
			heads = append(heads, h.peer.next(http2.FrameHeaders))
		}
		for i := len(heads) - 1; i >= 0; i-- {
			h.peer.answer(heads[i].stream, "200", "path", heads[i].fields[":path"])
		}
		for i := range done {
			if got := wantStatus(t, <-done[i], 200).Get("path"); got != fmt.Sprint("/", i) {
				t.Errorf("request %d got the answer for %s", i, got)
			}
		}
	})
}

func TestNoMoreRequestsAreInFlightThanThePeerAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(2))
		for i := range 5 {
			h.send(t.Context(), post(fmt.Sprint("/", i)))
			synctest.Wait()
		}
		first := h.peer.rest(http2.FrameHeaders)
		if len(first) != 2 {
			t.Fatalf("%d requests are in flight", len(first))
		}
		if s := h.State(); s.InFlight != 2 || s.Waiting != 3 || s.MaxStreams != 2 || s.Opened != 2 {
			t.Errorf("the state is %+v", s)
		}
		h.peer.answer(first[1].stream, "200")
		if next := h.peer.rest(http2.FrameHeaders); len(next) != 1 || next[0].fields[":path"] != "/2" {
			t.Errorf("after one answer came %v", next)
		}
	})
}

func TestTheLimitMayShrinkToOneAndToNoneAndGrowAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(3))
		for i := range 10 {
			h.send(t.Context(), post(fmt.Sprint("/", i)))
		}
		open := h.peer.rest(http2.FrameHeaders)
		h.peer.settings(limit(1))
		h.peer.next(http2.FrameSettings)
		h.peer.answer(open[0].stream, "200")
		h.peer.answer(open[1].stream, "200")
		if more := h.peer.rest(http2.FrameHeaders); len(more) != 0 {
			t.Fatalf("one is in flight, one is allowed, and %v came", more)
		}
		h.peer.settings(limit(0))
		h.peer.answer(open[2].stream, "200")
		if more := h.peer.rest(http2.FrameHeaders); len(more) != 0 {
			t.Fatalf("none is allowed, and %v came", more)
		}
		h.peer.settings(limit(1000))
		if more := h.peer.rest(http2.FrameHeaders); len(more) != 7 {
			t.Fatalf("the other 7 are allowed, and %d came", len(more))
		}
	})
}

func TestOurOwnCapCountsBesideThePeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{MaxStreams: 2}, limit(100))
		for range 5 {
			h.send(t.Context(), post("/"))
		}
		if got := h.peer.rest(http2.FrameHeaders); len(got) != 2 || h.State().MaxStreams != 2 {
			t.Errorf("%d are in flight, the state is %+v", len(got), h.State())
		}
	})
}

func TestTheFirstRequestIsAloneUntilAnAnswerOfAnyKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{FirstAlone: true}, limit(1000))
		for range 50 {
			h.send(t.Context(), post("/"))
		}
		first := h.peer.rest(http2.FrameHeaders)
		if len(first) != 1 || h.State().MaxStreams != 1 {
			t.Fatalf("%d are in flight before the first answer", len(first))
		}
		h.peer.answer(first[0].stream, "403")
		if got := h.peer.rest(http2.FrameHeaders); len(got) != 49 {
			t.Errorf("%d came after the first answer", len(got))
		}
	})
}

func TestWhenTheFirstRequestDiesTheNextIsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{FirstAlone: true}, limit(1000))
		for range 3 {
			h.send(t.Context(), post("/"))
		}
		first := h.peer.rest(http2.FrameHeaders)
		h.peer.do(h.peer.fr.WriteRSTStream(first[0].stream, http2.ErrCodeInternal))
		if next := h.peer.rest(http2.FrameHeaders); len(next) != 1 {
			t.Errorf("%d came after the first had died", len(next))
		}
	})
}

func TestRequestsGetTheirStreamsInTheOrderOfTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(0))
		for i := range 20 {
			h.send(t.Context(), post(fmt.Sprint("/", i)))
			synctest.Wait()
		}
		h.peer.settings(limit(100))
		for i, head := range h.peer.rest(http2.FrameHeaders) {
			if head.fields[":path"] != fmt.Sprint("/", i) || head.stream != uint32(2*i+1) {
				t.Errorf("request %d came as %v", i, head)
			}
		}
	})
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{MaxWaiting: 2}, limit(1))
		for range 3 {
			h.send(t.Context(), post("/"))
		}
		synctest.Wait()
		wantError(t, <-h.send(t.Context(), post("/")), wire.QueueFull, wire.Never, false)
	})
}

func TestNobodyNeedWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{MaxWaiting: -1}, limit(1))
		h.send(t.Context(), post("/"))
		synctest.Wait()
		wantError(t, <-h.send(t.Context(), post("/")), wire.QueueFull, wire.Never, false)
	})
}

func TestATimeoutAfterTheWriteIsUnknownAndTheEndpointsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{PingBusy: time.Hour}, limit(1))
		at := time.Now()
		done := h.send(t.Context(), post("/"))
		head := h.peer.next(http2.FrameHeaders)
		wantError(t, <-done, wire.ResponseTimeout, wire.Unknown, true)
		if took := time.Since(at); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if rst := h.peer.next(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer was told %v", rst)
		}
		h.peer.answer(head.stream, "200") // too late, and no harm
		done = h.send(t.Context(), post("/"))
		h.peer.answer(h.peer.next(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestATimeoutWhileWaitingWasNeverProcessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(0))
		at := time.Now()
		wantError(t, <-h.send(t.Context(), post("/")), wire.ResponseTimeout, wire.Never, true)
		if took := time.Since(at); took != 5*time.Second {
			t.Errorf("it took %v", took)
		}
		h.peer.settings(limit(1))
		if got := h.peer.rest(http2.FrameHeaders); len(got) != 0 {
			t.Errorf("it was sent all the same: %v", got)
		}
	})
}

func TestEveryRequestHasItsOwnTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{PingBusy: time.Hour})
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

func TestACallerWhoLeavesIsNobodysFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(1))
		ctx, leave := context.WithCancel(t.Context())
		written := h.send(ctx, post("/"))
		head := h.peer.next(http2.FrameHeaders)
		queued, leaveQueue := context.WithCancel(t.Context())
		waiting := h.send(queued, post("/"))
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
		if rst := h.peer.next(http2.FrameRSTStream); rst.stream != head.stream || rst.code != http2.ErrCodeCancel {
			t.Errorf("the peer was told %v", rst)
		}
		if s := h.State(); s.InFlight+s.Waiting != 0 {
			t.Errorf("the state is %+v", s)
		}
	})
}

func TestACallersDeadlineIsTheCallersToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := <-h.send(ctx, post("/"))
		wantError(t, r, wire.Cancelled, wire.Unknown, false)
		if !errors.Is(r.err, context.DeadlineExceeded) {
			t.Errorf("the context's error is lost: %v", r.err)
		}
	})
}

func TestAContextThatHasEndedSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		ctx, leave := context.WithCancel(t.Context())
		leave()
		wantError(t, <-h.send(ctx, post("/")), wire.Cancelled, wire.Never, false)
		if got := h.peer.rest(http2.FrameHeaders); len(got) != 0 {
			t.Errorf("it was sent: %v", got)
		}
	})
}

func TestADrainEndsWhatItHasAcceptedAndTakesNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(1))
		written := h.send(t.Context(), post("/written"))
		head := h.peer.next(http2.FrameHeaders)
		waiting := h.send(t.Context(), post("/waiting"))
		synctest.Wait()
		h.Drain()
		if !h.State().Draining {
			t.Error("the state does not say so")
		}
		wantError(t, <-h.send(t.Context(), post("/new")), wire.LostBeforeWrite, wire.Never, false)
		h.peer.answer(head.stream, "200")
		wantStatus(t, <-written, 200)
		h.peer.answer(h.peer.next(http2.FrameHeaders).stream, "200")
		wantStatus(t, <-waiting, 200)
		if err := <-h.ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
		if bye := h.peer.next(http2.FrameGoAway); bye.code != http2.ErrCodeNo {
			t.Errorf("the peer was told %v", bye)
		}
	})
}

func TestADrainOfAnIdleConnectionEndsItAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		h.Drain()
		if err := <-h.ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestWhenRunIsStoppedNobodyIsLeftWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(1))
		written := h.send(t.Context(), post("/"))
		h.peer.next(http2.FrameHeaders)
		waiting := h.send(t.Context(), post("/"))
		synctest.Wait()
		h.stop()
		wantError(t, <-written, wire.Cancelled, wire.Unknown, false)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		wantError(t, result{err: <-h.ended}, wire.Cancelled, wire.Unknown, false)
		wantError(t, <-h.send(t.Context(), post("/")), wire.LostBeforeWrite, wire.Never, false)
	})
}

func TestALostConnectionTellsWhatWasWrittenFromWhatWasNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(1))
		written := h.send(t.Context(), post("/"))
		h.peer.next(http2.FrameHeaders)
		waiting := h.send(t.Context(), post("/"))
		synctest.Wait()
		_ = h.peer.nc.Close()
		wantError(t, <-written, wire.LostAfterWrite, wire.Unknown, true)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		wantError(t, result{err: <-h.ended}, wire.LostAfterWrite, wire.Unknown, true)
		if !h.State().Draining {
			t.Error("the state does not say that it has ended")
		}
	})
}

func TestAnIdleConnectionMayBeClosedByItsPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{})
		_ = h.peer.nc.Close()
		wantError(t, result{err: <-h.ended}, wire.LostBeforeWrite, wire.Never, false)
	})
}

func TestAConnectionThatHasUsedUpItsStreamIDsDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, wire.Config{}, limit(0))
		h.UseUpStreamIDs(2)
		var done []chan result
		for range 3 {
			done = append(done, h.send(t.Context(), post("/")))
			synctest.Wait()
		}
		h.peer.settings(limit(100))
		wantError(t, <-done[2], wire.LostBeforeWrite, wire.Never, false)
		wantError(t, <-h.send(t.Context(), post("/")), wire.LostBeforeWrite, wire.Never, false)
		for i := range 2 {
			h.peer.answer(h.peer.next(http2.FrameHeaders).stream, "200")
			wantStatus(t, <-done[i], 200)
		}
		if err := <-h.ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}
