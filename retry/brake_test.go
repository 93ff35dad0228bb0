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

// season is a time of steady load: so many notifications a second, each answered after a round trip with the given chance.
type season struct {
	seconds   int
	perSecond int
	up        func(i int) bool // whether the provider answers the i-th of the season
}

func always(int) bool { return true }
func never(int) bool  { return false }

const roundTrip = 100 * time.Millisecond

// live plays the season and returns how many it offered, how many passed and how many were answered.
func (s season) live(b *retry.Brake) (passed, answered int) {
	for i := range s.seconds * s.perSecond {
		if p, ok := b.Pass(); ok {
			passed++
			end := push.Outcome{Verdict: push.Unavailable}
			if s.up(i) {
				answered++
				end.Verdict = push.Accepted
			}
			time.AfterFunc(roundTrip, func() { b.Done(p, end) })
		}
		time.Sleep(time.Second / time.Duration(s.perSecond))
	}
	return passed, answered
}

func TestAProviderThatIsDownIsSentProbesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Brake
		season{10, 500, always}.live(&b)
		season{10, 500, never}.live(&b)
		passed, _ := season{50, 500, never}.live(&b)
		if passed < 50 || passed > 250 {
			t.Errorf("%d of 25,000 passed in 50 s; want probes, some three a second", passed)
		}
	})
}

func TestRecoveryIsSeenWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []int{50, 500, 5000} {
			var b retry.Brake
			season{60, rate, never}.live(&b)
			season{5, rate, always}.live(&b)
			if passed, _ := (season{10, rate, always}).live(&b); passed < rate*10*99/100 {
				t.Errorf("from the fifth second on %d of %d passed", passed, 10*rate)
			}
		}
	})
}

func TestABlinkIsNotTakenForRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Brake
		season{30, 500, never}.live(&b)
		every := func(i int) bool { return i%2 == 0 }
		passed, answered := season{60, 500, every}.live(&b)
		if float64(passed) > 2.5*float64(answered) || passed > 60*500/20 {
			t.Errorf("%d of 30,000 passed and %d were answered, of a provider that answers every second one", passed, answered)
		}
	})
}

func TestOneBadEndpointInTwelveHoldsNobodyBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Brake
		passed, _ := season{60, 500, func(i int) bool { return i%12 != 0 }}.live(&b)
		if passed != 30_000 {
			t.Errorf("%d of 30,000 passed", passed)
		}
	})
}

func TestAQuietCredentialIsNeverHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Brake
		if passed, _ := (season{120, 2, never}).live(&b); passed != 240 {
			t.Errorf("%d of 240 passed", passed)
		}
	})
}

func TestWhatProvesNothingNeitherBrakesNorHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Brake
		for range 10_000 {
			p, ok := b.Pass()
			if !ok {
				t.Fatal("held back by what was never sent")
			}
			b.Done(p, push.Outcome{Verdict: push.Unsent})
		}
		season{30, 500, never}.live(&b)
		if b.Chance() < 0.9 || !(&retry.Brake{Rand: most}).Again() {
			t.Errorf("chance %v", b.Chance())
		}
	})
}

func TestAColdBurstIsNotTakenForSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Brake
		for range 20_000 {
			if _, ok := b.Pass(); !ok {
				t.Fatal("held back before anything could have been answered")
			}
		}
	})
}

func TestSilenceBrakesBeforeAnythingEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Brake
		for range 30 {
			for range 500 {
				b.Pass()
			}
			time.Sleep(time.Second)
		}
		if b.Chance() < 0.9 {
			t.Errorf("chance %v after half a minute without an answer", b.Chance())
		}
	})
}

func TestANilBrakeNeverBrakes(t *testing.T) {
	var b *retry.Brake
	b.Done(retry.Passage{}, down)
	if _, ok := b.Pass(); !ok || !b.Again() || b.Chance() != 0 {
		t.Error("held back")
	}
}

func TestAnyOutageIsSentAtMostElevenTenthsOfWhatItAnswersAndTheProbes(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rate := rapid.IntRange(20, 400).Draw(r, "per second")
		share := rapid.IntRange(0, 50).Draw(r, "percent answered")
		var passed, answered int
		synctest.Test(t, func(*testing.T) {
			var b retry.Brake
			up := func(i int) bool { return i*37%100 < share }
			season{40, rate, up}.live(&b)
			passed, answered = season{30, rate, up}.live(&b)
		})
		// A tenth more than the answers, what is free, and some credit for lucky rows of probes.
		if most := 1.1*float64(answered) + 30*3 + 60; float64(passed) > most*1.15 {
			r.Fatalf("%d passed, %d answered, bound %.0f", passed, answered, most)
		}
	})
}

func BenchmarkBrake(b *testing.B) {
	brake := new(retry.Brake)
	accepted := push.Outcome{Verdict: push.Accepted}
	b.ReportAllocs()
	for b.Loop() {
		p, _ := brake.Pass()
		brake.Done(p, accepted)
	}
}
