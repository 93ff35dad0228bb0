// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

func fromApp(app string, lane push.Lane) *push.Notification {
	return &push.Notification{App: app, Lane: lane, Target: push.Target{Token: "t"}}
}

// turnCounter counts the allowed attempts by name.
type turnCounter struct {
	mu     sync.Mutex
	counts map[string]int
	order  []string
}

func (c *turnCounter) add(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[name]++
	c.order = append(c.order, name)
}

// drain returns the counts since the last call.
func (c *turnCounter) drain() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := c.counts
	c.counts = nil
	return counts
}

// startSenders starts senders that reserve attempts at n in a loop until stop is closed.
func startSenders(l *quota.RateLimiter, c *turnCounter, wg *sync.WaitGroup, stop <-chan struct{}, n *push.Notification, senders int) {
	for range senders {
		wg.Go(func() {
			for {
				res, _, ok := l.Reserve(n, time.Minute)
				if res != nil {
					select {
					case <-res.Ready():
					case <-stop:
						res.Cancel()
						return
					}
				}
				if !ok {
					return
				}
				c.add(n.App)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
}

func TestHigherLaneIsServedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 1}})
		mustAllow(t, l, toToken("takes the burst"))
		var c turnCounter
		var wg sync.WaitGroup
		for _, lane := range []push.Lane{push.LaneBulk, push.LaneNormal, push.LaneCritical, push.LaneBulk, push.LaneCritical} {
			wg.Go(func() {
				if acquire(l, fromApp(string(lane), lane), time.Minute) {
					c.add(string(lane))
				}
			})
			synctest.Wait()
		}
		if w := l.Status().Waiting; w != (quota.Waiting{Critical: 2, Normal: 1, Bulk: 2}) {
			t.Errorf("waiting: %+v", w)
		}
		wg.Wait()
		if got := fmt.Sprint(c.order); got != "[critical critical normal bulk bulk]" {
			t.Error(got)
		}
	})
}

func TestCriticalWaitsForOneTokenOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 1}})
		var c turnCounter
		var wg sync.WaitGroup
		stop := make(chan struct{})
		startSenders(l, &c, &wg, stop, fromApp("campaign", push.LaneBulk), 500)
		synctest.Wait()
		for range 100 {
			time.Sleep(37 * time.Millisecond)
			start := time.Now()
			if !acquire(l, fromApp("alarm", push.LaneCritical), time.Second) || time.Since(start) > 11*time.Millisecond {
				t.Fatalf("waited %v", time.Since(start))
			}
		}
		close(stop)
		wg.Wait()
	})
}

func TestAppsShareByWeightAndBorrowIdleShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1000}, Weights: map[string]int{"shop": 3}})
		var c turnCounter
		var wg, visitors sync.WaitGroup
		stop, stopVisitors := make(chan struct{}), make(chan struct{})
		startSenders(l, &c, &wg, stop, fromApp("bank", push.LaneNormal), 300)
		time.Sleep(10 * time.Second)
		c.drain()
		time.Sleep(10 * time.Second)
		if counts := c.drain(); counts["bank"] < 9900 {
			t.Errorf("single app: %v of 10,000", counts)
		}
		startSenders(l, &c, &visitors, stopVisitors, fromApp("shop", push.LaneNormal), 100)
		synctest.Wait()
		c.drain()
		time.Sleep(time.Second)
		if counts := c.drain(); counts["shop"] < 740 || counts["shop"] > 760 {
			t.Errorf("first second with weights 3 and 1: %v", counts)
		}
		close(stopVisitors)
		visitors.Wait()
		c.drain()
		time.Sleep(time.Second)
		if counts := c.drain(); counts["bank"] < 990 {
			t.Errorf("single app again: %v of 1,000", counts)
		}
		close(stop)
		wg.Wait()
	})
}

func TestCampaignDoesNotDelayOtherApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 1}})
		var c turnCounter
		var wg sync.WaitGroup
		stop := make(chan struct{})
		startSenders(l, &c, &wg, stop, fromApp("campaign", push.LaneNormal), 1000)
		synctest.Wait()
		if _, wait, ok := l.Reserve(fromApp("campaign", push.LaneNormal), time.Second); ok || wait < 9*time.Second {
			t.Errorf("next of the campaign: Reserve = %v, %v", wait, ok)
		}
		for range 20 {
			start := time.Now()
			if !acquire(l, fromApp("shop", push.LaneNormal), time.Second) || time.Since(start) > 30*time.Millisecond {
				t.Fatalf("waited %v", time.Since(start))
			}
			time.Sleep(50 * time.Millisecond)
		}
		close(stop)
		wg.Wait()
	})
}

func TestCancelledReservationTakesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, l, toToken("a"))
		for range 100 {
			res, _, ok := l.Reserve(toToken("a"), time.Hour)
			if !ok {
				t.Fatal("rejected")
			}
			res.Cancel()
			res.Cancel()
		}
		if _, wait, ok := l.Reserve(toToken("a"), time.Hour); !ok || wait != time.Second {
			t.Errorf("after the cancelled reservations: Reserve = %v, %v", wait, ok)
		}
	})
}

func TestWaiterIsRejectedWhenScopeClosesBeyondItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, l, toToken("a"))
		short, _, _ := l.Reserve(toToken("a"), 10*time.Second)
		long, _, _ := l.Reserve(toToken("a"), 10*time.Minute)
		l.Record(toToken("b"), throttled(push.ScopeProject, time.Minute))
		<-short.Ready()
		if short.RetryAfter() != time.Minute {
			t.Errorf("RetryAfter = %v, want a minute", short.RetryAfter())
		}
		start := time.Now()
		<-long.Ready()
		if long.RetryAfter() != 0 || time.Since(start) < time.Minute {
			t.Errorf("ready after %v, RetryAfter = %v", time.Since(start), long.RetryAfter())
		}
	})
}

func TestEveryReservationIsResolved(t *testing.T) {
	lanes := []push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}
	rapid.Check(t, func(r *rapid.T) {
		senders := rapid.IntRange(1, 80).Draw(r, "senders")
		weights := map[string]int{"0": rapid.IntRange(1, 9).Draw(r, "weight"), "1": 1}
		seed := rapid.IntRange(0, 1<<20).Draw(r, "seed")
		var c turnCounter
		synctest.Test(t, func(*testing.T) {
			l := quota.New(quota.Config{
				Total: quota.Limit{Rate: 20, Burst: 1}, Topics: quota.Limit{Rate: 15, Burst: 1}, Weights: weights,
				Scopes: []quota.Scope{{Name: "bulk", Lanes: lanes[2:], Limit: quota.Limit{Rate: 10, Burst: 1}}},
			})
			var wg sync.WaitGroup
			for i := range senders {
				n := fromApp(fmt.Sprint((seed+i)%3), lanes[(seed/3+i)%3])
				if i%4 == 0 {
					n.Target = push.Target{Topic: "news"}
				}
				wg.Go(func() {
					res, _, ok := l.Reserve(n, time.Hour)
					if res == nil {
						c.add(fmt.Sprint(ok))
						return
					}
					if i%5 == 0 {
						time.Sleep(time.Duration(seed%997) * time.Millisecond)
						res.Cancel()
						c.add("cancelled")
						return
					}
					<-res.Ready()
					c.add(fmt.Sprint(res.RetryAfter() == 0))
				})
			}
			wg.Wait()
			if w := l.Status().Waiting; w != (quota.Waiting{}) {
				c.add(fmt.Sprint(w))
			}
		})
		if counts := c.drain(); counts["true"]+counts["cancelled"] != senders {
			r.Fatalf("%v of %d senders", counts, senders)
		}
	})
}
