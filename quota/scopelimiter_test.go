// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"context"
	"errors"
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

// startSenders starts senders that make attempts at n in a loop until ctx ends.
func startSenders(ctx context.Context, l *quota.RateLimiter, c *turnCounter, wg *sync.WaitGroup, n *push.Notification, senders int) {
	for range senders {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := l.Acquire(ctx, n, time.Minute); err != nil {
					return
				}
				c.add(n.App)
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
		ctx, stop := context.WithCancel(t.Context())
		startSenders(ctx, l, &c, &wg, fromApp("campaign", push.LaneBulk), 500)
		synctest.Wait()
		for range 100 {
			time.Sleep(37 * time.Millisecond)
			start := time.Now()
			if !acquire(l, fromApp("alarm", push.LaneCritical), time.Second) || time.Since(start) > 11*time.Millisecond {
				t.Fatalf("waited %v", time.Since(start))
			}
		}
		stop()
		wg.Wait()
	})
}

func TestAppsShareByWeightAndBorrowIdleShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1000}, Weights: map[string]int{"shop": 3}})
		var c turnCounter
		var wg, visitors sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		visits, stopVisitors := context.WithCancel(t.Context())
		startSenders(ctx, l, &c, &wg, fromApp("bank", push.LaneNormal), 300)
		time.Sleep(10 * time.Second)
		c.drain()
		time.Sleep(10 * time.Second)
		if counts := c.drain(); counts["bank"] < 9900 {
			t.Errorf("single app: %v of 10,000", counts)
		}
		startSenders(visits, l, &c, &visitors, fromApp("shop", push.LaneNormal), 100)
		synctest.Wait()
		c.drain()
		time.Sleep(time.Second)
		if counts := c.drain(); counts["shop"] < 740 || counts["shop"] > 760 {
			t.Errorf("first second with weights 3 and 1: %v", counts)
		}
		stopVisitors()
		visitors.Wait()
		c.drain()
		time.Sleep(time.Second)
		if counts := c.drain(); counts["bank"] < 990 {
			t.Errorf("single app again: %v of 1,000", counts)
		}
		stop()
		wg.Wait()
	})
}

func TestCampaignDoesNotDelayOtherApps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 1}})
		var c turnCounter
		var wg sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		startSenders(ctx, l, &c, &wg, fromApp("campaign", push.LaneNormal), 1000)
		synctest.Wait()
		if wait, ok := reserve(t, l, fromApp("campaign", push.LaneNormal), time.Second); ok || wait < 9*time.Second {
			t.Errorf("next of the campaign: Acquire = %v, %v", wait, ok)
		}
		for range 20 {
			start := time.Now()
			if !acquire(l, fromApp("shop", push.LaneNormal), time.Second) || time.Since(start) > 30*time.Millisecond {
				t.Fatalf("waited %v", time.Since(start))
			}
			time.Sleep(50 * time.Millisecond)
		}
		stop()
		wg.Wait()
	})
}

func TestCancelledWaitTakesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, l, toToken("a"))
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				_, err := l.Acquire(ctx, toToken("a"), time.Hour)
				done <- err
			}()
			synctest.Wait()
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		if wait, ok := reserve(t, l, toToken("a"), time.Hour); !ok || wait != time.Second {
			t.Errorf("after the cancelled waits: Acquire = %v, %v", wait, ok)
		}
	})
}

func TestCancellationAtDispatchLosesNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, l, toToken("a"))
		for i := range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second) // when the token becomes available
			_, err := l.Acquire(ctx, toToken("a"), time.Hour)
			cancel()
			if _, ok := attempt(l, toToken("a"), 0); ok != (err != nil) {
				t.Fatalf("round %d: after the error %v, another attempt is allowed: %v", i, err, ok)
			}
		}
	})
}

func TestCancelledWaitReturnsTokensOfPassedScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 0.1, Burst: 1}, Topics: quota.Limit{Rate: 0.01, Burst: 1}, Topic: quota.Limit{Rate: 0.01, Burst: 1}})
		mustAllow(t, l, toToken("takes the total"))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if wait, err := l.Acquire(ctx, toTopic("news"), time.Minute); wait != 5*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waited %v, %v", wait, err)
		}
		if wait, ok := attempt(l, toTopic("news"), 0); ok || wait != 5*time.Second {
			t.Errorf("Acquire = %v, %v; want only the total to reject", wait, ok)
		}
		if wait, err := l.Acquire(t.Context(), toTopic("news"), time.Minute); wait != 5*time.Second || err != nil {
			t.Errorf("waited %v, %v", wait, err)
		}
	})
}

func TestScopeThatClosesDuringWaitRejectsAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Topics: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, l, toTopic("news"))
		time.AfterFunc(time.Second/2, func() { l.Record(toToken("a"), throttled(push.ScopeProject, time.Minute)) })
		start := time.Now()
		wait, err := l.Acquire(t.Context(), toTopic("news"), 10*time.Second)
		rejected, ok := errors.AsType[*push.RejectedError](err)
		if !ok || rejected.RetryAfter != time.Minute-wait+time.Second/2 || wait != time.Since(start) || wait != time.Second {
			t.Errorf("after %v: %v", wait, err)
		}
	})
}

func TestWaiterIsRejectedWhenScopeClosesBeyondItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		mustAllow(t, l, toToken("a"))
		var wg sync.WaitGroup
		wg.Go(func() {
			if wait, ok := attempt(l, toToken("a"), 10*time.Second); ok || wait != time.Minute {
				t.Errorf("Acquire = %v, %v; want rejected for a minute", wait, ok)
			}
		})
		synctest.Wait()
		start := time.Now()
		wg.Go(func() {
			if !acquire(l, toToken("a"), 10*time.Minute) || time.Since(start) < time.Minute {
				t.Errorf("allowed or rejected after %v", time.Since(start))
			}
		})
		synctest.Wait()
		l.Record(toToken("b"), throttled(push.ScopeProject, time.Minute))
		wg.Wait()
	})
}

func TestEveryWaitEnds(t *testing.T) {
	lanes := []push.Lane{push.LaneCritical, push.LaneNormal, push.LaneBulk}
	rapid.Check(t, func(r *rapid.T) {
		senders := rapid.IntRange(1, 80).Draw(r, "senders")
		weights := map[string]int{"0": rapid.IntRange(1, 9).Draw(r, "weight"), "1": 1}
		seed := rapid.IntRange(0, 1<<20).Draw(r, "seed")
		var c turnCounter
		synctest.Test(t, func(t *testing.T) {
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
					ctx := t.Context()
					if i%5 == 0 {
						var cancel context.CancelFunc
						ctx, cancel = context.WithTimeout(ctx, time.Duration(seed%997)*time.Millisecond)
						defer cancel()
					}
					_, err := l.Acquire(ctx, n, time.Hour)
					if errors.Is(err, context.DeadlineExceeded) {
						c.add("cancelled")
						return
					}
					c.add(fmt.Sprint(err == nil))
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
