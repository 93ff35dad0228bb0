// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

var down = push.Outcome{Verdict: push.Unavailable}

func deposit(b *retry.Budget, times int) {
	for range times {
		b.Deposit(1)
	}
}

// withdrawAll withdraws until b denies a retry and returns the number of retries.
func withdrawAll(b *retry.Budget) (allowed int) {
	for b.Withdraw(down) {
		allowed++
	}
	return allowed
}

func TestHundredFirstAttemptsAllowFifteenRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{PerSecond: -1}
		deposit(b, 100)
		if got := withdrawAll(b); got != 15 {
			t.Errorf("allowed %d retries, want 15", got)
		}
	})
}

func TestMinimumRetryRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Budget
		if got := withdrawAll(&b); got != 50 {
			t.Errorf("allowed %d retries in the first window of 5 s, want 10 per second", got)
		}
		time.Sleep(7500 * time.Millisecond)
		if got := withdrawAll(&b); got != 25 {
			t.Errorf("half a window later allowed %d retries, want the 25 that left the window", got)
		}
	})
}

func TestUnsentRetryIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{Ratio: -1, PerSecond: -1}
		for range 100 {
			if !b.Withdraw(push.Outcome{Verdict: push.Unsent}) {
				t.Fatal("denied the retry of an unsent attempt")
			}
		}
		if b.Withdraw(down) {
			t.Error("an empty budget allowed a retry")
		}
	})
}

func TestWindowWeighsPreviousBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var start time.Time
		sleepUntil := func(seconds float64) {
			time.Sleep(time.Until(start.Add(time.Duration(seconds * float64(time.Second)))))
		}
		allowed := func(until float64, firstAttempts int) int {
			b := &retry.Budget{Ratio: 1, PerSecond: -1, Window: time.Second}
			start = time.Now()
			b.Withdraw(down) // starts the first bucket
			sleepUntil(2.5)
			deposit(b, 10)
			sleepUntil(until)
			deposit(b, firstAttempts)
			return withdrawAll(b)
		}
		for _, c := range []struct {
			until               float64
			firstAttempts, want int
		}{
			{2.5, 0, 10},
			{3.3, 10, 17}, // seven tenths of the previous ten, plus ten
			{5.8, 10, 10}, // the previous bucket is empty
		} {
			if got := allowed(c.until, c.firstAttempts); got != c.want {
				t.Errorf("at %v s the budget allows %d retries, want %d", c.until, got, c.want)
			}
		}
	})
}

func TestNextWindowAllowsAnotherRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{Ratio: 1, PerSecond: -1, Window: time.Minute}
		b.Deposit(1)
		if !b.Withdraw(down) || b.Withdraw(down) {
			t.Fatal("one first attempt at ratio 1 must allow exactly one retry")
		}
		time.Sleep(2 * time.Minute)
		b.Deposit(1)
		if !b.Withdraw(down) {
			t.Error("the next window allowed no retry")
		}
	})
}

func TestNilBudgetAllowsEverything(t *testing.T) {
	var b *retry.Budget
	b.Deposit(1)
	if !b.Withdraw(down) {
		t.Error("a nil budget denied a retry")
	}
}

// step is a step of a random schedule: a pause, then first attempts, then requested retries.
type step struct {
	pause                  time.Duration
	firstAttempts, retries int
}

func drawSchedule(t *rapid.T, maxPause time.Duration) []step {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			pause:         time.Duration(rapid.Int64Range(0, int64(maxPause)).Draw(t, "pause")),
			firstAttempts: rapid.IntRange(0, 50).Draw(t, "first attempts"),
			retries:       rapid.IntRange(0, 50).Draw(t, "retries"),
		}
	}), 1, 60).Draw(t, "schedule")
}

func TestBudgetHoldsForAnySchedule(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		b := &retry.Budget{
			Ratio:     rapid.Float64Range(0.01, 1).Draw(r, "ratio"),
			PerSecond: rapid.Float64Range(0.01, 5).Draw(r, "per second"),
			Window:    time.Duration(rapid.Int64Range(int64(time.Second), int64(20*time.Second)).Draw(r, "window")),
		}
		schedule := drawSchedule(r, 2*b.Window)
		var excess float64
		synctest.Test(t, func(*testing.T) { excess = play(b, schedule) })
		if excess > 1e-6 {
			r.Fatalf("%.2f retries above the limit", excess)
		}
	})
}

// play runs the schedule and returns the maximum number of retries above the limit that Budget
// documents.
func play(b *retry.Budget, schedule []step) (excess float64) {
	b.Deposit(1)
	start, firstAttempts, retries := time.Now(), 1, 0
	for _, s := range schedule {
		time.Sleep(s.pause)
		deposit(b, s.firstAttempts)
		firstAttempts += s.firstAttempts
		for range s.retries {
			if b.Withdraw(down) {
				retries++
			}
		}
		limit := b.Ratio*float64(firstAttempts) + b.PerSecond*(time.Since(start)+b.Window).Seconds()
		excess = max(excess, float64(retries)-limit)
	}
	return excess
}

func TestBudgetHoldsUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{PerSecond: -1}
		var allowed atomic.Int64
		var wg sync.WaitGroup
		deposit(b, 1000)
		for range 50 {
			wg.Go(func() {
				for range 10 {
					if b.Withdraw(down) {
						allowed.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if allowed.Load() != 150 {
			t.Errorf("allowed %d retries, want 150", allowed.Load())
		}
	})
}

func BenchmarkBudget(b *testing.B) {
	budget := new(retry.Budget)
	b.ReportAllocs()
	for b.Loop() {
		budget.Deposit(1)
		budget.Withdraw(down)
	}
}

func BenchmarkPolicyAfter(b *testing.B) {
	var p retry.Policy
	b.ReportAllocs()
	for b.Loop() {
		p.After(notification, 1, down)
	}
}
