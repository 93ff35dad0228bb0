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

// startRequests is a house with so many requests in flight, by their streams.
func startRequests(t *testing.T, n int, cfg wire.Config, s ...http2.Setting) (*testConn, map[uint32]chan result) {
	t.Helper()
	h := newTestConn(t, cfg, s...)
	flying := map[uint32]chan result{}
	for i := range n {
		done := h.start(t.Context(), post(fmt.Sprint("/", i)))
		flying[h.peer.nextFrame(http2.FrameHeaders).stream] = done
	}
	return h, flying
}

func TestGoAwayFailsUnprocessedRequestsAndFinishesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 4, wire.Config{}, maxStreamsSetting(4))
		waiting := h.start(t.Context(), post("/waiting"))
		synctest.Wait()
		h.peer.check(h.peer.framer.WriteGoAway(3, http2.ErrCodeNo, []byte("bye")))
		for _, id := range []uint32{5, 7} {
			if e := requireError(t, <-flying[id], wire.GoAwayUnprocessed, wire.Never, false); string(e.DebugData) != "bye" {
				t.Errorf("the debug data is %q", e.DebugData)
			}
		}
		wantError(t, <-waiting, wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-h.start(t.Context(), post("/new")), wire.GoAwayUnprocessed, wire.Never, false)
		if !h.State().Draining {
			t.Error("the state does not say so")
		}
		h.peer.respond(1, "200")
		h.peer.respond(3, "410")
		wantStatus(t, <-flying[1], 200)
		wantStatus(t, <-flying[3], 410)
		if err := <-h.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestSecondGoAwayMayLowerLastStreamID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 3, wire.Config{})
		h.peer.check(h.peer.framer.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil))
		synctest.Wait()
		for id, done := range flying {
			if len(done) != 0 {
				t.Fatalf("the first GOAWAY ended stream %d: %v", id, <-done)
			}
		}
		h.peer.check(h.peer.framer.WriteGoAway(3, http2.ErrCodeNo, nil))
		wantError(t, <-flying[5], wire.GoAwayUnprocessed, wire.Never, false)
		h.peer.respond(1, "200")
		h.peer.respond(3, "200")
		wantStatus(t, <-flying[1], 200)
		wantStatus(t, <-flying[3], 200)
	})
}

func TestSecondGoAwayCannotRaiseLastStreamID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 2, wire.Config{})
		h.peer.check(h.peer.framer.WriteGoAway(1, http2.ErrCodeNo, []byte("first")))
		h.peer.check(h.peer.framer.WriteGoAway(3, http2.ErrCodeNo, nil))
		wantError(t, <-flying[3], wire.GoAwayUnprocessed, wire.Never, false)
		_ = h.peer.nc.Close()
		if e := requireError(t, <-flying[1], wire.GoAwayNoAnswer, wire.Unknown, true); string(e.DebugData) != "first" {
			t.Errorf("the debug data is %q", e.DebugData)
		}
	})
}

func TestGoAwayThenCloseLeavesRemainingRequestsUnknown(t *testing.T) {
	for _, test := range []struct {
		code     http2.ErrCode
		reason   wire.Reason
		endpoint bool
	}{
		{http2.ErrCodeNo, wire.GoAwayNoAnswer, true},
		{http2.ErrCodeProtocol, wire.GoAwayErrorCode, true},
		{http2.ErrCodeEnhanceYourCalm, wire.EnhanceYourCalm, false},
	} {
		t.Run(test.code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, flying := startRequests(t, 2, wire.Config{})
				h.peer.check(h.peer.framer.WriteGoAway(1, test.code, []byte(strings.Repeat("x", 2000))))
				wantError(t, <-flying[3], wire.GoAwayUnprocessed, wire.Never, false)
				_ = h.peer.nc.Close()
				e := requireError(t, <-flying[1], test.reason, wire.Unknown, test.endpoint)
				if len(e.DebugData) != 1024 {
					t.Errorf("%d bytes of debug data are kept", len(e.DebugData))
				}
				wantError(t, result{err: <-h.runErr}, test.reason, wire.Unknown, test.endpoint)
			})
		})
	}
}

func TestRunReturnsGoAwayErrorWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := startRequests(t, 0, wire.Config{})
		h.peer.check(h.peer.framer.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
		e := requireError(t, result{err: <-h.runErr}, wire.EnhanceYourCalm, wire.Unknown, false)
		if string(e.DebugData) != "too_many_pings" {
			t.Errorf("the debug data is %q", e.DebugData)
		}
	})
}

func TestStartedResponseIsNotUnprocessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 2, wire.Config{})
		h.peer.sendHeaders(1, false, ":status", "200")
		h.peer.sendHeaders(3, false, ":status", "200")
		h.peer.check(h.peer.framer.WriteRSTStream(1, http2.ErrCodeRefusedStream))
		wantError(t, <-flying[1], wire.ResetInternal, wire.Unknown, true)
		h.peer.check(h.peer.framer.WriteGoAway(0, http2.ErrCodeNo, nil))
		wantError(t, <-flying[3], wire.GoAwayNoAnswer, wire.Unknown, true)
	})
}

func TestResetErrors(t *testing.T) {
	for _, test := range []struct {
		code      http2.ErrCode
		reason    wire.Reason
		processed wire.Processed
		endpoint  bool
	}{
		{http2.ErrCodeRefusedStream, wire.RefusedStream, wire.Never, false},
		{http2.ErrCodeInternal, wire.ResetInternal, wire.Unknown, true},
		{http2.ErrCodeCancel, wire.ResetInternal, wire.Unknown, true},
		{http2.ErrCodeStreamClosed, wire.ResetInternal, wire.Unknown, true},
		{http2.ErrCodeNo, wire.ResetInternal, wire.Unknown, true},
		{http2.ErrCodeEnhanceYourCalm, wire.EnhanceYourCalm, wire.Unknown, false},
		{http2.ErrCode(0xbeef), wire.ResetInternal, wire.Unknown, true},
	} {
		t.Run(test.code.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, flying := startRequests(t, 2, wire.Config{})
				h.peer.check(h.peer.framer.WriteRSTStream(1, test.code))
				wantError(t, <-flying[1], test.reason, test.processed, test.endpoint)
				h.peer.respond(3, "200")
				wantStatus(t, <-flying[3], 200)
			})
		})
	}
}

func TestGoAwayIsReadAfterWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := startRequests(t, 2, wire.Config{ActivePingInterval: time.Hour})
		h.peer.remaining(http2.FrameData)
		h.peer.stopReading.Store(true) // one more frame is read, and then no more
		blocked := h.start(t.Context(), post("/blocked"))
		time.Sleep(1050 * time.Millisecond) // the write has failed
		h.peer.check(h.peer.framer.WriteGoAway(1, http2.ErrCodeNo, nil))
		wantError(t, <-flying[3], wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-blocked, wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-flying[1], wire.GoAwayNoAnswer, wire.Unknown, true)
	})
}
