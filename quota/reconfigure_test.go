// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// setShare sets the share of the total for an hour.
func setShare(l *quota.RateLimiter, share float64) {
	l.SetShare(map[string]float64{quota.Total: share}, time.Now().Add(time.Hour), 0)
}

// countAllowed counts the attempts that are allowed within the given time.
func countAllowed(l *quota.RateLimiter, n *push.Notification, duration time.Duration) (count int) {
	for end := time.Now().Add(duration); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for {
			if _, ok := attempt(l, n, 0); !ok {
				break
			}
			count++
		}
	}
	return count
}

// checkCount checks that got is want or at most one burst, of a limit of 100 per second, more.
func checkCount(t *testing.T, what string, got, want int) {
	t.Helper()
	if got < want-1 || got > want+4 {
		t.Errorf("%s: %d allowed, want %d", what, got, want)
	}
}

func TestShareLimitsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for _, share := range []float64{0.5, 0.1, 1, 0, 0.25} {
			setShare(l, share)
			checkCount(t, fmt.Sprint("share ", share), countAllowed(l, toToken("a"), 10*time.Second), int(1000*share))
			if s := l.Status(); s.Share != share || s.Rate != 100*share || s.Limit != 100 {
				t.Errorf("share %v: status %+v", share, s)
			}
		}
	})
}

func TestShareExpiresToFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		l.SetShare(map[string]float64{quota.Total: 0.5}, time.Now().Add(2*time.Second), 0.01)
		checkCount(t, "two seconds with a share of 0.5 and eight with the fallback", countAllowed(l, toToken("a"), 10*time.Second), 100+8)
	})
}

func TestWaitForClosedProjectAssumesShareIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		renew := func() { l.SetShare(map[string]float64{quota.Total: 0.5}, time.Now().Add(5*time.Second), 0.001) }
		renew()
		l.Record(toToken("a"), throttled(push.ScopeProject, 10*time.Second))
		for i := range 2 {
			if wait, ok := reserve(t, l, toToken("a"), 11*time.Second); !ok || wait > 11*time.Second {
				t.Errorf("reservation %d: Acquire = %v, %v", i, wait, ok)
			}
		}
		time.Sleep(6 * time.Second)
		if s := l.Status(); s.Share != 0.001 {
			t.Errorf("expired share: status %+v", s)
		}
		renew()
		time.Sleep(4500 * time.Millisecond)
		if s := l.Status(); s.Waiting.Normal != 0 || s.Share != 0.5 {
			t.Errorf("renewed share: status %+v", s)
		}
	})
}

func TestTokensAccruedWhileIdleAreCappedWhenShareExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 1000}})
		l.SetShare(map[string]float64{quota.Total: 1}, time.Now().Add(time.Second), 0.1)
		for range 1000 {
			mustAllow(t, l, toToken("a"))
		}
		time.Sleep(3 * time.Second) // one second at 100 and two at 10 per second; the bucket then holds 100
		checkCount(t, "after the share has expired", countAllowed(l, toToken("a"), time.Millisecond), 100)
	})
}

func TestNewShareAppliesToWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		setShare(l, 0)
		start := time.Now()
		var mu sync.Mutex
		var last time.Duration
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if !acquire(l, toToken("a"), time.Minute) {
					t.Error("a waiter was rejected")
				}
				mu.Lock()
				defer mu.Unlock()
				last = max(last, time.Since(start))
			})
		}
		time.Sleep(300 * time.Millisecond)
		setShare(l, 1)
		wg.Wait()
		if last < 1200*time.Millisecond || last > 1310*time.Millisecond {
			t.Errorf("the last waiter was allowed after %v, want about 1.3 s", last)
		}
	})
}

func TestEachScopeHasItsOwnShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{
			Total: quota.Limit{Rate: 1000}, Topics: quota.Limit{Rate: 100}, Scopes: []quota.Scope{{Name: "ads", Apps: []string{"ads"}, Limit: quota.Limit{Rate: 100}}},
		})
		l.SetShare(map[string]float64{quota.Total: 1, quota.Topics: 0.5, "own/ads": 0.2}, time.Now().Add(time.Hour), 0)
		checkCount(t, "topics", countAllowed(l, toTopic("news"), 10*time.Second), 500)
		ads := toToken("a")
		ads.App = "ads"
		checkCount(t, "operator scope", countAllowed(l, ads, 10*time.Second), 200)
		if demand := l.Demand(); demand["own/ads"] < 9.9 || demand[quota.Total] > 0.1 {
			t.Errorf("demand after 1,000 requests per second: %v", demand)
		}
	})
}

func TestDemandCountsAllowedRejectedAndWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for range 4 {
			mustAllow(t, l, toToken("a")) // the burst
		}
		for range 6 {
			attempt(l, toToken("a"), 0)
		}
		for range 10 {
			go func() { _, _ = l.Acquire(t.Context(), toToken("a"), unlimitedWait) }()
		}
		synctest.Wait()
		if got := l.Demand()[quota.Total]; got != 0.2 {
			t.Errorf("Demand = %v, want 0.2", got)
		}
		if _, any := quota.New(quota.Config{}).Demand()[quota.Total]; any {
			t.Error("Demand is not empty without a limit")
		}
	})
}

func TestReconfigureKeepsBucketAndQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 10}})
		for range 10 {
			mustAllow(t, l, toToken("a"))
		}
		done := make(chan time.Duration, 1)
		start := time.Now()
		go func() { acquire(l, toToken("b"), time.Minute); done <- time.Since(start) }()
		synctest.Wait()
		l.Reconfigure(quota.Config{Total: quota.Limit{Rate: 2, Burst: 10}})
		if wait, ok := attempt(l, toToken("c"), 0); ok || wait != time.Second {
			t.Errorf("Acquire = %v, %v; want rejected for a second because the bucket is empty", wait, ok)
		}
		if took := <-done; took != 500*time.Millisecond {
			t.Errorf("the waiter was allowed after %v, want 500 ms", took)
		}
	})
}

func TestRemovingScopeReleasesItsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := quota.Scope{Name: "slow", Limit: quota.Limit{Rate: 0.01}}
		l := quota.New(quota.Config{Scopes: []quota.Scope{slow}})
		mustAllow(t, l, toToken("a"))
		start := time.Now()
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if !acquire(l, toToken("a"), time.Hour) || time.Since(start) > 2*time.Second {
					t.Errorf("waited for %v", time.Since(start))
				}
			})
		}
		time.Sleep(time.Second)
		l.Reconfigure(quota.Config{})
		wg.Wait()
		l.Reconfigure(quota.Config{Scopes: []quota.Scope{slow}})
		if s := l.Status().Scopes; len(s) != 1 || s[0].Name != "slow" {
			t.Errorf("scopes %+v, want slow", s)
		}
	})
}

func TestNewScopeStartsWithFallbackShare(t *testing.T) {
	l := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
	l.SetShare(map[string]float64{quota.Total: 0.5}, time.Now().Add(time.Hour), 0.02)
	l.Reconfigure(quota.Config{Total: quota.Limit{Rate: 200}, Topics: quota.Limit{Rate: 100}})
	if s := l.Status(); s.Rate != 100 || s.Scopes[0].Share != 0.02 {
		t.Errorf("status %+v", s)
	}
}

func TestDeviceLimitChangesForKnownDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Device: quota.Limit{Rate: 1, Burst: 5}, Collapsible: quota.Limit{Rate: 1, Burst: 5}})
		for range 5 {
			mustAllow(t, l, toToken("a"))
		}
		l.Reconfigure(quota.Config{Device: quota.Limit{Rate: 10, Burst: 5}})
		if wait, ok := attempt(l, toToken("a"), 0); ok || wait != 100*time.Millisecond {
			t.Errorf("Acquire = %v, %v; want rejected for 100 ms", wait, ok)
		}
	})
}

func TestNewWeightsApplyToWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := quota.Limit{Rate: 100}
		l := quota.New(quota.Config{Total: limit})
		start := time.Now()
		var mu sync.Mutex
		allowed := map[string]int{}
		var wg sync.WaitGroup
		for _, app := range []string{"a", "b"} {
			for range 200 {
				wg.Go(func() {
					n := toToken("t")
					n.App = app
					if acquire(l, n, time.Minute) && time.Since(start) < time.Second {
						mu.Lock()
						defer mu.Unlock()
						allowed[app]++
					}
				})
			}
		}
		synctest.Wait()
		l.Reconfigure(quota.Config{Total: limit, Weights: map[string]int{"a": 3}})
		wg.Wait()
		if allowed["a"] < 70 || allowed["a"] > 80 || allowed["b"] < 20 || allowed["b"] > 30 {
			t.Errorf("allowed %v, want three of a per b", allowed)
		}
	})
}

func TestPerLimitHoldsInAnyInterval(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := rapid.IntRange(1, 500).Draw(r, "limit")
		per := rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute}).Draw(r, "per")
		idle := time.Duration(rapid.Int64Range(0, int64(2*per)).Draw(r, "idle"))
		var sent []time.Time
		synctest.Test(t, func(*testing.T) {
			l := quota.New(quota.Config{Total: quota.Limit{Rate: float64(limit) / per.Seconds(), Per: per}})
			for _, pause := range []time.Duration{idle, 0} {
				for end := time.Now().Add(per * 3 / 2); time.Now().Before(end); {
					if acquire(l, toToken("a"), time.Hour) {
						sent = append(sent, time.Now())
					}
				}
				time.Sleep(pause)
			}
		})
		first, busiest := 0, 0
		for last := range sent {
			for sent[last].Sub(sent[first]) >= per {
				first++
			}
			busiest = max(busiest, last-first+1)
		}
		if busiest > limit || float64(busiest) < 0.999*float64(limit)-1 {
			r.Fatalf("%d sent in %v, want at most %d", busiest, per, limit)
		}
	})
}

// allowance is the configured rate and burst from a time on.
type allowance struct {
	at    time.Time
	rate  float64
	burst int
}

// allowedBetween returns the number of notifications that the allowances permit between two times,
// not counting the burst, and the burst at the start.
func allowedBetween(allowances []allowance, from, to time.Time) (sum float64, burst int) {
	for i, r := range allowances {
		begin, end := r.at, to
		if i+1 < len(allowances) && allowances[i+1].at.Before(to) {
			end = allowances[i+1].at
		}
		if begin.Before(from) {
			begin = from
		}
		if end.After(begin) {
			sum += r.rate * end.Sub(begin).Seconds()
		}
		if !r.at.After(from) {
			burst = r.burst
		}
	}
	return sum, burst
}

func TestLimitHoldsAcrossChanges(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		limit := quota.Limit{Rate: rapid.Float64Range(20, 200).Draw(r, "rate"), Burst: rapid.IntRange(1, 50).Draw(r, "burst")}
		changes := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) (c struct {
			pause, lasts    time.Duration
			share, fallback float64
			rate            float64
		}) {
			c.pause = time.Duration(rapid.Int64Range(1, int64(2*time.Second)).Draw(r, "pause"))
			c.lasts = time.Duration(rapid.Int64Range(1, int64(2*time.Second)).Draw(r, "lasts"))
			c.share, c.fallback = rapid.Float64Range(0, 1).Draw(r, "share"), rapid.Float64Range(0, 1).Draw(r, "fallback")
			if rapid.Bool().Draw(r, "change rate") {
				c.rate = rapid.Float64Range(20, 200).Draw(r, "new rate")
			}
			return c
		}), 1, 12).Draw(r, "changes")
		var sent []time.Time
		var allowances []allowance
		synctest.Test(t, func(*testing.T) {
			l := quota.New(quota.Config{Total: limit})
			allowances = append(allowances, allowance{time.Now(), limit.Rate, limit.Burst})
			done := make(chan struct{})
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						if acquire(l, toToken("a"), 700*time.Millisecond) {
							mu.Lock()
							sent = append(sent, time.Now())
							mu.Unlock()
						} else {
							time.Sleep(time.Millisecond)
						}
					}
				})
			}
			for _, c := range changes {
				time.Sleep(c.pause)
				if c.rate > 0 {
					limit.Rate = c.rate
					l.Reconfigure(quota.Config{Total: limit})
				}
				now := time.Now()
				l.SetShare(map[string]float64{quota.Total: c.share}, now.Add(c.lasts), c.fallback)
				allowances = slices.DeleteFunc(allowances, func(r allowance) bool { return r.at.After(now) })
				burst := func(share float64) int { return max(1, int(share*float64(limit.Burst))) }
				allowances = append(allowances, allowance{now, limit.Rate * c.share, burst(c.share)}, allowance{now.Add(c.lasts), limit.Rate * c.fallback, burst(c.fallback)})
			}
			time.Sleep(time.Second)
			close(done)
			wg.Wait()
		})
		slices.SortFunc(sent, time.Time.Compare)
		for first := range sent {
			for last := first; last < len(sent) && sent[last].Sub(sent[first]) <= time.Second; last += 1 + (last-first)/8 {
				sum, burst := allowedBetween(allowances, sent[first], sent[last])
				if n := last - first + 1; float64(n) > sum+float64(burst)+1e-3 {
					r.Fatalf("%d sent from %v to %v, want at most %v and a burst of %d", n, sent[first], sent[last], sum, burst)
				}
			}
		}
	})
}

// TestRateOfExactGrantIsNeverRefused sends at three times a quota of 6,000 per minute that is reset
// at the end of each minute, as FCM's is.
func TestRateOfExactGrantIsNeverRefused(t *testing.T) {
	const quotaPerMinute, minutes = 6000, 5
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: quotaPerMinute / 60, Per: time.Minute}})
		start, minute, left, accepted, refused := time.Now(), 0, quotaPerMinute, 0, 0
		for time.Since(start) < minutes*time.Minute {
			if _, ok := attempt(l, toToken("a"), 0); ok {
				if now := int(time.Since(start) / time.Minute); now > minute {
					minute, left = now, quotaPerMinute
				}
				if left--; left >= 0 {
					accepted++
				} else {
					refused++
					l.Record(toToken("a"), throttled(push.ScopeProject, time.Until(start.Add(time.Duration(minute+1)*time.Minute))))
				}
			}
			time.Sleep(time.Second / 300)
		}
		if refused > 0 || accepted < 0.98*quotaPerMinute*minutes {
			t.Errorf("%d accepted, %d refused", accepted, refused)
		}
		t.Logf("%.2f %% of the quota used", 100*float64(accepted)/quotaPerMinute/minutes)
	})
}
