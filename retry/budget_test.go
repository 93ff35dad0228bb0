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

func earn(b *retry.Budget, times int) {
	for range times {
		b.Earn()
	}
}

// takeAll returns how many retries b grants at this moment.
func takeAll(b *retry.Budget) (granted int) {
	for b.Take(down) {
		granted++
	}
	return granted
}

func TestAHundredFirstAttemptsEarnTenRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{PerSecond: -1}
		earn(b, 100)
		if got := takeAll(b); got != 10 {
			t.Errorf("granted %d retries, want 10", got)
		}
	})
}

func TestAQuietCredentialMayStillRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b retry.Budget
		if got := takeAll(&b); got != 30 {
			t.Errorf("granted %d retries in the first window of 10 s, want 3 a second", got)
		}
		time.Sleep(15 * time.Second)
		if got := takeAll(&b); got != 15 {
			t.Errorf("half a window later granted %d, want the half that has slid out", got)
		}
	})
}

func TestWhatWasNeverProcessedSpendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{Ratio: -1, PerSecond: -1}
		for range 100 {
			if !b.Take(push.Outcome{Verdict: push.Unsent}) {
				t.Fatal("a repeat of what was never sent was denied")
			}
		}
		if b.Take(down) {
			t.Error("an empty budget granted a retry")
		}
	})
}

func TestTheWindowSlidesOverTheBucketBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		at := func(seconds float64) {
			time.Sleep(time.Until(began.Add(time.Duration(seconds * float64(time.Second)))))
		}
		grants := func(until float64, firsts int) int {
			b := &retry.Budget{Ratio: 1, PerSecond: -1, Window: time.Second}
			began = time.Now()
			b.Take(down) // begins the first bucket
			at(2.5)
			earn(b, 10)
			at(until)
			earn(b, firsts)
			return takeAll(b)
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

func TestAnotherWindowGrantsAnotherRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{Ratio: 1, PerSecond: -1, Window: time.Minute}
		b.Earn()
		if !b.Take(down) || b.Take(down) {
			t.Fatal("one first attempt at ratio 1 must grant exactly one retry")
		}
		time.Sleep(2 * time.Minute)
		b.Earn()
		if !b.Take(down) {
			t.Error("the next window granted nothing")
		}
	})
}

func TestANilBudgetGrantsEverything(t *testing.T) {
	var b *retry.Budget
	b.Earn()
	if !b.Take(down) {
		t.Error("denied")
	}
}

// moment is a step of a random schedule: a pause, then so many first attempts,
// then so many wishes for a retry.
type moment struct {
	pause          time.Duration
	firsts, wishes int
}

func anySchedule(t *rapid.T, longest time.Duration) []moment {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) moment {
		return moment{
			pause:  time.Duration(rapid.Int64Range(0, int64(longest)).Draw(t, "pause")),
			firsts: rapid.IntRange(0, 50).Draw(t, "first attempts"),
			wishes: rapid.IntRange(0, 50).Draw(t, "wishes"),
		}
	}), 1, 60).Draw(t, "schedule")
}

func TestTheBudgetHoldsForAnySequenceOfEvents(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		b := &retry.Budget{
			Ratio:     rapid.Float64Range(0.01, 1).Draw(r, "ratio"),
			PerSecond: rapid.Float64Range(0.01, 5).Draw(r, "per second"),
			Window:    time.Duration(rapid.Int64Range(int64(time.Second), int64(20*time.Second)).Draw(r, "window")),
		}
		schedule := anySchedule(r, 2*b.Window)
		var excess float64
		synctest.Test(t, func(*testing.T) { excess = play(b, schedule) })
		if excess > 1e-6 {
			r.Fatalf("%.2f retries beyond the bound", excess)
		}
	})
}

// play runs the schedule and returns by how much the retries exceeded the
// bound that Budget promises, at worst.
func play(b *retry.Budget, schedule []moment) (excess float64) {
	b.Earn()
	began, firsts, retries := time.Now(), 1, 0
	for _, m := range schedule {
		time.Sleep(m.pause)
		earn(b, m.firsts)
		firsts += m.firsts
		for range m.wishes {
			if b.Take(down) {
				retries++
			}
		}
		bound := b.Ratio*float64(firsts) + b.PerSecond*(time.Since(began)+b.Window).Seconds()
		excess = max(excess, float64(retries)-bound)
	}
	return excess
}

func TestTheBudgetHoldsUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &retry.Budget{PerSecond: -1}
		var granted atomic.Int64
		var all sync.WaitGroup
		earn(b, 1000)
		for range 50 {
			all.Go(func() {
				for range 10 {
					if b.Take(down) {
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
		budget.Earn()
		budget.Take(down)
	}
}

func BenchmarkPolicyAfter(b *testing.B) {
	var p retry.Policy
	b.ReportAllocs()
	for b.Loop() {
		p.After(note, 1, down)
	}
}
