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

// startRequests returns a connection with n requests in flight, by stream ID.
func startRequests(t *testing.T, n int, cfg wire.Config, s ...http2.Setting) (*testConn, map[uint32]chan result) {
	t.Helper()
	tc := newTestConn(t, cfg, s...)
	inFlight := map[uint32]chan result{}
	for i := range n {
		done := tc.start(t.Context(), post(fmt.Sprint("/", i)))
		inFlight[tc.peer.nextFrame(http2.FrameHeaders).stream] = done
	}
	return tc, inFlight
}

func TestGoAwayFailsUnprocessedRequestsAndFinishesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 4, wire.Config{}, maxStreamsSetting(4))
		waiting := tc.start(t.Context(), post("/waiting"))
		synctest.Wait()
		tc.peer.check(tc.peer.framer.WriteGoAway(3, http2.ErrCodeNo, []byte("bye")))
		for _, id := range []uint32{5, 7} {
			if e := requireError(t, <-inFlight[id], wire.GoAwayUnprocessed, wire.Never, false); string(e.DebugData) != "bye" {
				t.Errorf("the debug data is %q", e.DebugData)
			}
		}
		wantError(t, <-waiting, wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-tc.start(t.Context(), post("/new")), wire.GoAwayUnprocessed, wire.Never, false)
		if !tc.State().Draining {
			t.Error("State does not report Draining")
		}
		tc.peer.respond(1, "200")
		tc.peer.respond(3, "410")
		wantStatus(t, <-inFlight[1], 200)
		wantStatus(t, <-inFlight[3], 410)
		if err := <-tc.runErr; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestSecondGoAwayMayLowerLastStreamID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 3, wire.Config{})
		tc.peer.check(tc.peer.framer.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil))
		synctest.Wait()
		for id, done := range inFlight {
			if len(done) != 0 {
				t.Fatalf("the first GOAWAY ended stream %d: %v", id, <-done)
			}
		}
		tc.peer.check(tc.peer.framer.WriteGoAway(3, http2.ErrCodeNo, nil))
		wantError(t, <-inFlight[5], wire.GoAwayUnprocessed, wire.Never, false)
		tc.peer.respond(1, "200")
		tc.peer.respond(3, "200")
		wantStatus(t, <-inFlight[1], 200)
		wantStatus(t, <-inFlight[3], 200)
	})
}

func TestSecondGoAwayCannotRaiseLastStreamID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{})
		tc.peer.check(tc.peer.framer.WriteGoAway(1, http2.ErrCodeNo, []byte("first")))
		tc.peer.check(tc.peer.framer.WriteGoAway(3, http2.ErrCodeNo, nil))
		wantError(t, <-inFlight[3], wire.GoAwayUnprocessed, wire.Never, false)
		_ = tc.peer.nc.Close()
		if e := requireError(t, <-inFlight[1], wire.GoAwayNoAnswer, wire.Unknown, true); string(e.DebugData) != "first" {
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
				tc, inFlight := startRequests(t, 2, wire.Config{})
				tc.peer.check(tc.peer.framer.WriteGoAway(1, test.code, []byte(strings.Repeat("x", 2000))))
				wantError(t, <-inFlight[3], wire.GoAwayUnprocessed, wire.Never, false)
				_ = tc.peer.nc.Close()
				e := requireError(t, <-inFlight[1], test.reason, wire.Unknown, test.endpoint)
				if len(e.DebugData) != 1024 {
					t.Errorf("the debug data has %d bytes; want 1024", len(e.DebugData))
				}
				wantError(t, result{err: <-tc.runErr}, test.reason, wire.Unknown, test.endpoint)
			})
		})
	}
}

func TestRunReturnsGoAwayErrorWithoutRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, _ := startRequests(t, 0, wire.Config{})
		tc.peer.check(tc.peer.framer.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
		e := requireError(t, result{err: <-tc.runErr}, wire.EnhanceYourCalm, wire.Unknown, false)
		if string(e.DebugData) != "too_many_pings" {
			t.Errorf("the debug data is %q", e.DebugData)
		}
	})
}

func TestStartedResponseIsNotUnprocessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{})
		tc.peer.sendHeaders(1, false, ":status", "200")
		tc.peer.sendHeaders(3, false, ":status", "200")
		tc.peer.check(tc.peer.framer.WriteRSTStream(1, http2.ErrCodeRefusedStream))
		wantError(t, <-inFlight[1], wire.ResetInternal, wire.Unknown, true)
		tc.peer.check(tc.peer.framer.WriteGoAway(0, http2.ErrCodeNo, nil))
		wantError(t, <-inFlight[3], wire.GoAwayNoAnswer, wire.Unknown, true)
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
				tc, inFlight := startRequests(t, 2, wire.Config{})
				tc.peer.check(tc.peer.framer.WriteRSTStream(1, test.code))
				wantError(t, <-inFlight[1], test.reason, test.processed, test.endpoint)
				tc.peer.respond(3, "200")
				wantStatus(t, <-inFlight[3], 200)
			})
		})
	}
}

func TestGoAwayIsReadAfterWriteFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tc, inFlight := startRequests(t, 2, wire.Config{ActivePingInterval: time.Hour})
		tc.peer.remaining(http2.FrameData)
		tc.peer.stopReading.Store(true) // the peer reads one more frame and then stops
		blocked := tc.start(t.Context(), post("/blocked"))
		time.Sleep(1050 * time.Millisecond) // by now the write has failed
		tc.peer.check(tc.peer.framer.WriteGoAway(1, http2.ErrCodeNo, nil))
		wantError(t, <-inFlight[3], wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-blocked, wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-inFlight[1], wire.GoAwayNoAnswer, wire.Unknown, true)
	})
}
