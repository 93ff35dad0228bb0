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

// phase is a time of constant load. succeeds says whether the provider answers the i-th
// notification.
type phase struct {
	seconds   int
	perSecond int
	succeeds  func(i int) bool
}

func always(int) bool { return true }
func never(int) bool  { return false }

const roundTrip = 100 * time.Millisecond

// run sends the notifications of the phase and returns how many were allowed and how many were
// answered.
func (ph phase) run(th *retry.AdaptiveThrottler) (allowed, answered int) {
	for i := range ph.seconds * ph.perSecond {
		if p, err := th.Acquire(1); err == nil {
			allowed++
			outcome := push.Outcome{Verdict: push.Unavailable}
			if ph.succeeds(i) {
				answered++
				outcome.Verdict = push.Accepted
			}
			time.AfterFunc(roundTrip, func() { p.Release(outcome, 1) })
		}
		time.Sleep(time.Second / time.Duration(ph.perSecond))
	}
	return allowed, answered
}

func TestThrottlerSendsOnlyProbesDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		phase{10, 500, always}.run(&th)
		phase{10, 500, never}.run(&th)
		allowed, _ := phase{50, 500, never}.run(&th)
		if allowed < 50 || allowed > 250 {
			t.Errorf("%d of 25,000 allowed in 50 s, want about three per second", allowed)
		}
	})
}

func TestThrottlerRecoversWithinSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, rate := range []int{50, 500, 5000} {
			var th retry.AdaptiveThrottler
			phase{60, rate, never}.run(&th)
			phase{5, rate, always}.run(&th)
			if allowed, _ := (phase{10, rate, always}).run(&th); allowed < rate*10*99/100 {
				t.Errorf("five seconds after the outage, %d of %d allowed", allowed, 10*rate)
			}
		}
	})
}

func TestPartialOutageKeepsThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		phase{30, 500, never}.run(&th)
		half := func(i int) bool { return i%2 == 0 }
		allowed, answered := phase{60, 500, half}.run(&th)
		if float64(allowed) > 2.5*float64(answered) || allowed > 60*500/20 {
			t.Errorf("%d of 30,000 allowed and %d answered by a provider that answers every second one", allowed, answered)
		}
	})
}

func TestLowFailureRateDoesNotThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		allowed, _ := phase{60, 500, func(i int) bool { return i%12 != 0 }}.run(&th)
		if allowed != 30_000 {
			t.Errorf("%d of 30,000 allowed", allowed)
		}
	})
}

func TestLowTrafficIsNeverThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		if allowed, _ := (phase{120, 2, never}).run(&th); allowed != 240 {
			t.Errorf("%d of 240 allowed", allowed)
		}
	})
}

func TestUnsentOutcomesDoNotAffectThrottler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		for range 10_000 {
			p, err := th.Acquire(1)
			if err != nil {
				t.Fatal("throttled after unsent notifications only")
			}
			p.Release(push.Outcome{Verdict: push.Unsent}, 1)
		}
		phase{30, 500, never}.run(&th)
		if th.RejectionRate() < 0.9 || !(&retry.AdaptiveThrottler{Rand: maxJitter}).AllowRetry() {
			t.Errorf("rejection rate %v", th.RejectionRate())
		}
	})
}

func TestInitialBurstIsNotThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		for range 20_000 {
			if _, err := th.Acquire(1); err != nil {
				t.Fatal("throttled before any response was due")
			}
		}
	})
}

func TestMissingResponsesTriggerThrottler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		for range 30 {
			for range 500 {
				_, _ = th.Acquire(1)
			}
			time.Sleep(time.Second)
		}
		if th.RejectionRate() < 0.9 {
			t.Errorf("rejection rate %v after 30 s without a response", th.RejectionRate())
		}
	})
}

func TestRecentCountsWhatShouldHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var th retry.AdaptiveThrottler
		for i := range 10 {
			p, err := th.Acquire(1)
			if err != nil {
				t.Fatal(err)
			}
			if i < 6 {
				p.Release(push.Outcome{Verdict: push.Accepted}, 1)
			} else if i < 8 {
				p.Release(down, 1)
			}
		}
		if requests, answered := th.Recent(); requests != 8 || answered != 6 {
			t.Errorf("%v requests and %v answers while two notifications wait for an answer", requests, answered)
		}
		time.Sleep(5 * time.Second) // the response timeout
		if requests, answered := th.Recent(); requests != 10 || answered != 6 {
			t.Errorf("%v requests and %v answers after the timeout of two notifications", requests, answered)
		}
		time.Sleep(20 * time.Second)
		if requests, answered := th.Recent(); requests != 0 || answered != 0 {
			t.Errorf("%v requests and %v answers after the window", requests, answered)
		}
	})
}

func TestNilThrottlerAllowsEverything(t *testing.T) {
	var th *retry.AdaptiveThrottler
	retry.Permit{}.Release(down, 1)
	if _, err := th.Acquire(1); err != nil || !th.AllowRetry() || th.RejectionRate() != 0 {
		t.Error("a nil throttler rejected a notification")
	}
	if requests, answered := th.Recent(); requests != 0 || answered != 0 {
		t.Error("a nil throttler counts")
	}
}

func TestThrottlerBoundsRequestsByAnswers(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		rate := rapid.IntRange(20, 400).Draw(r, "per second")
		share := rapid.IntRange(0, 50).Draw(r, "percent answered")
		var allowed, answered int
		synctest.Test(t, func(*testing.T) {
			var th retry.AdaptiveThrottler
			up := func(i int) bool { return i*37%100 < share }
			phase{40, rate, up}.run(&th)
			allowed, answered = phase{30, rate, up}.run(&th)
		})
		// The answered ones and a tenth, the free ones, and some credit for runs of successful
		// probes.
		if limit := 1.1*float64(answered) + 30*3 + 60; float64(allowed) > limit*1.15 {
			r.Fatalf("%d allowed, %d answered, limit %.0f", allowed, answered, limit)
		}
	})
}

func BenchmarkThrottler(b *testing.B) {
	throttler := new(retry.AdaptiveThrottler)
	accepted := push.Outcome{Verdict: push.Accepted}
	b.ReportAllocs()
	for b.Loop() {
		p, _ := throttler.Acquire(1)
		p.Release(accepted, 1)
	}
}
