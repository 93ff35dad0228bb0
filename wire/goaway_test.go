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

// flight is a house with so many requests in flight, by their streams.
func flight(t *testing.T, n int, cfg wire.Config, s ...http2.Setting) (*house, map[uint32]chan result) {
	t.Helper()
	h := build(t, cfg, s...)
	flying := map[uint32]chan result{}
	for i := range n {
		done := h.send(t.Context(), post(fmt.Sprint("/", i)))
		flying[h.peer.next(http2.FrameHeaders).stream] = done
	}
	return h, flying
}

func TestAGoAwayReturnsAtOnceWhatItRulesOutAndLetsTheOthersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := flight(t, 4, wire.Config{}, limit(4))
		waiting := h.send(t.Context(), post("/waiting"))
		synctest.Wait()
		h.peer.do(h.peer.fr.WriteGoAway(3, http2.ErrCodeNo, []byte("bye")))
		for _, id := range []uint32{5, 7} {
			if e := theError(t, <-flying[id], wire.GoAwayUnprocessed, wire.Never, false); string(e.Debug) != "bye" {
				t.Errorf("the debug data is %q", e.Debug)
			}
		}
		wantError(t, <-waiting, wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-h.send(t.Context(), post("/new")), wire.GoAwayUnprocessed, wire.Never, false)
		if !h.State().Draining {
			t.Error("the state does not say so")
		}
		h.peer.answer(1, "200")
		h.peer.answer(3, "410")
		wantStatus(t, <-flying[1], 200)
		wantStatus(t, <-flying[3], 410)
		if err := <-h.ended; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func TestASecondGoAwayMayRuleOutMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := flight(t, 3, wire.Config{})
		h.peer.do(h.peer.fr.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil))
		synctest.Wait()
		for id, done := range flying {
			if len(done) != 0 {
				t.Fatalf("the first GOAWAY ended stream %d: %v", id, <-done)
			}
		}
		h.peer.do(h.peer.fr.WriteGoAway(3, http2.ErrCodeNo, nil))
		wantError(t, <-flying[5], wire.GoAwayUnprocessed, wire.Never, false)
		h.peer.answer(1, "200")
		h.peer.answer(3, "200")
		wantStatus(t, <-flying[1], 200)
		wantStatus(t, <-flying[3], 200)
	})
}

func TestASecondGoAwayNeverRulesOutLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := flight(t, 2, wire.Config{})
		h.peer.do(h.peer.fr.WriteGoAway(1, http2.ErrCodeNo, []byte("first")))
		h.peer.do(h.peer.fr.WriteGoAway(3, http2.ErrCodeNo, nil))
		wantError(t, <-flying[3], wire.GoAwayUnprocessed, wire.Never, false)
		_ = h.peer.nc.Close()
		if e := theError(t, <-flying[1], wire.GoAwayNoAnswer, wire.Unknown, true); string(e.Debug) != "first" {
			t.Errorf("the debug data is %q", e.Debug)
		}
	})
}

func TestAGoAwayThenAClosedConnectionLeavesTheRestUnknown(t *testing.T) {
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
				h, flying := flight(t, 2, wire.Config{})
				h.peer.do(h.peer.fr.WriteGoAway(1, test.code, []byte(strings.Repeat("x", 2000))))
				wantError(t, <-flying[3], wire.GoAwayUnprocessed, wire.Never, false)
				_ = h.peer.nc.Close()
				e := theError(t, <-flying[1], test.reason, wire.Unknown, test.endpoint)
				if len(e.Debug) != 1024 {
					t.Errorf("%d bytes of debug data are kept", len(e.Debug))
				}
				wantError(t, result{err: <-h.ended}, test.reason, wire.Unknown, test.endpoint)
			})
		})
	}
}

func TestAGoAwayWithAnErrorIsWhatRunReturnsEvenIfNothingWasLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := flight(t, 0, wire.Config{})
		h.peer.do(h.peer.fr.WriteGoAway(0, http2.ErrCodeEnhanceYourCalm, []byte("too_many_pings")))
		e := theError(t, result{err: <-h.ended}, wire.EnhanceYourCalm, wire.Unknown, false)
		if string(e.Debug) != "too_many_pings" {
			t.Errorf("the debug data is %q", e.Debug)
		}
	})
}

func TestARequestThatThePeerBeganToAnswerIsNotCalledUnprocessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := flight(t, 2, wire.Config{})
		h.peer.sendHead(1, false, ":status", "200")
		h.peer.sendHead(3, false, ":status", "200")
		h.peer.do(h.peer.fr.WriteRSTStream(1, http2.ErrCodeRefusedStream))
		wantError(t, <-flying[1], wire.ResetInternal, wire.Unknown, true)
		h.peer.do(h.peer.fr.WriteGoAway(0, http2.ErrCodeNo, nil))
		wantError(t, <-flying[3], wire.GoAwayNoAnswer, wire.Unknown, true)
	})
}

func TestWhatAResetTells(t *testing.T) {
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
				h, flying := flight(t, 2, wire.Config{})
				h.peer.do(h.peer.fr.WriteRSTStream(1, test.code))
				wantError(t, <-flying[1], test.reason, test.processed, test.endpoint)
				h.peer.answer(3, "200")
				wantStatus(t, <-flying[3], 200)
			})
		})
	}
}

func TestAGoAwayIsStillHeardWhenNothingCanBeWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, flying := flight(t, 2, wire.Config{PingBusy: time.Hour})
		h.peer.rest(http2.FrameData)
		h.peer.deaf.Store(true) // one more frame is read, and then no more
		blocked := h.send(t.Context(), post("/blocked"))
		time.Sleep(1050 * time.Millisecond) // the write has failed
		h.peer.do(h.peer.fr.WriteGoAway(1, http2.ErrCodeNo, nil))
		wantError(t, <-flying[3], wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-blocked, wire.GoAwayUnprocessed, wire.Never, false)
		wantError(t, <-flying[1], wire.GoAwayNoAnswer, wire.Unknown, true)
	})
}
