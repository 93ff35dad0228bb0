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

// turnCounter counts who has had a turn.
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

// drain returns the counts since the last time.
func (c *turnCounter) drain() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	had := c.counts
	c.counts = nil
	return had
}

// startSenders has so many senders of an app stand in line; each that has had its turn comes again, until stop is closed.
func startSenders(g *quota.RateLimiter, c *turnCounter, all *sync.WaitGroup, stop <-chan struct{}, n *push.Notification, senders int) {
	for range senders {
		all.Go(func() {
			for {
				turn, _, ok := g.Reserve(n, time.Minute)
				if turn != nil {
					select {
					case <-turn.Ready():
					case <-stop:
						turn.Cancel()
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
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 1}})
		mustAllow(t, g, toToken("takes the place at hand"))
		var c turnCounter
		var all sync.WaitGroup
		for _, lane := range []push.Lane{push.LaneBulk, push.LaneNormal, push.LaneCritical, push.LaneBulk, push.LaneCritical} {
			all.Go(func() {
				if acquire(g, fromApp(string(lane), lane), time.Minute) {
					c.add(string(lane))
				}
			})
			synctest.Wait()
		}
		if w := g.Status().Waiting; w != (quota.Waiting{Critical: 2, Normal: 1, Bulk: 2}) {
			t.Errorf("in line: %+v", w)
		}
		all.Wait()
		if got := fmt.Sprint(c.order); got != "[critical critical normal bulk bulk]" {
			t.Error(got)
		}
	})
}

func TestCriticalWaitsForOneTokenOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 1}})
		var c turnCounter
		var all sync.WaitGroup
		stop := make(chan struct{})
		startSenders(g, &c, &all, stop, fromApp("campaign", push.LaneBulk), 500)
		synctest.Wait()
		for range 100 {
			time.Sleep(37 * time.Millisecond)
			began := time.Now()
			if !acquire(g, fromApp("alarm", push.LaneCritical), time.Second) || time.Since(began) > 11*time.Millisecond {
				t.Fatalf("waited %v", time.Since(began))
			}
		}
		close(stop)
		all.Wait()
	})
}

func TestAppsShareByWeightAndBorrowIdleShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 1000}, Weights: map[string]int{"shop": 3}})
		var c turnCounter
		var all, visit sync.WaitGroup
		stop, leave := make(chan struct{}), make(chan struct{})
		startSenders(g, &c, &all, stop, fromApp("bank", push.LaneNormal), 300)
		time.Sleep(10 * time.Second)
		c.drain()
		time.Sleep(10 * time.Second)
		if had := c.drain(); had["bank"] < 9900 {
			t.Errorf("alone: %v of 10,000", had)
		}
		startSenders(g, &c, &visit, leave, fromApp("shop", push.LaneNormal), 100)
		synctest.Wait()
		c.drain()
		time.Sleep(time.Second)
		if had := c.drain(); had["shop"] < 740 || had["shop"] > 760 {
			t.Errorf("in the first second of two with weights 3 and 1: %v", had)
		}
		close(leave)
		visit.Wait()
		c.drain()
		time.Sleep(time.Second)
		if had := c.drain(); had["bank"] < 990 {
			t.Errorf("alone again: %v of 1,000", had)
		}
		close(stop)
		all.Wait()
	})
}

func TestCampaignDoesNotDelayOtherApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 1}})
		var c turnCounter
		var all sync.WaitGroup
		stop := make(chan struct{})
		startSenders(g, &c, &all, stop, fromApp("campaign", push.LaneNormal), 1000)
		synctest.Wait()
		if _, wait, ok := g.Reserve(fromApp("campaign", push.LaneNormal), time.Second); ok || wait < 9*time.Second {
			t.Errorf("the campaign's next: Admit = %v, %v", wait, ok)
		}
		for range 20 {
			began := time.Now()
			if !acquire(g, fromApp("shop", push.LaneNormal), time.Second) || time.Since(began) > 30*time.Millisecond {
				t.Fatalf("waited %v", time.Since(began))
			}
			time.Sleep(50 * time.Millisecond)
		}
		close(stop)
		all.Wait()
	})
}

func TestCancelledReservationTakesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, g, toToken("a"))
		for range 100 {
			turn, _, ok := g.Reserve(toToken("a"), time.Hour)
			if !ok {
				t.Fatal("refused")
			}
			turn.Cancel()
			turn.Cancel()
		}
		if _, wait, ok := g.Reserve(toToken("a"), time.Hour); !ok || wait != time.Second {
			t.Errorf("behind those who have left: Admit = %v, %v", wait, ok)
		}
	})
}

func TestWaiterIsRejectedWhenScopeClosesBeyondItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, g, toToken("a"))
		short, _, _ := g.Reserve(toToken("a"), 10*time.Second)
		long, _, _ := g.Reserve(toToken("a"), 10*time.Minute)
		g.Record(toToken("b"), throttled(push.ScopeProject, time.Minute))
		<-short.Ready()
		if short.RetryAfter() != time.Minute {
			t.Errorf("told to stay away for %v", short.RetryAfter())
		}
		began := time.Now()
		<-long.Ready()
		if long.RetryAfter() != 0 || time.Since(began) < time.Minute {
			t.Errorf("its turn came after %v, %v", time.Since(began), long.RetryAfter())
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
			g := quota.New(quota.Config{
				Total: quota.Limit{Rate: 20, Burst: 1}, Topics: quota.Limit{Rate: 15, Burst: 1}, Weights: weights,
				Scopes: []quota.Scope{{Name: "bulk", Lanes: lanes[2:], Limit: quota.Limit{Rate: 10, Burst: 1}}},
			})
			var all sync.WaitGroup
			for i := range senders {
				n := fromApp(fmt.Sprint((seed+i)%3), lanes[(seed/3+i)%3])
				if i%4 == 0 {
					n.Target = push.Target{Topic: "news"}
				}
				all.Go(func() {
					turn, _, ok := g.Reserve(n, time.Hour)
					if turn == nil {
						c.add(fmt.Sprint(ok))
						return
					}
					if i%5 == 0 {
						time.Sleep(time.Duration(seed%997) * time.Millisecond)
						turn.Cancel()
						c.add("left")
						return
					}
					<-turn.Ready()
					c.add(fmt.Sprint(turn.RetryAfter() == 0))
				})
			}
			all.Wait()
			if w := g.Status().Waiting; w != (quota.Waiting{}) {
				c.add(fmt.Sprint(w))
			}
		})
		if had := c.drain(); had["true"]+had["left"] != senders {
			r.Fatalf("%v of %d", had, senders)
		}
	})
}
