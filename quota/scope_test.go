// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"fmt"
	"math"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// androidLimits is what Google grants an Android device.
var androidLimits = quota.Config{
	Device:      quota.Limit{Rate: 4, Burst: 240},
	Sustained:   quota.Limit{Rate: 5000. / 3600, Burst: 5000},
	Collapsible: quota.Limit{Rate: 1. / 180, Burst: 20},
}

// countSends sends to one device as often as the gate lets it, for so long.
func countSends(g *quota.RateLimiter, n *push.Notification, span time.Duration) (sent int) {
	for end := time.Now().Add(span); time.Now().Before(end); {
		_, wait, ok := g.Reserve(n, 0)
		if ok {
			sent++
			continue
		}
		time.Sleep(wait)
	}
	return sent
}

func TestDeviceAndSustainedLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(androidLimits)
		if sent := countSends(g, toToken("a"), time.Second); sent < 240 || sent > 244 {
			t.Errorf("%d at once, want its 240", sent)
		}
		if sent := countSends(g, toToken("a"), time.Hour-time.Second); sent < 9000 || sent > 10_000 {
			t.Errorf("%d in an hour, want a full hour's bucket and what flows into it", sent)
		}
		if sent := countSends(g, toToken("a"), time.Hour); sent < 4990 || sent > 5010 {
			t.Errorf("%d in the next hour, want 5,000", sent)
		}
		mustAllow(t, g, toToken("b"))
	})
}

func TestCollapsibleLimitIsSeparate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(androidLimits)
		score := toToken("a")
		score.CollapseKey = "score"
		for range 20 {
			mustAllow(t, g, score)
		}
		shut := func() {
			t.Helper()
			if _, wait, ok := g.Reserve(score, time.Minute); ok || wait != 3*time.Minute {
				t.Errorf("Admit = %v, %v; want refused for three minutes", wait, ok)
			}
		}
		shut()
		mustAllow(t, g, toToken("a"))
		mustAllow(t, g, toToken("b"))
		time.Sleep(3 * time.Minute)
		mustAllow(t, g, score)
		shut()
	})
}

func TestTopicsLimitDoesNotAffectTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Topics: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, g, toTopic("news"))
		if turn, wait, ok := g.Reserve(toTopic("sport"), time.Minute); turn == nil || wait != time.Second || !ok {
			t.Errorf("Admit = %v, %v; want to wait a second", wait, ok)
		}
		mustAllow(t, g, toToken("a"))
	})
}

func TestOperatorScopesLimitAppsAndLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 1000, Burst: 100}, Scopes: []quota.Scope{
			{Name: "night", Lanes: []push.Lane{push.LaneBulk}, Limit: quota.Limit{Rate: 1, Burst: 1}},
			{Name: "shop", Apps: []string{"shop"}, Limit: quota.Limit{Rate: 2, Burst: 2}},
		}})
		mustAllow(t, g, fromApp("bank", push.LaneBulk))
		if _, wait, ok := g.Reserve(fromApp("bank", push.LaneBulk), time.Minute); wait != time.Second || !ok {
			t.Errorf("the second of a scope of one a second: Admit = %v, %v", wait, ok)
		}
		mustAllow(t, g, fromApp("bank", push.LaneNormal))
		mustAllow(t, g, fromApp("shop", push.LaneNormal))
		mustAllow(t, g, fromApp("shop", push.LaneCritical))
		if _, wait, ok := g.Reserve(fromApp("shop", push.LaneCritical), time.Millisecond); wait != 500*time.Millisecond || ok {
			t.Errorf("the third of the shop: Admit = %v, %v", wait, ok)
		}
		if s := g.Status().Scopes; len(s) != 2 || s[0].Name != "night" || s[0].Waiting.Bulk != 1 || s[1].Limit != 2 {
			t.Errorf("%+v", s)
		}
	})
}

func TestUnconfiguredRateIsLearnedFromRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{})
		for range 2000 { // four seconds at 500 a second
			mustAllow(t, g, toToken("a"))
			time.Sleep(2 * time.Millisecond)
		}
		g.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
		at := func(after time.Duration, want float64) {
			t.Helper()
			time.Sleep(after)
			if got := g.Status().Rate; math.Abs(got-want) > 0.05*want {
				t.Errorf("rate %v, want %v", got, want)
			}
		}
		at(time.Second, 250)
		at(10*time.Second, 500)
		at(10*time.Second, 750)
		at(11*time.Second, 0) // twice as much went well: forgotten
	})
}

func TestMemoryPerTarget(t *testing.T) {
	cfg := androidLimits
	cfg.MaxTargets = 20_000
	g := quota.New(cfg)
	before := heapBytes()
	for i := range 100_000 {
		n := toToken(fmt.Sprint(i))
		n.CollapseKey = "k"
		g.Reserve(n, 0)
	}
	if each := float64(heapBytes()-before) / 20_000; each > 800 {
		t.Errorf("%.0f bytes for each device remembered", each)
	}
	runtime.KeepAlive(g)
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
