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
		tc := newTestConn(t, wire.Config{}, maxStreamsSetting(1))
		time.Sleep(20 * time.Second) // idle, but less than IdlePingInterval
		at := time.Now()
		written := tc.start(t.Context(), post("/"))
		tc.peer.nextFrame(http2.FrameHeaders)
		waiting := tc.start(t.Context(), post("/"))
		tc.peer.nextFrame(http2.FramePing)
		if took := time.Since(at); took != time.Second {
			t.Errorf("the ping came after %v", took)
		}
		wantError(t, <-written, wire.PingTimeout, wire.Unknown, true)
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		if took := time.Since(at); took != 2*time.Second {
			t.Errorf("the connection ended after %v", took)
		}
		wantError(t, result{err: <-tc.runErr}, wire.PingTimeout, wire.Unknown, true)
	})
}

func TestAnsweredPingsKeepSlowRequestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		done := tc.start(t.Context(), post("/"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		for range 4 {
			ping := tc.peer.nextFrame(http2.FramePing)
			tc.peer.check(tc.peer.framer.WritePing(true, [8]byte([]byte(ping.body))))
		}
		tc.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestStateReportsPendingPing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		done := tc.start(t.Context(), post("/"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		if tc.State().PingPending {
			t.Error("PingPending is set before the first ping")
		}
		ping := tc.peer.nextFrame(http2.FramePing)
		synctest.Wait()
		if !tc.State().PingPending {
			t.Error("PingPending is not set after the ping")
		}
		tc.peer.check(tc.peer.framer.WritePing(true, [8]byte([]byte(ping.body))))
		synctest.Wait()
		if tc.State().PingPending {
			t.Error("PingPending is set after the response to the ping")
		}
		tc.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestAnyFrameCountsAsLiveness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		done := tc.start(t.Context(), post("/"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		for range 8 {
			time.Sleep(500 * time.Millisecond)
			tc.peer.sendSettings()
		}
		if pings := tc.peer.remaining(http2.FramePing); len(pings) != 0 {
			t.Errorf("%d pings were sent to an active peer", len(pings))
		}
		tc.peer.respond(head.stream, "200")
		wantStatus(t, <-done, 200)
	})
}

func TestBufferedResponseIsReadAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		answered := tc.start(t.Context(), post("/"))
		head := tc.peer.nextFrame(http2.FrameHeaders)
		silent := tc.start(t.Context(), post("/"))
		tc.peer.nextFrame(http2.FrameHeaders)
		synctest.Wait()
		tc.AdvanceClock(time.Minute)
		at := time.Now()
		time.Sleep(1500 * time.Millisecond) // runTimers has woken by now
		tc.peer.respond(head.stream, "200")
		wantStatus(t, <-answered, 200)
		wantError(t, <-silent, wire.ResponseTimeout, wire.Unknown, true)
		if took := time.Since(at); took != 2*time.Second {
			t.Errorf("the request without a response failed after %v", took)
		}
	})
}

func TestRepeatedPausesDelayTimeoutsOnlySoOften(t *testing.T) {
	for stops, want := range map[int]string{3: "answered", 100: "timed out"} {
		synctest.Test(t, func(t *testing.T) {
			tc := newTestConn(t, wire.Config{})
			done := tc.start(t.Context(), post("/"))
			head := tc.peer.nextFrame(http2.FrameHeaders)
			synctest.Wait()
			time.Sleep(900 * time.Millisecond)
			got := "answered"
			for range stops {
				tc.AdvanceClock(200 * time.Millisecond)
				time.Sleep(200 * time.Millisecond)
				synctest.Wait()
				if tc.State().Draining {
					got = "timed out"
				}
			}
			tc.peer.respond(head.stream, "200")
			if r := <-done; got != want || (r.err == nil) != (want == "answered") {
				t.Errorf("after %d pauses: %s, %v", stops, got, r.err)
			}
		})
	}
}

func TestIdleConnIsPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		at := time.Now()
		ping := tc.peer.nextFrame(http2.FramePing)
		tc.peer.check(tc.peer.framer.WritePing(true, [8]byte([]byte(ping.body))))
		tc.peer.nextFrame(http2.FramePing)
		if took := time.Since(at); took != time.Minute {
			t.Errorf("two pings took %v", took)
		}
		wantError(t, result{err: <-tc.runErr}, wire.PingTimeout, wire.Unknown, true)
	})
}

func TestPingIsAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{})
		tc.peer.check(tc.peer.framer.WritePing(false, [8]byte{1, 2, 3}))
		if pong := tc.peer.nextFrame(http2.FramePing); !pong.flags.Has(http2.FlagPingAck) || pong.body[:3] != "\x01\x02\x03" {
			t.Errorf("the peer got %v", pong)
		}
	})
}

func TestBlockedWriteEndsConn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{ActivePingInterval: time.Hour}, maxStreamsSetting(1))
		tc.peer.stopReading.Store(true)
		at := time.Now()
		r := tc.start(t.Context(), post("/")) // the peer reads HEADERS but not DATA
		synctest.Wait()
		waiting := tc.start(t.Context(), post("/"))
		e := requireError(t, <-r, wire.LostAfterWrite, wire.Unknown, true)
		if !errors.Is(e, os.ErrDeadlineExceeded) {
			t.Errorf("the cause is %v", e.Err)
		}
		wantError(t, <-waiting, wire.LostBeforeWrite, wire.Never, false)
		if took := time.Since(at); took > 1200*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if err := <-tc.runErr; err == nil {
			t.Error("Run returned no error")
		}
	})
}

func TestContextCancelEndsBlockedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc := newTestConn(t, wire.Config{WriteTimeout: time.Hour})
		tc.peer.stopReading.Store(true)
		r := tc.start(t.Context(), post("/"))
		synctest.Wait()
		tc.stop()
		wantError(t, <-r, wire.Canceled, wire.Unknown, false)
		if err := <-tc.runErr; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
	})
}
