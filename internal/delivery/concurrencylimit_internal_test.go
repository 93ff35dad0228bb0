// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// runStep is a step of the property tests below: a run takes places, and another one releases its.
type runStep struct {
	n       *push.Call
	count   int
	release int
}

func drawRunSteps(t *rapid.T, apps int) []runStep {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) runStep {
		n := &push.Call{Notification: &push.Notification{App: fmt.Sprint(rapid.IntRange(1, apps).Draw(t, "app"))}, CanQueue: rapid.Bool().Draw(t, "can queue")}
		n.Lane = rapid.SampledFrom([]push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}).Draw(t, "lane")
		return runStep{n, rapid.IntRange(1, 64).Draw(t, "count"), rapid.IntRange(0, 1000).Draw(t, "release")}
	}), 1, 60).Draw(t, "steps")
}

// held is a run or a single notification with places.
type held struct {
	call  *push.Call
	count int
}

// compareRuns takes places from one limit in runs and from the other one by one. It returns the first
// difference.
func compareRuns(steps []runStep, together, single *ConcurrencyLimit) string {
	var runs []held
	for i, s := range steps {
		granted, _ := together.acquire(context.Background(), s.n, s.count, 0)
		runs = append(runs, held{s.n, granted})
		for k := range granted + 1 {
			if k == s.count {
				break
			}
			if one, _ := single.acquire(context.Background(), s.n, 1, 0); one != min(granted-k, 1) {
				return fmt.Sprintf("step %d: %d places together, %d one by one", i, granted, k+one)
			}
		}
		h := &runs[s.release%len(runs)]
		if h.count > 0 {
			together.release(h.call, h.count)
		}
		for range h.count {
			single.release(h.call, 1)
		}
		h.count = 0
		a, b := together.Status(), single.Status()
		if a.Shed, b.Shed = 0, 0; a != b { // only a single one is shed
			return fmt.Sprintf("step %d: status %+v, one by one %+v", i, a, b)
		}
	}
	for _, h := range runs {
		if h.count > 0 {
			together.release(h.call, h.count)
		}
	}
	if s := together.Status(); s.InFlight != 0 || s.Waiting != 0 {
		return fmt.Sprintf("status at the end %+v", s)
	}
	return ""
}

func TestPlacesTakenTogetherEqualPlacesTakenOneByOne(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit, steps := rapid.IntRange(1, 1000).Draw(rt, "limit"), drawRunSteps(rt, 3)
		var difference string
		synctest.Test(t, func(*testing.T) {
			difference = compareRuns(steps, &ConcurrencyLimit{Max: limit}, &ConcurrencyLimit{Max: limit})
		})
		if difference != "" {
			rt.Fatal(difference)
		}
	})
}

func TestReleasedRunAdmitsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &ConcurrencyLimit{Max: 10}
		run := &push.Call{Notification: &push.Notification{App: "shop"}}
		granted, _ := c.acquire(t.Context(), run, 64, 0)
		if granted == 0 || granted == 10 {
			t.Fatalf("%d places", granted)
		}
		done := make(chan error, granted)
		for range granted {
			go func() {
				waiter := &push.Call{Notification: &push.Notification{App: "shop"}, CanQueue: true}
				_, err := c.acquire(t.Context(), waiter, 1, time.Minute)
				c.release(waiter, 1)
				done <- err
			}()
		}
		synctest.Wait()
		if s := c.Status(); s.Waiting == 0 {
			t.Errorf("status %+v, want waiters", s)
		}
		c.release(run, granted)
		for range granted {
			if err := testwait.For(t, done, "a waiter"); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestNilConcurrencyLimitGrantsWholeRuns(t *testing.T) {
	n := &push.Call{Notification: new(push.Notification)}
	granted, _ := (*ConcurrencyLimit)(nil).acquire(t.Context(), n, 64, 0)
	(*ConcurrencyLimit)(nil).release(n, 64)
	if granted != 64 {
		t.Errorf("%d places", granted)
	}
}

// BenchmarkConcurrencyLimit measures the places of notifications, alone and in a run.
func BenchmarkConcurrencyLimit(b *testing.B) {
	for _, count := range []int{1, 64} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			var c ConcurrencyLimit
			n := &push.Call{Notification: &push.Notification{App: "shop"}}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.acquire(b.Context(), n, count, 0)
				c.release(n, count)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*count), "ns/notification")
		})
	}
}
