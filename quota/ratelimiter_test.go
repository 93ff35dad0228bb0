// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

const unlimitedWait = time.Duration(math.MaxInt64)

func toToken(token string) *push.Notification {
	return &push.Notification{Target: push.Target{Token: token}}
}

func toTopic(topic string) *push.Notification {
	return &push.Notification{Target: push.Target{Topic: topic}}
}

func throttled(scope push.Scope, after time.Duration) push.Outcome {
	return push.Outcome{Verdict: push.Throttled, Scope: scope, RetryAfter: after}
}

// attempt waits for an attempt at n. If it is rejected, wait is the time after which to try again.
func attempt(l *quota.RateLimiter, n *push.Notification, maxWait time.Duration) (wait time.Duration, ok bool) {
	_, err := l.Acquire(context.Background(), n, maxWait)
	if rejected, is := errors.AsType[*push.RejectedError](err); is {
		return rejected.RetryAfter, false
	}
	return 0, err == nil
}

// reserve is attempt for a test that does not wait: if the attempt must wait, it does so until the
// end of the test, and reserve returns the estimated wait. It runs in a bubble of synctest.
func reserve(t *testing.T, l *quota.RateLimiter, n *push.Notification, maxWait time.Duration) (wait time.Duration, ok bool) {
	t.Helper()
	if wait, ok = attempt(l, n, 0); ok || wait > maxWait {
		return wait, ok
	}
	done := make(chan error, 1)
	go func() {
		_, err := l.Acquire(t.Context(), n, maxWait)
		done <- err
	}()
	synctest.Wait()
	select {
	case err := <-done:
		return wait, err == nil
	default:
		return wait, true
	}
}

// mustAllow checks that an attempt at n is allowed immediately.
func mustAllow(t *testing.T, l *quota.RateLimiter, n *push.Notification) {
	t.Helper()
	if wait, ok := attempt(l, n, 0); !ok || wait != 0 {
		t.Errorf("Acquire = %v, %v; want allowed immediately", wait, ok)
	}
}

// mustReject checks that an attempt at n is rejected for the given time.
func mustReject(t *testing.T, l *quota.RateLimiter, n *push.Notification, want time.Duration) {
	t.Helper()
	if wait, ok := attempt(l, n, want-1); ok || wait != want {
		t.Errorf("Acquire = %v, %v; want rejected for %v", wait, ok, want)
	}
	if wait := l.RetryAfter(n); wait != want {
		t.Errorf("RetryAfter = %v, want %v", wait, want)
	}
}

func TestNilRateLimiterAllowsEverything(t *testing.T) {
	var l *quota.RateLimiter
	l.Record(toToken("a"), throttled(push.ScopeProject, time.Hour))
	mustAllow(t, l, toToken("a"))
	if l.RetryAfter(toToken("a")) != 0 || l.Status().Rate != 0 {
		t.Error("a nil rate limiter has a limit")
	}
}

func TestZeroConfigSetsNoLimit(t *testing.T) {
	l := quota.New(quota.Config{})
	for range 10_000 {
		mustAllow(t, l, toToken("a"))
	}
}

func TestDeviceRefusalClosesOnlyThatDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{})
		l.Record(toToken("a"), throttled(push.ScopeDevice, 30*time.Second))
		mustReject(t, l, toToken("a"), 30*time.Second)
		mustAllow(t, l, toToken("b"))
		mustAllow(t, l, toTopic("a"))
		time.Sleep(30 * time.Second)
		mustAllow(t, l, toToken("a"))
	})
}

func TestTopicRefusalClosesOnlyThatTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{})
		l.Record(toTopic("news"), throttled(push.ScopeTopic, time.Minute))
		mustReject(t, l, toTopic("news"), time.Minute)
		mustAllow(t, l, toTopic("sport"))
		mustAllow(t, l, toToken("news"))
	})
}

func TestProjectRefusalClosesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, scope := range []push.Scope{push.ScopeProject, push.ScopeCredential} {
			l := quota.New(quota.Config{})
			l.Record(toToken("a"), throttled(scope, time.Minute))
			mustReject(t, l, toToken("b"), time.Minute)
			mustReject(t, l, toTopic("news"), time.Minute)
			time.Sleep(time.Minute)
			mustAllow(t, l, toToken("b"))
		}
	})
}

func TestWaitersForClosedProjectArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 5}})
		l.Record(toToken("a"), throttled(push.ScopeProject, 2*time.Second))
		for i, want := range []time.Duration{2000, 2200, 2400} { // half the rate after the refusal
			if wait, ok := reserve(t, l, toToken("a"), 5*time.Second); !ok || wait != want*time.Millisecond {
				t.Errorf("reservation %d: Acquire = %v, %v; want a wait of %v ms", i, wait, ok, int(want))
			}
		}
	})
}

func TestDeviceLimitRejectsWithoutQueueing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Device: quota.Limit{Rate: 1}})
		mustAllow(t, l, toToken("a"))
		if wait, ok := reserve(t, l, toToken("a"), unlimitedWait); ok || wait != time.Second {
			t.Errorf("Acquire = %v, %v; want rejected for a second", wait, ok)
		}
	})
}

func TestOnlyThrottledOutcomeClosesScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{})
		for v := push.Unsent; v <= push.Expired; v++ {
			if v != push.Throttled {
				l.Record(toToken("a"), push.Outcome{Verdict: v, Scope: push.ScopeProject, RetryAfter: time.Hour})
			}
		}
		l.Record(toToken("a"), throttled(push.ScopeEndpoint, time.Hour))
		mustAllow(t, l, toToken("a"))

		l.Record(toToken("a"), throttled(push.ScopeProject, 10*time.Second))
		l.Record(toToken("a"), throttled(push.ScopeProject, 2*time.Second))
		mustReject(t, l, toToken("a"), 10*time.Second) // the longer Retry-After applies
	})
}

func TestClosedTimeIsBetweenOneSecondAndOneHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{})
		l.Record(toToken("a"), throttled(push.ScopeNone, 0))
		mustReject(t, l, toToken("a"), time.Second)
		l.Record(toToken("a"), throttled(push.ScopeCredential, 24*365*time.Hour))
		mustReject(t, l, toToken("a"), time.Hour)
	})
}

func TestAcquireQueuesBeyondBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 2}})
		for i, want := range []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond} {
			if wait, ok := reserve(t, l, toToken("a"), time.Second); !ok || wait != want {
				t.Errorf("reservation %d: Acquire = %v, %v; want a wait of %v", i, wait, ok, want)
			}
		}
	})
}

func TestRejectedAcquireTakesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 10}})
		mustAllow(t, l, toToken("a"))
		for range 1000 {
			if wait, ok := reserve(t, l, toToken("a"), 99*time.Millisecond); ok || wait != 100*time.Millisecond {
				t.Fatalf("Acquire = %v, %v; want rejected for 100 ms", wait, ok)
			}
		}
		time.Sleep(100 * time.Millisecond)
		mustAllow(t, l, toToken("a"))
	})
}

func TestDeviceFloodTakesNoTotalTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 10}, Device: quota.Limit{Rate: 1, Burst: 2}})
		for i := range 1000 {
			if _, ok := reserve(t, l, toToken("flooded"), unlimitedWait); ok != (i < 2) {
				t.Fatalf("attempt %d to the flooded device: allowed %v", i, ok)
			}
		}
		for i := range 8 { // the remaining tokens of the total
			mustAllow(t, l, toToken(fmt.Sprint("other", i)))
		}
	})
}

func TestTotalRejectionTakesNoDeviceToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1}, Device: quota.Limit{Rate: 0.01, Burst: 2}})
		mustAllow(t, l, toToken("a"))
		for range 100 {
			attempt(l, toToken("a"), 0)
		}
		time.Sleep(time.Second)
		mustAllow(t, l, toToken("a"))
	})
}

func TestRateHalvesAfterRefusalAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for range 64 { // refusals of all attempts in flight count once
			l.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
		}
		for _, c := range []struct {
			after time.Duration
			rate  float64
		}{{0, 50}, {time.Second, 50}, {2 * time.Second, 55}, {6 * time.Second, 75}, {11 * time.Second, 100}, {time.Minute, 100}} {
			start := time.Now()
			time.Sleep(c.after)
			if got := l.Status().Rate; math.Abs(got-c.rate) > 0.01 {
				t.Errorf("%v after the refusal: rate %v, want %v", c.after, got, c.rate)
			}
			time.Sleep(time.Minute - time.Since(start))
			l.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
		}
	})
}

func TestCredentialRefusalClosesWithoutLoweringRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, limit := range []quota.Limit{{}, {Rate: 100, Burst: 10}} {
			l := quota.New(quota.Config{Total: limit})
			for range 5 {
				mustAllow(t, l, toToken("a"))
			}
			for range 64 { // all attempts in flight
				l.Record(toToken("a"), throttled(push.ScopeCredential, time.Minute))
			}
			mustReject(t, l, toToken("b"), time.Minute)
			time.Sleep(time.Minute)
			mustAllow(t, l, toToken("b")) // the probe
			if wait, ok := reserve(t, l, toToken("c"), 999*time.Millisecond); ok || wait != time.Second {
				t.Errorf("Acquire = %v, %v; want a wait of one second after the probe", wait, ok)
			}
			time.Sleep(time.Second) // the probe was not refused
			for range 10 {
				mustAllow(t, l, toToken("c"))
			}
			if rate := l.Status().Rate; rate != limit.Rate {
				t.Errorf("rate %v, want %v", rate, limit.Rate)
			}
		}
	})
}

func TestCredentialProbeClosesScopeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{})
		start := time.Now()
		l.Record(toToken("a"), throttled(push.ScopeCredential, time.Minute))
		var mu sync.Mutex
		var wg sync.WaitGroup
		var sent []time.Duration
		for range 100 { // the credential is accepted again after 210 s
			wg.Go(func() {
				for acquire(l, toToken("a"), time.Hour) {
					mu.Lock()
					sent = append(sent, time.Since(start))
					mu.Unlock()
					if time.Since(start) > 210*time.Second {
						return
					}
					l.Record(toToken("a"), throttled(push.ScopeCredential, time.Minute))
				}
			})
		}
		wg.Wait()
		slices.Sort(sent)
		if len(sent) != 103 || sent[2] != 3*time.Minute || sent[3] != 4*time.Minute || sent[102] > 4*time.Minute+2*time.Second {
			t.Errorf("%d sent, the first at %v, the last at %v", len(sent), sent[:4], sent[len(sent)-1])
		}
	})
}

func TestRateHasMinimum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for range 50 {
			l.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
			time.Sleep(time.Second)
		}
		if got := l.Status().Rate; got < 5 {
			t.Errorf("rate %v, want at least 5", got)
		}
	})
}

func TestReopenedScopeHasNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 50}})
		l.Record(toToken("a"), throttled(push.ScopeProject, time.Minute))
		time.Sleep(time.Minute)
		mustAllow(t, l, toToken("a"))
		if wait, ok := reserve(t, l, toToken("b"), time.Second); !ok || wait != 20*time.Millisecond {
			t.Errorf("second attempt after reopening: Acquire = %v, %v; want a wait of 20 ms", wait, ok)
		}
	})
}

func TestTargetTableIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Device: quota.Limit{Rate: 1}, MaxTargets: 100})
		l.Record(toToken("closed"), throttled(push.ScopeDevice, time.Hour))
		for i := range 10_000 {
			attempt(l, toToken(fmt.Sprint("device", i)), 0)
			if i%50 == 0 && l.RetryAfter(toToken("closed")) == 0 {
				t.Fatal("a recently used device was evicted")
			}
		}
		if s := l.Status(); s.Targets != 100 || s.ClosedTargets != 1 {
			t.Errorf("Status = %+v, want 100 targets, 1 closed", s)
		}
	})
}

func TestStatusNamesNoDevice(t *testing.T) {
	l := quota.New(quota.Config{Total: quota.Limit{Rate: 7}})
	l.Record(toToken("5ecre7"), throttled(push.ScopeDevice, time.Minute))
	out, err := json.Marshal(l.Status())
	if err != nil || strings.Contains(string(out), "5ecre7") {
		t.Errorf("status %s, %v", out, err)
	}
}

// arrival is a step of a random schedule: a pause, then count concurrent attempts with maxWait, and
// then a refusal by the provider unless refusal is 0.
type arrival struct {
	pause, maxWait, refusal time.Duration
	count                   int
}

func drawSchedule(t *rapid.T) []arrival {
	upTo := func(limit time.Duration, label string) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(limit)).Draw(t, label))
	}
	return rapid.SliceOfN(rapid.Custom(func(*rapid.T) arrival {
		a := arrival{pause: upTo(2*time.Second, "pause"), maxWait: upTo(10*time.Second, "max wait")}
		if rapid.IntRange(0, 9).Draw(t, "refusal if 0") == 0 {
			a.refusal = upTo(5*time.Second, "refusal")
		}
		a.count = rapid.IntRange(0, 40).Draw(t, "count")
		return a
	}), 1, 40).Draw(t, "schedule")
}

// play runs the schedule and returns the times of the allowed attempts.
func play(l *quota.RateLimiter, schedule []arrival) (sent []time.Time) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, a := range schedule {
		time.Sleep(a.pause)
		for i := range a.count {
			wg.Go(func() {
				if acquire(l, toToken(fmt.Sprint(i)), a.maxWait) {
					mu.Lock()
					defer mu.Unlock()
					sent = append(sent, time.Now())
				}
			})
		}
		if a.refusal > 0 {
			l.Record(toToken("a"), throttled(push.ScopeProject, a.refusal))
		}
	}
	wg.Wait() // bounded by the bubble
	slices.SortFunc(sent, time.Time.Compare)
	return sent
}

// acquire waits for an attempt at n. It returns false if the attempt is rejected.
func acquire(l *quota.RateLimiter, n *push.Notification, maxWait time.Duration) bool {
	_, ok := attempt(l, n, maxWait)
	return ok
}

func TestRatePlusBurstHoldsInAnySecond(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := quota.Limit{
			Rate:  rapid.Float64Range(0.5, 200).Draw(r, "rate"),
			Burst: rapid.IntRange(1, 50).Draw(r, "burst"),
		}
		schedule := drawSchedule(r)
		var sent []time.Time
		synctest.Test(t, func(*testing.T) { sent = play(quota.New(quota.Config{Total: limit}), schedule) })
		first := 0
		for last := range sent {
			for sent[last].Sub(sent[first]) >= time.Second {
				first++
			}
			if n := last - first + 1; float64(n) > limit.Rate+float64(limit.Burst) {
				r.Fatalf("%d sent within one second, until %v", n, sent[last])
			}
		}
	})
}

func TestWholeQuotaIsUsedUnderOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1000}})
		var sent atomic.Int64
		var wg sync.WaitGroup
		for range 60_000 { // one minute, three per millisecond
			for range 3 {
				wg.Go(func() {
					if acquire(l, toToken("a"), 500*time.Millisecond) {
						sent.Add(1)
					}
				})
			}
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		if sent := sent.Load(); sent < 59_000 || sent > 61_000 {
			t.Errorf("sent %d in a minute with a limit of 1,000 per second", sent)
		}
	})
}

func BenchmarkAcquire(b *testing.B) {
	for name, cfg := range map[string]quota.Config{
		"no limit": {},
		"total":    {Total: quota.Limit{Rate: 1e9}},
		"device":   {Total: quota.Limit{Rate: 1e9}, Device: quota.Limit{Rate: 1e9}},
	} {
		b.Run(name, func(b *testing.B) {
			l, n := quota.New(cfg), toToken("a")
			b.ReportAllocs()
			for b.Loop() {
				_, _ = l.Acquire(b.Context(), n, time.Second)
			}
		})
	}
}
