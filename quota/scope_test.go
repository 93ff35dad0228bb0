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

// androidLimits are FCM's limits of an Android device.
var androidLimits = quota.Config{
	Device:      quota.Limit{Rate: 4, Burst: 240},
	Sustained:   quota.Limit{Rate: 5000. / 3600, Burst: 5000},
	Collapsible: quota.Limit{Rate: 1. / 180, Burst: 20},
}

// countSends sends as fast as allowed for the given duration.
func countSends(l *quota.RateLimiter, n *push.Notification, duration time.Duration) (sent int) {
	for end := time.Now().Add(duration); time.Now().Before(end); {
		wait, ok := attempt(l, n, 0)
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
		l := quota.New(androidLimits)
		if sent := countSends(l, toToken("a"), time.Second); sent < 240 || sent > 244 {
			t.Errorf("burst of %d, want 240", sent)
		}
		if sent := countSends(l, toToken("a"), time.Hour-time.Second); sent < 9000 || sent > 10_000 {
			t.Errorf("%d in the first hour, want a full bucket and its refill", sent)
		}
		if sent := countSends(l, toToken("a"), time.Hour); sent < 4990 || sent > 5010 {
			t.Errorf("%d in the next hour, want 5,000", sent)
		}
		mustAllow(t, l, toToken("b"))
	})
}

func TestCollapsibleLimitIsSeparate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(androidLimits)
		score := toToken("a")
		score.CollapseKey = "score"
		for range 20 {
			mustAllow(t, l, score)
		}
		mustReject := func() {
			t.Helper()
			if wait, ok := reserve(t, l, score, time.Minute); ok || wait != 3*time.Minute {
				t.Errorf("Acquire = %v, %v; want rejected for three minutes", wait, ok)
			}
		}
		mustReject()
		mustAllow(t, l, toToken("a"))
		mustAllow(t, l, toToken("b"))
		time.Sleep(3 * time.Minute)
		mustAllow(t, l, score)
		mustReject()
	})
}

func TestTopicsLimitDoesNotAffectTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Topics: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, l, toTopic("news"))
		if wait, ok := reserve(t, l, toTopic("sport"), time.Minute); wait != time.Second || !ok {
			t.Errorf("Acquire = %v, %v; want a wait of one second", wait, ok)
		}
		mustAllow(t, l, toToken("a"))
	})
}

func TestOperatorScopesLimitAppsAndLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1000, Burst: 100}, Scopes: []quota.Scope{
			{Name: "night", Lanes: []push.Lane{push.LaneBulk}, Limit: quota.Limit{Rate: 1, Burst: 1}},
			{Name: "shop", Apps: []string{"shop"}, Limit: quota.Limit{Rate: 2, Burst: 2}},
		}})
		mustAllow(t, l, fromApp("bank", push.LaneBulk))
		if wait, ok := reserve(t, l, fromApp("bank", push.LaneBulk), time.Minute); wait != time.Second || !ok {
			t.Errorf("second attempt in scope night: Acquire = %v, %v", wait, ok)
		}
		mustAllow(t, l, fromApp("bank", push.LaneNormal))
		mustAllow(t, l, fromApp("shop", push.LaneNormal))
		mustAllow(t, l, fromApp("shop", push.LaneCritical))
		if wait, ok := reserve(t, l, fromApp("shop", push.LaneCritical), time.Millisecond); wait != 500*time.Millisecond || ok {
			t.Errorf("third attempt in scope shop: Acquire = %v, %v", wait, ok)
		}
		if s := l.Status().Scopes; len(s) != 2 || s[0].Name != "night" || s[0].Waiting.Bulk != 1 || s[1].Limit != 2 {
			t.Errorf("scopes %+v", s)
		}
	})
}

func TestUnconfiguredRateIsLearnedFromRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{})
		for range 2000 { // four seconds at 500 per second
			mustAllow(t, l, toToken("a"))
			time.Sleep(2 * time.Millisecond)
		}
		l.Record(toToken("a"), throttled(push.ScopeProject, time.Second))
		checkRate := func(after time.Duration, want float64) {
			t.Helper()
			time.Sleep(after)
			if got := l.Status().Rate; math.Abs(got-want) > 0.05*want {
				t.Errorf("rate %v, want %v", got, want)
			}
		}
		checkRate(time.Second, 250)
		checkRate(10*time.Second, 500)
		checkRate(10*time.Second, 750)
		checkRate(11*time.Second, 0) // recovered to twice the learned rate: no limit
	})
}

func TestMemoryPerTarget(t *testing.T) {
	cfg := androidLimits
	cfg.MaxTargets = 20_000
	l := quota.New(cfg)
	before := heapBytes()
	for i := range 100_000 {
		n := toToken(fmt.Sprint(i))
		n.CollapseKey = "k"
		attempt(l, n, 0)
	}
	if each := float64(heapBytes()-before) / 20_000; each > 800 {
		t.Errorf("%.0f bytes per device, want at most 800", each)
	}
	runtime.KeepAlive(l)
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
