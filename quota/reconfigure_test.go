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

// setShare gives the gate a part of its total for as long as anybody looks.
func setShare(g *quota.RateLimiter, part float64) {
	g.SetShare(map[string]float64{quota.Total: part}, time.Now().Add(time.Hour), 0)
}

// countAllowed sends as much as goes, for so long, and returns how much went.
func countAllowed(g *quota.RateLimiter, n *push.Notification, long time.Duration) (count int) {
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(time.Millisecond) {
		for {
			if _, _, ok := g.Reserve(n, 0); !ok {
				break
			}
			count++
		}
	}
	return count
}

// checkCount fails the test unless got is want or at most one burst of a hundred a second more.
func checkCount(t *testing.T, what string, got, want int) {
	t.Helper()
	if got < want-1 || got > want+4 {
		t.Errorf("%s: %d were sent, want %d", what, got, want)
	}
}

func TestShareLimitsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for _, part := range []float64{0.5, 0.1, 1, 0, 0.25} {
			setShare(g, part)
			checkCount(t, fmt.Sprint("part ", part), countAllowed(g, toToken("a"), 10*time.Second), int(1000*part))
			if s := g.Status(); s.Share != part || s.Rate != 100*part || s.Limit != 100 {
				t.Errorf("with part %v the status is %+v", part, s)
			}
		}
	})
}

func TestShareExpiresToFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		g.SetShare(map[string]float64{quota.Total: 0.5}, time.Now().Add(2*time.Second), 0.01)
		checkCount(t, "ten seconds, of which two with a half", countAllowed(g, toToken("a"), 10*time.Second), 100+8)
	})
}

func TestWaitForClosedProjectAssumesShareIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		spend := func() { g.SetShare(map[string]float64{quota.Total: 0.5}, time.Now().Add(5*time.Second), 0.001) }
		spend()
		g.Record(toToken("a"), throttled(push.ScopeProject, 10*time.Second))
		for i := range 2 {
			if _, wait, ok := g.Reserve(toToken("a"), 11*time.Second); !ok || wait > 11*time.Second {
				t.Errorf("number %d: Admit = %v, %v", i, wait, ok)
			}
		}
		time.Sleep(6 * time.Second)
		if s := g.Status(); s.Share != 0.001 {
			t.Errorf("nobody has renewed it: %+v", s)
		}
		spend()
		time.Sleep(4500 * time.Millisecond)
		if s := g.Status(); s.Waiting.Normal != 0 || s.Share != 0.5 {
			t.Errorf("%+v", s)
		}
	})
}

func TestTokensAccruedWhileIdleAreCappedWhenShareExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 1000}})
		g.SetShare(map[string]float64{quota.Total: 1}, time.Now().Add(time.Second), 0.1)
		for range 1000 {
			mustAllow(t, g, toToken("a"))
		}
		time.Sleep(3 * time.Second) // one second at 100, two at 10, in a bucket of 100 then
		checkCount(t, "after it has ended", countAllowed(g, toToken("a"), time.Millisecond), 100)
	})
}

func TestNewShareAppliesToWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		setShare(g, 0)
		began := time.Now()
		var mu sync.Mutex
		var last time.Duration
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				if !acquire(g, toToken("a"), time.Minute) {
					t.Error("one was turned away")
				}
				mu.Lock()
				defer mu.Unlock()
				last = max(last, time.Since(began))
			})
		}
		time.Sleep(300 * time.Millisecond)
		setShare(g, 1)
		all.Wait()
		if last < 1200*time.Millisecond || last > 1310*time.Millisecond {
			t.Errorf("the last one went after %v, want about 1.3 s", last)
		}
	})
}

func TestEachScopeHasItsOwnShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{
			Total: quota.Limit{Rate: 1000}, Topics: quota.Limit{Rate: 100}, Scopes: []quota.Scope{{Name: "ads", Apps: []string{"ads"}, Limit: quota.Limit{Rate: 100}}},
		})
		g.SetShare(map[string]float64{quota.Total: 1, quota.Topics: 0.5, "own/ads": 0.2}, time.Now().Add(time.Hour), 0)
		checkCount(t, "topics", countAllowed(g, toTopic("news"), 10*time.Second), 500)
		ads := toToken("a")
		ads.App = "ads"
		checkCount(t, "the operator's scope", countAllowed(g, ads, 10*time.Second), 200)
		if wanted := g.Demand(); wanted["own/ads"] < 9.9 || wanted[quota.Total] > 0.1 {
			t.Errorf("a thousand a second were asked for: %v", wanted)
		}
	})
}

func TestDemandCountsAllowedRejectedAndWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		for range 4 {
			mustAllow(t, g, toToken("a")) // the burst
		}
		for range 6 {
			g.Reserve(toToken("a"), 0)
		}
		for range 10 {
			g.Reserve(toToken("a"), unlimitedWait)
		}
		if got := g.Demand()[quota.Total]; got != 0.2 {
			t.Errorf("Demand = %v, want 0.2", got)
		}
		if _, any := quota.New(quota.Config{}).Demand()[quota.Total]; any {
			t.Error("there is a demand where there is no limit")
		}
	})
}

func TestReconfigureKeepsBucketAndQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 10}})
		for range 10 {
			mustAllow(t, g, toToken("a"))
		}
		done := make(chan time.Duration, 1)
		began := time.Now()
		go func() { acquire(g, toToken("b"), time.Minute); done <- time.Since(began) }()
		synctest.Wait()
		g.Reconfigure(quota.Config{Total: quota.Limit{Rate: 2, Burst: 10}})
		if _, wait, ok := g.Reserve(toToken("c"), 0); ok || wait != time.Second {
			t.Errorf("Admit = %v, %v; want refused for a second: the bucket is as empty as it was", wait, ok)
		}
		if took := <-done; took != 500*time.Millisecond {
			t.Errorf("who waited went after %v", took)
		}
	})
}

func TestRemovingScopeReleasesItsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := quota.Scope{Name: "slow", Limit: quota.Limit{Rate: 0.01}}
		g := quota.New(quota.Config{Scopes: []quota.Scope{slow}})
		mustAllow(t, g, toToken("a"))
		began := time.Now()
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if !acquire(g, toToken("a"), time.Hour) || time.Since(began) > 2*time.Second {
					t.Errorf("one waited for %v", time.Since(began))
				}
			})
		}
		time.Sleep(time.Second)
		g.Reconfigure(quota.Config{})
		all.Wait()
		g.Reconfigure(quota.Config{Scopes: []quota.Scope{slow}})
		if s := g.Status().Scopes; len(s) != 1 || s[0].Name != "slow" {
			t.Errorf("the scopes are %+v", s)
		}
	})
}

func TestNewScopeStartsWithFallbackShare(t *testing.T) {
	g := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
	g.SetShare(map[string]float64{quota.Total: 0.5}, time.Now().Add(time.Hour), 0.02)
	g.Reconfigure(quota.Config{Total: quota.Limit{Rate: 200}, Topics: quota.Limit{Rate: 100}})
	if s := g.Status(); s.Rate != 100 || s.Scopes[0].Share != 0.02 {
		t.Errorf("the status is %+v", s)
	}
}

func TestDeviceLimitChangesForKnownDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Device: quota.Limit{Rate: 1, Burst: 5}, Collapsible: quota.Limit{Rate: 1, Burst: 5}})
		for range 5 {
			mustAllow(t, g, toToken("a"))
		}
		g.Reconfigure(quota.Config{Device: quota.Limit{Rate: 10, Burst: 5}})
		if _, wait, ok := g.Reserve(toToken("a"), 0); ok || wait != 100*time.Millisecond {
			t.Errorf("Admit = %v, %v; want refused for 100 ms", wait, ok)
		}
	})
}

func TestNewWeightsApplyToWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := quota.Limit{Rate: 100}
		g := quota.New(quota.Config{Total: limit})
		began := time.Now()
		var mu sync.Mutex
		went := map[string]int{}
		var all sync.WaitGroup
		for _, app := range []string{"a", "b"} {
			for range 200 {
				all.Go(func() {
					n := toToken("t")
					n.App = app
					if acquire(g, n, time.Minute) && time.Since(began) < time.Second {
						mu.Lock()
						defer mu.Unlock()
						went[app]++
					}
				})
			}
		}
		synctest.Wait()
		g.Reconfigure(quota.Config{Total: limit, Weights: map[string]int{"a": 3}})
		all.Wait()
		if went["a"] < 70 || went["a"] > 80 || went["b"] < 20 || went["b"] > 30 {
			t.Errorf("of those who waited went %v, want three of a for each of b", went)
		}
	})
}

func TestPerLimitHoldsInAnyInterval(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		most := rapid.IntRange(1, 500).Draw(r, "most")
		per := rapid.SampledFrom([]time.Duration{time.Second, 10 * time.Second, time.Minute}).Draw(r, "per")
		lull := time.Duration(rapid.Int64Range(0, int64(2*per)).Draw(r, "lull"))
		var sent []time.Time
		synctest.Test(t, func(*testing.T) {
			g := quota.New(quota.Config{Total: quota.Limit{Rate: float64(most) / per.Seconds(), Per: per}})
			for _, pause := range []time.Duration{lull, 0} {
				for end := time.Now().Add(per * 3 / 2); time.Now().Before(end); {
					if acquire(g, toToken("a"), time.Hour) {
						sent = append(sent, time.Now())
					}
				}
				time.Sleep(pause)
			}
		})
		first, best := 0, 0
		for last := range sent {
			for sent[last].Sub(sent[first]) >= per {
				first++
			}
			best = max(best, last-first+1)
		}
		if best > most || float64(best) < 0.999*float64(most)-1 {
			r.Fatalf("%d were sent in %v, and %d may be", best, per, most)
		}
	})
}

// allowance is what the gate was told at a time, and the rate that it allows from then on.
type allowance struct {
	at    time.Time
	rate  float64
	burst int
}

// allowedBetween returns what the rules let through from one time to another.
func allowedBetween(rules []allowance, from, to time.Time) (sum float64, burst int) {
	for i, r := range rules {
		begin, end := r.at, to
		if i+1 < len(rules) && rules[i+1].at.Before(to) {
			end = rules[i+1].at
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
			pause, lasts time.Duration
			part, rest   float64
			rate         float64
		}) {
			c.pause = time.Duration(rapid.Int64Range(1, int64(2*time.Second)).Draw(r, "pause"))
			c.lasts = time.Duration(rapid.Int64Range(1, int64(2*time.Second)).Draw(r, "lasts"))
			c.part, c.rest = rapid.Float64Range(0, 1).Draw(r, "part"), rapid.Float64Range(0, 1).Draw(r, "rest")
			if rapid.Bool().Draw(r, "another limit") {
				c.rate = rapid.Float64Range(20, 200).Draw(r, "another rate")
			}
			return c
		}), 1, 12).Draw(r, "changes")
		var sent []time.Time
		var rules []allowance
		synctest.Test(t, func(*testing.T) {
			g := quota.New(quota.Config{Total: limit})
			rules = append(rules, allowance{time.Now(), limit.Rate, limit.Burst})
			over := make(chan struct{})
			var mu sync.Mutex
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for {
						select {
						case <-over:
							return
						default:
						}
						if acquire(g, toToken("a"), 700*time.Millisecond) {
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
					g.Reconfigure(quota.Config{Total: limit})
				}
				now := time.Now()
				g.SetShare(map[string]float64{quota.Total: c.part}, now.Add(c.lasts), c.rest)
				rules = slices.DeleteFunc(rules, func(r allowance) bool { return r.at.After(now) })
				size := func(part float64) int { return max(1, int(part*float64(limit.Burst))) }
				rules = append(rules, allowance{now, limit.Rate * c.part, size(c.part)}, allowance{now.Add(c.lasts), limit.Rate * c.rest, size(c.rest)})
			}
			time.Sleep(time.Second)
			close(over)
			all.Wait()
		})
		slices.SortFunc(sent, time.Time.Compare)
		for first := range sent {
			for last := first; last < len(sent) && sent[last].Sub(sent[first]) <= time.Second; last += 1 + (last-first)/8 {
				sum, burst := allowedBetween(rules, sent[first], sent[last])
				if n := last - first + 1; float64(n) > sum+float64(burst)+1e-3 {
					r.Fatalf("%d sent from %v to %v; the rules allow %v and a burst of %d", n, sent[first], sent[last], sum, burst)
				}
			}
		}
	})
}

// TestRateOfExactGrantIsNeverRefused offers three times a quota of 6,000 a minute, all of which comes back at the end of
// each minute, as FCM's does.
func TestRateOfExactGrantIsNeverRefused(t *testing.T) {
	const granted, minutes = 6000, 5
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: granted / 60, Per: time.Minute}})
		began, minute, left, accepted, refused := time.Now(), 0, granted, 0, 0
		for time.Since(began) < minutes*time.Minute {
			if _, _, ok := g.Reserve(toToken("a"), 0); ok {
				if now := int(time.Since(began) / time.Minute); now > minute {
					minute, left = now, granted
				}
				if left--; left >= 0 {
					accepted++
				} else {
					refused++
					g.Record(toToken("a"), throttled(push.ScopeProject, time.Until(began.Add(time.Duration(minute+1)*time.Minute))))
				}
			}
			time.Sleep(time.Second / 300)
		}
		if refused > 0 || accepted < 0.98*granted*minutes {
			t.Errorf("%d accepted, %d refused", accepted, refused)
		}
		t.Logf("%.2f %% of the grant", 100*float64(accepted)/granted/minutes)
	})
}
