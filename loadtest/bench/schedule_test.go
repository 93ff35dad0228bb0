// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestEveryCallIsOfferedAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := schedule{began: time.Now(), until: 2 * time.Second, rate: 3}
		var at []time.Duration
		s.play(t.Context(), func(i int, due time.Duration) {
			if i != len(at) {
				t.Errorf("call %d came after %d others", i, len(at))
			}
			if now := time.Since(s.began); now != due {
				t.Errorf("call %d was due after %s and offered after %s", i, due, now)
			}
			at = append(at, due)
		})
		if len(at) != 6 || at[5] != 5*time.Second/3 {
			t.Errorf("%v: want six calls, a third of a second apart", at)
		}
	})
}

func TestASlowOfferMovesNoOtherCallsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := schedule{began: time.Now(), until: time.Second, rate: 100}
		late := 0
		s.play(t.Context(), func(i int, due time.Duration) {
			if want := time.Duration(i) * 10 * time.Millisecond; due != want {
				t.Errorf("call %d is due after %s, want %s", i, due, want)
			}
			if time.Since(s.began) > due {
				late++
			}
			if i == 10 {
				time.Sleep(300 * time.Millisecond)
			}
		})
		if late != 29 { // those due within the sleep; the one at its end is in time
			t.Errorf("%d calls were late, want 29", late)
		}
	})
}

func TestTheEndOfTheContextEndsTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Millisecond)
		defer cancel()
		s := schedule{began: time.Now(), until: time.Hour, rate: 100}
		offered := 0
		s.play(ctx, func(int, time.Duration) { offered++ })
		if offered != 10 || time.Since(s.began) != 95*time.Millisecond {
			t.Errorf("%d were offered within %s", offered, time.Since(s.began))
		}
	})
}

func TestAClosedLoopKeepsItsNumberInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := schedule{began: time.Now(), until: time.Second}
		var mu sync.Mutex
		now, most, made := 0, 0, 0
		s.keep(t.Context(), 7, func(next func() (int, time.Duration, bool)) {
			for i, due, more := next(); more; i, due, more = next() {
				mu.Lock()
				now++
				made++
				most = max(most, now)
				if due != time.Since(s.began) || i >= 70 {
					t.Errorf("call %d was due after %s and begun after %s", i, due, time.Since(s.began))
				}
				mu.Unlock()
				time.Sleep(100 * time.Millisecond)
				mu.Lock()
				now--
				mu.Unlock()
			}
		})
		if most != 7 || made != 70 {
			t.Errorf("%d calls, at most %d in flight; want 70 and 7", made, most)
		}
	})
}
