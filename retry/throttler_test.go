// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

// phase is a time of steady load: so many notifications a second, each answered after a round trip with the given chance.
type phase struct {
	seconds   int
	perSecond int
	succeeds  func(i int) bool // whether the provider answers the i-th of the season
}

func always(int) bool { return true }
func never(int) bool  { return false }

const roundTrip = 100 * time.Millisecond

// run plays the season and returns how many it offered, how many passed and how many were answered.
func (s phase) run(b *retry.AdaptiveThrottler) (passed, answered int) {
	for i := range s.seconds * s.perSecond {
		if p, ok := b.Acquire(); ok {
			passed++
			end := push.Outcome{Verdict: push.Unavailable}
			if s.succeeds(i) {
				answered++
				end.Verdict = push.Accepted
			}
			time.AfterFunc(roundTrip, func() { b.Record(p, end) })
		}
		time.Sleep(time.Second / time.Duration(s.perSecond))
	}
	return passed, answered
}

func TestThrottlerSendsOnlyProbesDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.AdaptiveThrottler
		phase{10, 500, always}.run(&b)
		phase{10, 500, never}.run(&b)
		passed, _ := phase{50, 500, never}.run(&b)
		if passed < 50 || passed > 250 {
			t.Errorf("%d of 25,000 passed in 50 s; want probes, some three a second", passed)
		}
	})
}

func TestThrottlerRecoversWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []int{50, 500, 5000} {
			var b retry.AdaptiveThrottler
			phase{60, rate, never}.run(&b)
			phase{5, rate, always}.run(&b)
			if passed, _ := (phase{10, rate, always}).run(&b); passed < rate*10*99/100 {
				t.Errorf("from the fifth second on %d of %d passed", passed, 10*rate)
			}
		}
	})
}

func TestPartialOutageKeepsThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.AdaptiveThrottler
		phase{30, 500, never}.run(&b)
		every := func(i int) bool { return i%2 == 0 }
		passed, answered := phase{60, 500, every}.run(&b)
		if float64(passed) > 2.5*float64(answered) || passed > 60*500/20 {
			t.Errorf("%d of 30,000 passed and %d were answered, of a provider that answers every second one", passed, answered)
		}
	})
}

func TestLowFailureRateDoesNotThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.AdaptiveThrottler
		passed, _ := phase{60, 500, func(i int) bool { return i%12 != 0 }}.run(&b)
		if passed != 30_000 {
			t.Errorf("%d of 30,000 passed", passed)
		}
	})
}

func TestLowTrafficIsNeverThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.AdaptiveThrottler
		if passed, _ := (phase{120, 2, never}).run(&b); passed != 240 {
			t.Errorf("%d of 240 passed", passed)
		}
	})
}

func TestUnsentOutcomesDoNotAffectThrottler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.AdaptiveThrottler
		for range 10_000 {
			p, ok := b.Acquire()
			if !ok {
				t.Fatal("held back by what was never sent")
			}
			b.Record(p, push.Outcome{Verdict: push.Unsent})
		}
		phase{30, 500, never}.run(&b)
		if b.RejectionRate() < 0.9 || !(&retry.AdaptiveThrottler{Rand: maxJitter}).AllowRetry() {
			t.Errorf("chance %v", b.RejectionRate())
		}
	})
}

func TestInitialBurstIsNotThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.AdaptiveThrottler
		for range 20_000 {
			if _, ok := b.Acquire(); !ok {
				t.Fatal("held back before anything could have been answered")
			}
		}
	})
}

func TestMissingResponsesTriggerThrottler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.AdaptiveThrottler
		for range 30 {
			for range 500 {
				b.Acquire()
			}
			time.Sleep(time.Second)
		}
		if b.RejectionRate() < 0.9 {
			t.Errorf("chance %v after half a minute without an answer", b.RejectionRate())
		}
	})
}

func TestNilThrottlerAllowsEverything(t *testing.T) {
	var b *retry.AdaptiveThrottler
	b.Record(retry.Permit{}, down)
	if _, ok := b.Acquire(); !ok || !b.AllowRetry() || b.RejectionRate() != 0 {
		t.Error("held back")
	}
}

func TestThrottlerBoundsRequestsByAnswers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rate := rapid.IntRange(20, 400).Draw(r, "per second")
		share := rapid.IntRange(0, 50).Draw(r, "percent answered")
		var passed, answered int
		synctest.Test(t, func(*testing.T) {
			var b retry.AdaptiveThrottler
			up := func(i int) bool { return i*37%100 < share }
			phase{40, rate, up}.run(&b)
			passed, answered = phase{30, rate, up}.run(&b)
		})
		// A tenth more than the answers, what is free, and some credit for lucky rows of probes.
		if most := 1.1*float64(answered) + 30*3 + 60; float64(passed) > most*1.15 {
			r.Fatalf("%d passed, %d answered, bound %.0f", passed, answered, most)
		}
	})
}

func BenchmarkThrottler(b *testing.B) {
	brake := new(retry.AdaptiveThrottler)
	accepted := push.Outcome{Verdict: push.Accepted}
	b.ReportAllocs()
	for b.Loop() {
		p, _ := brake.Acquire()
		brake.Record(p, accepted)
	}
}
