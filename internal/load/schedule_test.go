// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestOpenLoopOffersCallsOnSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := schedule{start: time.Now(), duration: 2 * time.Second, rate: 3}
		var at []time.Duration
		s.runOpenLoop(t.Context(), func(i int, due time.Duration) {
			if i != len(at) {
				t.Errorf("call %d was offered after %d others", i, len(at))
			}
			if elapsed := time.Since(s.start); elapsed != due {
				t.Errorf("call %d was due after %s and offered after %s", i, due, elapsed)
			}
			at = append(at, due)
		})
		if len(at) != 6 || at[5] != 5*time.Second/3 {
			t.Errorf("%v: want six calls, a third of a second apart", at)
		}
	})
}

func TestSlowOfferDoesNotShiftTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := schedule{start: time.Now(), duration: time.Second, rate: 100}
		late := 0
		s.runOpenLoop(t.Context(), func(i int, due time.Duration) {
			if want := time.Duration(i) * 10 * time.Millisecond; due != want {
				t.Errorf("call %d is due after %s, want %s", i, due, want)
			}
			if time.Since(s.start) > due {
				late++
			}
			if i == 10 {
				time.Sleep(300 * time.Millisecond)
			}
		})
		if late != 29 { // the calls due during the sleep; the call due at its end is on time
			t.Errorf("%d calls were late, want 29", late)
		}
	})
}

func TestContextCancelEndsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Millisecond)
		defer cancel()
		s := schedule{start: time.Now(), duration: time.Hour, rate: 100}
		offered := 0
		s.runOpenLoop(ctx, func(int, time.Duration) { offered++ })
		if offered != 10 || time.Since(s.start) != 95*time.Millisecond {
			t.Errorf("%d were offered within %s", offered, time.Since(s.start))
		}
	})
}

func TestClosedLoopKeepsCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := schedule{start: time.Now(), duration: time.Second}
		var mu sync.Mutex
		inFlight, maxInFlight, count := 0, 0, 0
		s.runClosedLoop(t.Context(), 7, func(next func() (int, time.Duration, bool)) {
			for i, due, more := next(); more; i, due, more = next() {
				mu.Lock()
				inFlight++
				count++
				maxInFlight = max(maxInFlight, inFlight)
				if due != time.Since(s.start) || i >= 70 {
					t.Errorf("call %d was due after %s and begun after %s", i, due, time.Since(s.start))
				}
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
				mu.Lock()
				inFlight--
				mu.Unlock()
			}
		})
		if maxInFlight != 7 || count != 70 {
			t.Errorf("%d calls, at most %d in flight; want 70 and 7", count, maxInFlight)
		}
	})
}
