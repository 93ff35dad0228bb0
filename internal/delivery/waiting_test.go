// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/wire"
)

func TestThrottledDeviceDoesNotBlockOtherDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, n *push.Notification, _ int, _ string) push.Outcome {
			if n.ID == "device" {
				return throttled(push.ScopeDevice, time.Minute)
			}
			return accepted
		}}
		r := newRoute(t, s, 4)
		r.RateLimiter = quota.New(quota.Config{})
		if got := r.Send(t.Context(), newNotification("device")); got.Verdict != push.Throttled || got.RetryAfter != time.Minute {
			t.Fatalf("receipt %+v", got)
		}
		again := r.Send(t.Context(), newNotification("device"))
		if again.Verdict != push.Throttled || again.RetryAfter != time.Minute || len(again.Attempts) != 0 {
			t.Errorf("into the closed scope: %+v", again)
		}
		if got := r.Send(t.Context(), newNotification("other")); got.Verdict != push.Accepted {
			t.Errorf("another device: %s", verdicts(got))
		}
	})
}

func TestRateLimitWaitersAreRejectedWhenScopeCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
			time.Sleep(500 * time.Millisecond) // while the others queue at the gate
			return throttled(push.ScopeProject, time.Minute)
		}}
		r := newRoute(t, s, 4)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				if got := r.Send(t.Context(), newNotification(fmt.Sprint(i))); got.Verdict != push.Throttled {
					t.Errorf("number %d: %s", i, verdicts(got))
				}
			})
		}
		all.Wait()
		if len(s.visits) != 1 {
			t.Errorf("%d were sent before the scope reopened, want only the one that closed it", len(s.visits))
		}
	})
}

func TestScopeClosedBetweenAttemptsKeepsFirstOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(unavailable), 4)
		r.Retry.Transient, r.Retry.Rand = 10*time.Second, maxJitter
		r.RateLimiter = quota.New(quota.Config{})
		time.AfterFunc(time.Second, func() { r.RateLimiter.Record(newNotification("other"), throttled(push.ScopeProject, time.Minute)) })
		got := r.Send(t.Context(), newNotification("a"))
		if verdicts(got) != "unavailable = unavailable" || got.RetryAfter != 51*time.Second {
			t.Errorf("%s, retry after %v; want unavailable, after 51 s", verdicts(got), got.RetryAfter)
		}
	})
}

func TestRateLimitHoldsAtThreeTimesTheQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, burst, seconds = 100, 10, 20
		var mu sync.Mutex
		var sent []time.Time
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
			mu.Lock()
			defer mu.Unlock()
			sent = append(sent, time.Now())
			return accepted
		}}
		r := newRoute(t, s, 4)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: rate, Burst: burst}})
		var all sync.WaitGroup
		for i := range 3 * rate * seconds {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if got := r.Send(ctx, newNotification(fmt.Sprint(i))); got.Verdict == push.Throttled && got.RetryAfter == 0 {
					t.Errorf("number %d was refused and not told for how long", i)
				}
			})
			time.Sleep(time.Second / (3 * rate))
		}
		all.Wait()
		first := 0
		for last := range sent {
			for sent[last].Sub(sent[first]) >= time.Second {
				first++
			}
			if n := last - first + 1; n > rate+burst {
				t.Fatalf("%d were sent within a second", n)
			}
		}
		if most := rate * seconds; len(sent) < most*98/100 {
			t.Errorf("%d were sent in %d s, the quota allows %d", len(sent), seconds, most)
		}
	})
}

func TestRateLimitWaitsWithinDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 4)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 1}})
		var gated []time.Duration
		r.Observer.RateLimited = func(_ *push.Notification, wait time.Duration, _ bool) { gated = append(gated, wait) }
		began := time.Now()
		for i := range 3 {
			if got := r.Send(t.Context(), newNotification(fmt.Sprint(i))); got.Verdict != push.Accepted {
				t.Fatal(verdicts(got))
			}
		}
		if time.Since(began) != 200*time.Millisecond || len(gated) != 2 {
			t.Errorf("three at ten a second took %v, waits %v", time.Since(began), gated)
		}
	})
}

func TestRateLimitWaitBeyondDeadlineFailsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 4)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 0.1, Burst: 1}})
		r.Send(t.Context(), newNotification("a"))
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got := r.Send(ctx, newNotification("b"))
		if got.Verdict != push.Throttled || got.RetryAfter != 10*time.Second || time.Since(began) != 0 {
			t.Errorf("receipt %+v after %v", got, time.Since(began))
		}
	})
}

func TestRetryWaitBeyondDeadlineFailsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(throttled(push.ScopeDevice, 3*time.Second)), 4)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		got := r.Send(ctx, newNotification("a"))
		if verdicts(got) != "throttled = throttled" || got.RetryAfter != 3*time.Second || time.Since(began) != 0 {
			t.Errorf("%s after %v", verdicts(got), time.Since(began))
		}
	})
}

func TestExpiredNotificationIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		r := newRoute(t, s, 2)
		n, ttl := newNotification("a"), push.Duration(time.Minute)
		n.TTL = &ttl
		time.Sleep(time.Minute + 1)
		if got := r.Send(t.Context(), n); got.Verdict != push.Expired || len(s.visits) != 0 {
			t.Errorf("%s, %d visits", verdicts(got), len(s.visits))
		}
	})
}

func TestZeroTTLIsSentImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(unavailable), 2)
		n, ttl := newNotification("a"), push.Duration(0)
		n.TTL = &ttl
		if got := r.Send(t.Context(), n); verdicts(got) != "unavailable accepted = accepted" {
			t.Error(verdicts(got))
		}
		time.Sleep(2 * time.Second)
		if got := r.Send(t.Context(), n); got.Verdict != push.Expired {
			t.Error(verdicts(got))
		}
	})
}

func TestZeroTTLCountsFromScheduledTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 2)
		n, ttl := newNotification("a"), push.Duration(0)
		n.TTL, n.SendAt = &ttl, n.AcceptedAt.Add(time.Hour)
		time.Sleep(time.Hour)
		if got := r.Send(t.Context(), n); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
		time.Sleep(2 * time.Second)
		if got := r.Send(t.Context(), n); got.Verdict != push.Expired {
			t.Error(verdicts(got))
		}
	})
}

func TestNotificationExpiredWhileWaitingIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
			<-release
			return accepted
		}}
		r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 1}, 1)
		go r.Send(t.Context(), newNotification("holds the only place"))
		synctest.Wait()

		n, ttl := newNotification("late"), push.Duration(10*time.Second)
		n.TTL = &ttl
		time.AfterFunc(11*time.Second, func() { close(release) })
		if got := r.Send(t.Context(), n); got.Verdict != push.Expired || s.visited("late") != nil {
			t.Errorf("%s, visited %v", verdicts(got), s.visited("late"))
		}
		if got := r.Send(t.Context(), newNotification("next")); got.Verdict != push.Accepted {
			t.Errorf("the unused lease was not handed back: %s", verdicts(got))
		}
	})
}

func TestCancelledSendIsAbandoned(t *testing.T) {
	hanging := func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
		<-ctx.Done()
		return push.NoResponse(ctx.Err())
	}
	for name, c := range map[string]struct {
		service   *service
		endpoints int
		want      string
	}{
		"during an attempt":            {&service{script: hanging}, 2, "abandoned = abandoned"},
		"between two attempts":         {scriptedService(throttled(push.ScopeDevice, 15*time.Second)), 2, "throttled = abandoned"},
		"after one that ended unknown": {scriptedService(unknown), 2, "unknown = unknown"},
		"waiting for an endpoint":      {&service{}, 0, "= abandoned"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoute(t, c.service, c.endpoints)
				r.Retry.Transient, r.Retry.Rand = 15*time.Second, maxJitter
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				began := time.Now()
				got := r.Send(ctx, repeatable("a"))
				if verdicts(got) != c.want || time.Since(began) != time.Second {
					t.Errorf("%s after %v, want %s after 1 s", verdicts(got), time.Since(began), c.want)
				}
				if name == "during an attempt" {
					checkNoBlame(t, r)
				}
			})
		})
	}
}

// checkNoBlame fails the test if an endpoint was blamed, or a lease not handed back.
func checkNoBlame(t *testing.T, r *delivery.Route) {
	t.Helper()
	status := r.Pool.Status()
	for _, e := range status.Endpoints {
		if e.Failures > 0 {
			t.Errorf("%s was blamed: %+v", e.Address, e)
		}
	}
	if status.InFlight != 0 {
		t.Errorf("%d leases were not handed back", status.InFlight)
	}
}

func TestCancelledRateLimitWaitIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 1)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 0.1, Burst: 1}})
		r.Send(t.Context(), newNotification("a"))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if got := r.Send(ctx, newNotification("b")); verdicts(got) != "= abandoned" {
			t.Error(verdicts(got))
		}
	})
}

func TestRateLimitWaitLeavesTimeForAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
			select {
			case <-time.After(50 * time.Millisecond):
				return accepted
			case <-ctx.Done():
				return push.NoResponse(&wire.Error{Reason: wire.Canceled, Err: ctx.Err()})
			}
		}}
		r := newRoute(t, s, 4)
		r.Retry.AttemptTimeout = time.Second
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		ends := map[push.Verdict]int{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 1000 {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				defer cancel()
				end := r.Send(ctx, newNotification(fmt.Sprint(i)))
				mu.Lock()
				defer mu.Unlock()
				ends[end.Verdict]++
			})
		}
		all.Wait()
		if ends[push.Accepted] < 300 || ends[push.Accepted]+ends[push.Throttled] != 1000 {
			t.Errorf("%v, want what has its turn in three seconds accepted, and the rest told to come back", ends)
		}
	})
}
