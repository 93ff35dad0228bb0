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
		b.Deposit()
	}
}

// withdrawAll returns how many retries b grants at this moment.
func withdrawAll(b *retry.Budget) (granted int) {
	for b.Withdraw(down) {
		granted++
	}
	return granted
}

func TestHundredFirstAttemptsAllowTenRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{PerSecond: -1}
		deposit(b, 100)
		if got := withdrawAll(b); got != 10 {
			t.Errorf("granted %d retries, want 10", got)
		}
	})
}

func TestMinimumRetryRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Budget
		if got := withdrawAll(&b); got != 30 {
			t.Errorf("granted %d retries in the first window of 10 s, want 3 a second", got)
		}
		time.Sleep(15 * time.Second)
		if got := withdrawAll(&b); got != 15 {
			t.Errorf("half a window later granted %d, want the half that has slid out", got)
		}
	})
}

func TestUnsentRetryIsFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{Ratio: -1, PerSecond: -1}
		for range 100 {
			if !b.Withdraw(push.Outcome{Verdict: push.Unsent}) {
				t.Fatal("a repeat of what was never sent was denied")
			}
		}
		if b.Withdraw(down) {
			t.Error("an empty budget granted a retry")
		}
	})
}

func TestWindowWeighsPreviousBucket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		at := func(seconds float64) {
			time.Sleep(time.Until(began.Add(time.Duration(seconds * float64(time.Second)))))
		}
		grants := func(until float64, firsts int) int {
			b := &retry.Budget{Ratio: 1, PerSecond: -1, Window: time.Second}
			began = time.Now()
			b.Withdraw(down) // begins the first bucket
			at(2.5)
			deposit(b, 10)
			at(until)
			deposit(b, firsts)
			return withdrawAll(b)
		}
		for _, c := range []struct {
			until        float64
			firsts, want int
		}{
			{2.5, 0, 10},
			{3.3, 10, 17}, // seven tenths of the ten before, and ten
			{5.8, 10, 10}, // the bucket before was empty
		} {
			if got := grants(c.until, c.firsts); got != c.want {
				t.Errorf("at %v s the window holds %d, want %d", c.until, got, c.want)
			}
		}
	})
}

func TestNextWindowAllowsAnotherRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{Ratio: 1, PerSecond: -1, Window: time.Minute}
		b.Deposit()
		if !b.Withdraw(down) || b.Withdraw(down) {
			t.Fatal("one first attempt at ratio 1 must grant exactly one retry")
		}
		time.Sleep(2 * time.Minute)
		b.Deposit()
		if !b.Withdraw(down) {
			t.Error("the next window granted nothing")
		}
	})
}

func TestNilBudgetAllowsEverything(t *testing.T) {
	var b *retry.Budget
	b.Deposit()
	if !b.Withdraw(down) {
		t.Error("denied")
	}
}

// step is a step of a random schedule: a pause, then so many first attempts,
// then so many wishes for a retry.
type step struct {
	pause                  time.Duration
	firstAttempts, retries int
}

func drawSchedule(t *rapid.T, longest time.Duration) []step {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			pause:         time.Duration(rapid.Int64Range(0, int64(longest)).Draw(t, "pause")),
			firstAttempts: rapid.IntRange(0, 50).Draw(t, "first attempts"),
			retries:       rapid.IntRange(0, 50).Draw(t, "wishes"),
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
			r.Fatalf("%.2f retries beyond the bound", excess)
		}
	})
}

// play runs the schedule and returns by how much the retries exceeded the
// bound that Budget promises, at worst.
func play(b *retry.Budget, schedule []step) (excess float64) {
	b.Deposit()
	began, firsts, retries := time.Now(), 1, 0
	for _, m := range schedule {
		time.Sleep(m.pause)
		deposit(b, m.firstAttempts)
		firsts += m.firstAttempts
		for range m.retries {
			if b.Withdraw(down) {
				retries++
			}
		}
		bound := b.Ratio*float64(firsts) + b.PerSecond*(time.Since(began)+b.Window).Seconds()
		excess = max(excess, float64(retries)-bound)
	}
	return excess
}

func TestBudgetHoldsUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{PerSecond: -1}
		var granted atomic.Int64
		var all sync.WaitGroup
		deposit(b, 1000)
		for range 50 {
			all.Go(func() {
				for range 10 {
					if b.Withdraw(down) {
						granted.Add(1)
					}
				}
			})
		}
		all.Wait()
		if granted.Load() != 100 {
			t.Errorf("granted %d retries, want 100", granted.Load())
		}
	})
}

func BenchmarkBudget(b *testing.B) {
	budget := new(retry.Budget)
	b.ReportAllocs()
	for b.Loop() {
		budget.Deposit()
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
