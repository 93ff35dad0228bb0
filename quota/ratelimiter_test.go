// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
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

// mustAllow fails the test unless g admits n at once.
func mustAllow(t *testing.T, g *quota.RateLimiter, n *push.Notification) {
	t.Helper()
	if _, wait, ok := g.Reserve(n, 0); !ok || wait != 0 {
		t.Errorf("Admit = %v, %v; want at once", wait, ok)
	}
}

// mustReject fails the test unless g refuses n, and says for how long.
func mustReject(t *testing.T, g *quota.RateLimiter, n *push.Notification, want time.Duration) {
	t.Helper()
	if _, wait, ok := g.Reserve(n, want-1); ok || wait != want {
		t.Errorf("Admit = %v, %v; want refused for %v", wait, ok, want)
	}
	if wait := g.RetryAfter(n); wait != want {
		t.Errorf("Closed = %v, want %v", wait, want)
	}
}

func TestNilRateLimiterAllowsEverything(t *testing.T) {
	var g *quota.RateLimiter
	g.Record(toToken("a"), throttled(push.ScopeProject, time.Hour))
	mustAllow(t, g, toToken("a"))
	if g.RetryAfter(toToken("a")) != 0 || g.Status().Rate != 0 {
		t.Error("a nil gate is closed")
	}
}

func TestZeroConfigSetsNoLimit(t *testing.T) {
	g := quota.New(quota.Config{})
	for range 10_000 {
		mustAllow(t, g, toToken("a"))
	}
}

func TestDeviceRefusalClosesOnlyThatDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{})
		g.Record(toToken("a"), throttled(push.ScopeDevice, 30*time.Second))
		mustReject(t, g, toToken("a"), 30*time.Second)
		mustAllow(t, g, toToken("b"))
		mustAllow(t, g, toTopic("a"))
		time.Sleep(30 * time.Second)
		mustAllow(t, g, toToken("a"))
	})
}

func TestTopicRefusalClosesOnlyThatTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{})
		g.Record(toTopic("news"), throttled(push.ScopeTopic, time.Minute))
		mustReject(t, g, toTopic("news"), time.Minute)
		mustAllow(t, g, toTopic("sport"))
		mustAllow(t, g, toToken("news"))
	})
}

func TestProjectRefusalClosesEverything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, scope := range []push.Scope{push.ScopeProject, push.ScopeCredential} {
			g := quota.New(quota.Config{})
			g.Record(toToken("a"), throttled(scope, time.Minute))
			mustReject(t, g, toToken("b"), time.Minute)
			mustReject(t, g, toTopic("news"), time.Minute)
			time.Sleep(time.Minute)
			mustAllow(t, g, toToken("b"))
		}
	})
}

func TestWaitersForClosedProjectArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 5}})
		g.Record(toToken("a"), throttled(push.ScopeProject, 2*time.Second))
		for i, want := range []time.Duration{2000, 2200, 2400} { // at half the rate
			if _, wait, ok := g.Reserve(toToken("a"), 5*time.Second); !ok || wait != want*time.Millisecond {
				t.Errorf("number %d: Admit = %v, %v; want to wait %v ms", i, wait, ok, int(want))
			}
		}
	})
}

func TestDeviceLimitRejectsWithoutQueueing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Device: quota.Limit{Rate: 1}})
		mustAllow(t, g, toToken("a"))
		if _, wait, ok := g.Reserve(toToken("a"), unlimitedWait); ok || wait != time.Second {
			t.Errorf("Admit = %v, %v; want refused for a second", wait, ok)
		}
	})
}

func TestOnlyThrottledOutcomeClosesScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{})
		for v := push.Unsent; v <= push.Expired; v++ {
			if v != push.Throttled {
				g.Record(toToken("a"), push.Outcome{Verdict: v, Scope: push.ScopeProject, RetryAfter: time.Hour})
			}
		}
		g.Record(toToken("a"), throttled(push.ScopeEndpoint, time.Hour))
		mustAllow(t, g, toToken("a"))

		g.Record(toToken("a"), throttled(push.ScopeProject, 10*time.Second))
		g.Record(toToken("a"), throttled(push.ScopeProject, 2*time.Second))
		mustReject(t, g, toToken("a"), 10*time.Second) // the longer wish stands
	})
}

func TestClosedTimeIsBetweenOneSecondAndOneHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{})
		g.Record(toToken("a"), throttled(push.ScopeNone, 0))
		mustReject(t, g, toToken("a"), time.Second)
		g.Record(toToken("a"), throttled(push.ScopeCredential, 24*365*time.Hour))
		mustReject(t, g, toToken("a"), time.Hour)
	})
}

func TestReserveQueuesBeyondBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 2}})
		for i, want := range []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond} {
			if _, wait, ok := g.Reserve(toToken("a"), time.Second); !ok || wait != want {
				t.Errorf("number %d: Admit = %v, %v; want to wait %v", i, wait, ok, want)
			}
		}
	})
}

func TestRejectedReserveTakesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 10}})
		mustAllow(t, g, toToken("a"))
		for range 1000 {
			if _, wait, ok := g.Reserve(toToken("a"), 99*time.Millisecond); ok || wait != 100*time.Millisecond {
				t.Fatalf("Admit = %v, %v; want refused for 100 ms", wait, ok)
			}
		}
		time.Sleep(100 * time.Millisecond)
		mustAllow(t, g, toToken("a"))
	})
}

func TestDeviceFloodTakesNoTotalTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 10}, Device: quota.Limit{Rate: 1, Burst: 2}})
		for i := range 1000 {
			if _, _, ok := g.Reserve(toToken("loud"), unlimitedWait); ok != (i < 2) {
				t.Fatalf("number %d to the loud device: admitted %v", i, ok)
			}
		}
		for i := range 8 { // what is left of the total's ten
			mustAllow(t, g, toToken(fmt.Sprint("quiet", i)))
		}
	})
}

func TestTotalRejectionTakesNoDeviceToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 1}, Device: quota.Limit{Rate: 0.01, Burst: 2}})
		mustAllow(t, g, toToken("a"))
		for range 100 {
			g.Reserve(toToken("a"), 0)
		}
		time.Sleep(time.Second)
		mustAllow(t, g, toToken("a"))
	})
}

func TestRateHalvesAfterRefusalAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for range 64 { // all that was in flight comes back refused: that is one refusal
			g.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
		}
		for _, c := range []struct {
			after time.Duration
			rate  float64
		}{{0, 50}, {time.Second, 50}, {2 * time.Second, 55}, {6 * time.Second, 75}, {11 * time.Second, 100}, {time.Minute, 100}} {
			began := time.Now()
			time.Sleep(c.after)
			if got := g.Status().Rate; math.Abs(got-c.rate) > 0.01 {
				t.Errorf("%v after the refusal the rate is %v, want %v", c.after, got, c.rate)
			}
			time.Sleep(time.Minute - time.Since(began))
			g.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
		}
	})
}

func TestCredentialRefusalClosesWithoutLoweringRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, limit := range []quota.Limit{{}, {Rate: 100, Burst: 10}} {
			g := quota.New(quota.Config{Total: limit})
			for range 5 {
				mustAllow(t, g, toToken("a"))
			}
			for range 64 { // all that was in flight
				g.Record(toToken("a"), throttled(push.ScopeCredential, time.Minute))
			}
			mustReject(t, g, toToken("b"), time.Minute)
			time.Sleep(time.Minute)
			mustAllow(t, g, toToken("b")) // goes ahead,
			if _, wait, ok := g.Reserve(toToken("c"), 999*time.Millisecond); ok || wait != time.Second {
				t.Errorf("Admit = %v, %v; want to follow a second later", wait, ok)
			}
			time.Sleep(time.Second) // and nobody has heard that it was refused
			for range 10 {
				mustAllow(t, g, toToken("c"))
			}
			if rate := g.Status().Rate; rate != limit.Rate {
				t.Errorf("the rate is %v, and was %v", rate, limit.Rate)
			}
		}
	})
}

func TestCredentialProbeClosesScopeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{})
		began := time.Now()
		g.Record(toToken("a"), throttled(push.ScopeCredential, time.Minute))
		var mu sync.Mutex
		var all sync.WaitGroup
		var sent []time.Duration
		for range 100 { // whose credential is taken again after three minutes and a half
			all.Go(func() {
				for acquire(g, toToken("a"), time.Hour) {
					mu.Lock()
					sent = append(sent, time.Since(began))
					mu.Unlock()
					if time.Since(began) > 210*time.Second {
						return
					}
					g.Record(toToken("a"), throttled(push.ScopeCredential, time.Minute))
				}
			})
		}
		all.Wait()
		slices.Sort(sent)
		if len(sent) != 103 || sent[2] != 3*time.Minute || sent[3] != 4*time.Minute || sent[102] > 4*time.Minute+2*time.Second {
			t.Errorf("%d were sent, the first at %v, the last at %v", len(sent), sent[:4], sent[len(sent)-1])
		}
	})
}

func TestRateHasMinimum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for range 50 {
			g.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
			time.Sleep(time.Second)
		}
		if got := g.Status().Rate; got < 5 {
			t.Errorf("the rate fell to %v", got)
		}
	})
}

func TestReopenedScopeHasNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 50}})
		g.Record(toToken("a"), throttled(push.ScopeProject, time.Minute))
		time.Sleep(time.Minute)
		mustAllow(t, g, toToken("a"))
		if _, wait, ok := g.Reserve(toToken("b"), time.Second); !ok || wait != 20*time.Millisecond {
			t.Errorf("the second after reopening: Admit = %v, %v; want to wait 20 ms", wait, ok)
		}
	})
}

func TestTargetTableIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Device: quota.Limit{Rate: 1}, MaxTargets: 100})
		g.Record(toToken("closed"), throttled(push.ScopeDevice, time.Hour))
		for i := range 10_000 {
			g.Reserve(toToken(fmt.Sprint("device", i)), 0)
			if i%50 == 0 && g.RetryAfter(toToken("closed")) == 0 {
				t.Fatal("a device that is asked for again and again was forgotten")
			}
		}
		if s := g.Status(); s.Targets != 100 || s.ClosedTargets != 1 {
			t.Errorf("Status = %+v, want 100 targets remembered, 1 closed", s)
		}
	})
}

func TestStatusNamesNoDevice(t *testing.T) {
	g := quota.New(quota.Config{Total: quota.Limit{Rate: 7}})
	g.Record(toToken("5ecre7"), throttled(push.ScopeDevice, time.Minute))
	out, err := json.Marshal(g.Status())
	if err != nil || strings.Contains(string(out), "5ecre7") {
		t.Errorf("status %s, %v", out, err)
	}
}

// arrival is a step of a random schedule: a pause, then so many at once, each
// ready to wait so long; and perhaps a refusal by the provider.
type arrival struct {
	pause, maxWait, refusal time.Duration
	count                   int
}

func drawSchedule(t *rapid.T) []arrival {
	upTo := func(longest time.Duration, label string) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(longest)).Draw(t, label))
	}
	return rapid.SliceOfN(rapid.Custom(func(*rapid.T) arrival {
		a := arrival{pause: upTo(2*time.Second, "pause"), maxWait: upTo(10*time.Second, "patience")}
		if rapid.IntRange(0, 9).Draw(t, "a refusal at 0") == 0 {
			a.refusal = upTo(5*time.Second, "refusal")
		}
		a.count = rapid.IntRange(0, 40).Draw(t, "count")
		return a
	}), 1, 40).Draw(t, "schedule")
}

// play runs the schedule and returns when each admitted one was sent.
func play(g *quota.RateLimiter, schedule []arrival) (sent []time.Time) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, a := range schedule {
		time.Sleep(a.pause)
		for i := range a.count {
			all.Go(func() {
				if acquire(g, toToken(fmt.Sprint(i)), a.maxWait) {
					mu.Lock()
					defer mu.Unlock()
					sent = append(sent, time.Now())
				}
			})
		}
		if a.refusal > 0 {
			g.Record(toToken("a"), throttled(push.ScopeProject, a.refusal))
		}
	}
	all.Wait()
	slices.SortFunc(sent, time.Time.Compare)
	return sent
}

// acquire waits at the gate as a sender does, and returns whether its turn came.
func acquire(g *quota.RateLimiter, n *push.Notification, patience time.Duration) bool {
	turn, _, ok := g.Reserve(n, patience)
	if turn == nil || !ok {
		return ok
	}
	select {
	case <-turn.Ready():
		return turn.RetryAfter() == 0
	case <-time.After(patience):
		turn.Cancel()
		return false
	}
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
				r.Fatalf("%d sent in one second at %v", n, sent[last])
			}
		}
	})
}

func TestWholeQuotaIsUsedUnderOverload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 1000}})
		sent := 0
		for range 60_000 { // a minute at 3,000 a second, in bunches of three
			for range 3 {
				if _, _, ok := g.Reserve(toToken("a"), 500*time.Millisecond); ok {
					sent++
				}
			}
			time.Sleep(time.Millisecond)
		}
		if sent < 59_000 || sent > 61_000 {
			t.Errorf("sent %d in a minute at 1,000 a second", sent)
		}
	})
}

func BenchmarkReserve(b *testing.B) {
	for name, cfg := range map[string]quota.Config{
		"nothing known": {},
		"total":         {Total: quota.Limit{Rate: 1e9}},
		"device":        {Total: quota.Limit{Rate: 1e9}, Device: quota.Limit{Rate: 1e9}},
	} {
		b.Run(name, func(b *testing.B) {
			g, n := quota.New(cfg), toToken("a")
			b.ReportAllocs()
			for b.Loop() {
				g.Reserve(n, time.Second)
			}
		})
	}
}
