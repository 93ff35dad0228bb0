// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// step is a step of the property test of TryAcquireN.
type step struct {
	sleep  time.Duration
	run    []*push.Notification
	unused int // of those allowed
	refuse push.Scope
}

func drawStep(t *rapid.T) step {
	s := step{
		sleep:  time.Duration(rapid.IntRange(0, 300).Draw(t, "milliseconds")) * time.Millisecond,
		unused: rapid.IntRange(0, 8).Draw(t, "unused"),
		refuse: rapid.SampledFrom([]push.Scope{push.ScopeNone, push.ScopeNone, push.ScopeNone, push.ScopeDevice, push.ScopeProject, push.ScopeCredential}).Draw(t, "refuse"),
	}
	for range rapid.IntRange(1, 64).Draw(t, "size") {
		n := fromApp("shop", rapid.SampledFrom([]push.Lane{"", "", "", "", "", "", "", push.LaneBulk}).Draw(t, "lane"))
		n.Target.Token = fmt.Sprint(rapid.IntRange(0, 40).Draw(t, "token"))
		if rapid.IntRange(0, 9).Draw(t, "topic") == 0 {
			n.Target = push.Target{Topic: "news"}
		}
		s.run = append(s.run, n)
	}
	return s
}

// allowEach calls TryAcquireN for single notifications until one is rejected or has other scopes
// than the first.
func allowEach(l *quota.RateLimiter, ns []*push.Notification) (allowed int) {
	for allowed < len(ns) {
		n := ns[allowed]
		if n.Lane != ns[0].Lane || n.Target.Topic != ns[0].Target.Topic || l.TryAcquireN(ns[allowed:allowed+1]) == 0 {
			break
		}
		allowed++
	}
	return allowed
}

func TestTryAcquireNEqualsSingleAttempts(t *testing.T) {
	limit := func(t *rapid.T, name string) quota.Limit {
		return quota.Limit{Rate: float64(rapid.SampledFrom([]int{0, 0, 5, 100}).Draw(t, name)), Burst: rapid.SampledFrom([]int{0, 3, 50}).Draw(t, name+" burst")}
	}
	rapid.Check(t, func(rt *rapid.T) {
		cfg := quota.Config{Total: limit(rt, "total"), Topics: limit(rt, "topics"), Device: limit(rt, "device"), Collapsible: limit(rt, "collapsible")}
		if rapid.Bool().Draw(rt, "scope") {
			cfg.Scopes = []quota.Scope{{Name: "bulk", Lanes: []push.Lane{push.LaneBulk}, Limit: limit(rt, "bulk")}}
		}
		steps := rapid.SliceOfN(rapid.Custom(drawStep), 1, 20).Draw(rt, "steps")
		var failure string
		synctest.Test(t, func(*testing.T) {
			together, single := quota.New(cfg), quota.New(cfg)
			for i, s := range steps {
				time.Sleep(s.sleep)
				got, want := together.TryAcquireN(s.run), allowEach(single, s.run)
				if got != want {
					failure = fmt.Sprintf("step %d: TryAcquireN allows %d, single calls %d", i, got, want)
					return
				}
				unused := s.run[got-min(got, s.unused) : got]
				together.Return(unused)
				for k := range unused {
					single.Return(unused[k : k+1])
				}
				if s.refuse != push.ScopeNone {
					together.Record(s.run[0], throttled(s.refuse, time.Second))
					single.Record(s.run[0], throttled(s.refuse, time.Second))
				}
			}
			if !maps.Equal(together.Demand(), single.Demand()) {
				failure = fmt.Sprintf("demand %v, with single calls %v", together.Demand(), single.Demand())
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

func TestTryAcquireNDoesNotOvertakeWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 1}})
		mustAllow(t, l, toToken("takes the burst"))
		go acquire(l, fromApp("shop", push.LaneNormal), time.Second)
		synctest.Wait()
		for lane, want := range map[push.Lane]int{push.LaneBulk: 0, push.LaneNormal: 0} {
			if got := l.TryAcquireN([]*push.Notification{fromApp("bank", lane)}); got != want {
				t.Errorf("lane %s: %d allowed", lane, got)
			}
		}
		time.Sleep(200 * time.Millisecond)
		if got := l.TryAcquireN([]*push.Notification{fromApp("bank", push.LaneBulk), fromApp("bank", push.LaneBulk)}); got != 1 {
			t.Errorf("%d allowed after the waiter, want the one token", got)
		}
	})
}

func TestReturnedTokensGoToWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 0.1, Burst: 4}, Device: quota.Limit{Rate: 0.1}})
		run := []*push.Notification{toToken("a"), toToken("b"), toToken("c"), toToken("d"), toToken("e")}
		if got := l.TryAcquireN(run); got != 4 {
			t.Fatalf("%d allowed, want the burst of four", got)
		}
		start := time.Now()
		time.AfterFunc(time.Second, func() { l.Return(run[2:4]) })
		if !acquire(l, toToken("e"), 10*time.Second) || time.Since(start) > 1100*time.Millisecond {
			t.Errorf("acquired after %v, want about a second", time.Since(start))
		}
		mustAllow(t, l, toToken("c"))
		if got := l.TryAcquireN(run[3:]); got != 0 {
			t.Errorf("%d allowed beyond the returned tokens", got)
		}
	})
}

func TestNilRateLimiterAllowsWholeRun(t *testing.T) {
	var l *quota.RateLimiter
	run := []*push.Notification{toToken("a"), toToken("b")}
	if got := l.TryAcquireN(run); got != 2 {
		t.Errorf("%d allowed", got)
	}
	l.Return(run)
	if got := quota.New(quota.Config{}).TryAcquireN(nil); got != 0 {
		t.Errorf("%d of none allowed", got)
	}
}

func BenchmarkTryAcquireN(b *testing.B) {
	run := make([]*push.Notification, 64)
	for i := range run {
		run[i] = toToken(fmt.Sprint(i))
	}
	for name, cfg := range map[string]quota.Config{
		"no limit": {},
		"total":    {Total: quota.Limit{Rate: 1e12}},
		"device":   {Total: quota.Limit{Rate: 1e12}, Device: quota.Limit{Rate: 1e12}},
	} {
		b.Run(name, func(b *testing.B) {
			l := quota.New(cfg)
			b.ReportAllocs()
			for b.Loop() {
				l.TryAcquireN(run)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/64, "ns/notification")
		})
	}
}
