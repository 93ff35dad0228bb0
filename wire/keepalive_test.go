// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/wire"
)

func TestSilentPeerTimesOutAfterOnePing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		time.Sleep(20 * time.Second) // idle, but not for long enough
		at := time.Now()
		written := h.start(t.Context(), post("/"))
		h.peer.nextFrame(http2.FrameHeaders)
		waiting := h.start(t.Context(), post("/"))
		h.peer.nextFrame(http2.FramePing)
		if took := time.Since(at); took != time.Second {
			t.Errorf("the ping came after %v", took)
		}
		wantError(t, <-written, wire.PingTimeout, wire.Unknown, true)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		if took := time.Since(at); took != 2*time.Second {
			t.Errorf("it was given up after %v", took)
		}
		wantError(t, result{err: <-h.runErr}, wire.PingTimeout, wire.Unknown, true)
	})
}

func TestAnsweredPingsKeepSlowRequestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		done := h.start(t.Context(), post("/"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		for range 4 {
			ping := h.peer.nextFrame(http2.FramePing)
			h.peer.check(h.peer.framer.WritePing(true, [8]byte([]byte(ping.body))))
		}
		h.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestStateReportsPendingPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		done := h.start(t.Context(), post("/"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		if h.State().PingPending {
			t.Error("nobody has asked it yet")
		}
		ping := h.peer.nextFrame(http2.FramePing)
		synctest.Wait()
		if !h.State().PingPending {
			t.Error("it has not answered the ping")
		}
		h.peer.check(h.peer.framer.WritePing(true, [8]byte([]byte(ping.body))))
		synctest.Wait()
		if h.State().PingPending {
			t.Error("it has answered the ping")
		}
		h.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestAnyFrameCountsAsLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		done := h.start(t.Context(), post("/"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		for range 8 {
			time.Sleep(500 * time.Millisecond)
			h.peer.sendSettings()
		}
		if pings := h.peer.remaining(http2.FramePing); len(pings) != 0 {
			t.Errorf("%d pings were sent to a peer that speaks", len(pings))
		}
		h.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestBufferedResponseIsReadAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		answered := h.start(t.Context(), post("/"))
		head := h.peer.nextFrame(http2.FrameHeaders)
		silent := h.start(t.Context(), post("/"))
		h.peer.nextFrame(http2.FrameHeaders)
		synctest.Wait()
		h.AdvanceClock(time.Minute)
		at := time.Now()
		time.Sleep(1500 * time.Millisecond) // the keeper has woken meanwhile
		h.peer.respond(head.stream, "200")
		wantStatus(t, <-answered, 200)
		wantError(t, <-silent, wire.ResponseTimeout, wire.Unknown, true)
		if took := time.Since(at); took != 2*time.Second {
			t.Errorf("the one that got no answer was given up after %v", took)
		}
	})
}

func TestRepeatedPausesDelayTimeoutsOnlySoOften(t *testing.T) {
	for stops, want := range map[int]string{3: "answered", 100: "given up"} {
		synctest.Test(t, func(t *testing.T) {
			h := newTestConn(t, wire.Config{})
			done := h.start(t.Context(), post("/"))
			head := h.peer.nextFrame(http2.FrameHeaders)
			synctest.Wait()
			time.Sleep(900 * time.Millisecond)
			got := "answered"
			for range stops {
				h.AdvanceClock(200 * time.Millisecond)
				time.Sleep(200 * time.Millisecond)
				synctest.Wait()
				if h.State().Draining {
					got = "given up"
				}
			}
			h.peer.respond(head.stream, "200")
			if r := <-done; got != want || (r.err == nil) != (want == "answered") {
				t.Errorf("after %d stops it was %s: %v", stops, got, r.err)
			}
		})
	}
}

func TestIdleConnIsPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		at := time.Now()
		ping := h.peer.nextFrame(http2.FramePing)
		h.peer.check(h.peer.framer.WritePing(true, [8]byte([]byte(ping.body))))
		h.peer.nextFrame(http2.FramePing)
		if took := time.Since(at); took != time.Minute {
			t.Errorf("two pings took %v", took)
		}
		wantError(t, result{err: <-h.runErr}, wire.PingTimeout, wire.Unknown, true)
	})
}

func TestPingIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{})
		h.peer.check(h.peer.framer.WritePing(false, [8]byte{1, 2, 3}))
		if pong := h.peer.nextFrame(http2.FramePing); !pong.flags.Has(http2.FlagPingAck) || pong.body[:3] != "\x01\x02\x03" {
			t.Errorf("the answer is %v", pong)
		}
	})
}

func TestBlockedWriteEndsConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{ActivePingInterval: time.Hour}, maxStreamsSetting(1))
		h.peer.stopReading.Store(true)
		at := time.Now()
		r := h.start(t.Context(), post("/")) // its HEADERS are read, its DATA is not
		synctest.Wait()
		waiting := h.start(t.Context(), post("/"))
		e := requireError(t, <-r, wire.LostAfterWrite, wire.Unknown, true)
		if !errors.Is(e, os.ErrDeadlineExceeded) {
			t.Errorf("the cause is %v", e.Err)
		}
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		if took := time.Since(at); took > 1200*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if err := <-h.runErr; err == nil {
			t.Error("Run returned no error")
		}
	})
}

func TestContextCancelEndsBlockedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newTestConn(t, wire.Config{WriteTimeout: time.Hour})
		h.peer.stopReading.Store(true)
		r := h.start(t.Context(), post("/"))
		synctest.Wait()
		h.stop()
		wantError(t, <-r, wire.Cancelled, wire.Unknown, false)
		if err := <-h.runErr; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}
