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
	"github.com/sluice-push/sluice/retry"
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
		if got := r.Send(t.Context(), &push.Call{Notification: newNotification("device")}); got.Verdict != push.Throttled || got.RetryAfter != time.Minute {
			t.Fatalf("receipt %+v", got)
		}
		second := r.Send(t.Context(), &push.Call{Notification: newNotification("device")})
		if second.Verdict != push.Throttled || second.RetryAfter != time.Minute || len(second.Attempts) != 0 {
			t.Errorf("closed scope: %+v", second)
		}
		if got := r.Send(t.Context(), &push.Call{Notification: newNotification("other")}); got.Verdict != push.Accepted {
			t.Errorf("another device: %s", verdicts(got))
		}
	})
}

func TestRateLimitWaitersAreRejectedWhenScopeCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome {
			time.Sleep(500 * time.Millisecond) // while the others wait for the rate limit
			return throttled(push.ScopeProject, time.Minute)
		}}
		r := newRoute(t, s, 4)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}})
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() {
				if got := r.Send(t.Context(), &push.Call{Notification: newNotification(fmt.Sprint(i))}); got.Verdict != push.Throttled {
					t.Errorf("notification %d: %s", i, verdicts(got))
				}
			})
		}
		wg.Wait()
		if len(s.visits) != 1 {
			t.Errorf("%d sent, want only the one that closed the scope", len(s.visits))
		}
	})
}

func TestScopeClosedBetweenAttemptsKeepsFirstOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(unavailable), 4)
		r.Retry.Transient, r.Retry.Rand = 10*time.Second, maxJitter
		r.RateLimiter = quota.New(quota.Config{})
		time.AfterFunc(time.Second, func() { r.RateLimiter.Record(newNotification("other"), throttled(push.ScopeProject, time.Minute)) })
		got := r.Send(t.Context(), &push.Call{Notification: newNotification("a")})
		if verdicts(got) != "unavailable = unavailable" || got.RetryAfter != 51*time.Second {
			t.Errorf("%s, Retry-After %v; want unavailable, 51 s", verdicts(got), got.RetryAfter)
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
		var wg sync.WaitGroup
		for i := range 3 * rate * seconds {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				defer cancel()
				if got := r.Send(ctx, &push.Call{Notification: newNotification(fmt.Sprint(i))}); got.Verdict == push.Throttled && got.RetryAfter == 0 {
					t.Errorf("notification %d was rejected without Retry-After", i)
				}
			})
			time.Sleep(time.Second / (3 * rate))
		}
		wg.Wait()
		first := 0
		for last := range sent {
			for sent[last].Sub(sent[first]) >= time.Second {
				first++
			}
			if n := last - first + 1; n > rate+burst {
				t.Fatalf("%d sent within a second", n)
			}
		}
		if total := rate * seconds; len(sent) < total*98/100 {
			t.Errorf("%d sent in %d s, the quota allows %d", len(sent), seconds, total)
		}
	})
}

func TestRateLimitWaitsWithinDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 4)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 10, Burst: 1}})
		var waits []time.Duration
		r.Observer.RateLimited = func(_ *push.Notification, wait time.Duration, _ bool) { waits = append(waits, wait) }
		start := time.Now()
		for i := range 3 {
			if got := r.Send(t.Context(), &push.Call{Notification: newNotification(fmt.Sprint(i))}); got.Verdict != push.Accepted {
				t.Fatal(verdicts(got))
			}
		}
		if time.Since(start) != 200*time.Millisecond || len(waits) != 2 {
			t.Errorf("three sends at ten per second took %v, waits %v", time.Since(start), waits)
		}
	})
}

func TestRateLimitWaitBeyondDeadlineFailsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 4)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 0.1, Burst: 1}})
		r.Send(t.Context(), &push.Call{Notification: newNotification("a")})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		got := r.Send(ctx, &push.Call{Notification: newNotification("b")})
		if got.Verdict != push.Throttled || got.RetryAfter != 10*time.Second || time.Since(start) != 0 {
			t.Errorf("receipt %+v after %v", got, time.Since(start))
		}
	})
}

func TestRetryWaitBeyondDeadlineFailsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(throttled(push.ScopeDevice, 3*time.Second)), 4)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		got := r.Send(ctx, &push.Call{Notification: newNotification("a")})
		if verdicts(got) != "throttled = throttled" || got.RetryAfter != 3*time.Second || time.Since(start) != 0 {
			t.Errorf("%s after %v", verdicts(got), time.Since(start))
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
		if got := r.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Expired || len(s.visits) != 0 {
			t.Errorf("%s, %d visits", verdicts(got), len(s.visits))
		}
	})
}

func TestZeroTTLIsSentImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(unavailable), 2)
		n, ttl := newNotification("a"), push.Duration(0)
		n.TTL = &ttl
		if got := r.Send(t.Context(), &push.Call{Notification: n}); verdicts(got) != "unavailable accepted = accepted" {
			t.Error(verdicts(got))
		}
		time.Sleep(2 * time.Second)
		if got := r.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Expired {
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
		if got := r.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Accepted {
			t.Error(verdicts(got))
		}
		time.Sleep(2 * time.Second)
		if got := r.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Expired {
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
		go r.Send(t.Context(), &push.Call{Notification: newNotification("holds the lease")})
		synctest.Wait()

		n, ttl := newNotification("late"), push.Duration(10*time.Second)
		n.TTL = &ttl
		time.AfterFunc(11*time.Second, func() { close(release) })
		if got := r.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Expired || s.visited("late") != nil {
			t.Errorf("%s, visited %v", verdicts(got), s.visited("late"))
		}
		if got := r.Send(t.Context(), &push.Call{Notification: newNotification("next")}); got.Verdict != push.Accepted {
			t.Errorf("the unused lease was not returned: %s", verdicts(got))
		}
	})
}

func TestCancelledSend(t *testing.T) {
	hang := func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
		<-ctx.Done()
		return push.NoResponse(ctx.Err())
	}
	for name, c := range map[string]struct {
		service   *service
		endpoints int
		want      string
	}{
		"during an attempt":        {&service{script: hang}, 2, "unknown = unknown"},
		"between two attempts":     {scriptedService(throttled(push.ScopeDevice, 15*time.Second)), 2, "throttled = abandoned"},
		"after an unknown attempt": {scriptedService(unknown), 2, "unknown = unknown"},
		"waiting for an endpoint":  {&service{}, 0, "= abandoned"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoute(t, c.service, c.endpoints)
				r.Retry.Transient, r.Retry.Rand = 15*time.Second, maxJitter
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				start := time.Now()
				got := r.Send(ctx, &push.Call{Notification: repeatable("a")})
				if verdicts(got) != c.want || time.Since(start) != time.Second {
					t.Errorf("%s after %v, want %s after 1 s", verdicts(got), time.Since(start), c.want)
				}
				if name == "during an attempt" {
					checkNoBlame(t, r)
				}
			})
		})
	}
}

// TestCancelledSendAwaitsItsAttempt cancels sends whose attempts have a context of their own. An attempt in
// flight gets its response, and no other one starts.
func TestCancelledSendAwaitsItsAttempt(t *testing.T) {
	for name, c := range map[string]struct {
		last push.Outcome
		want string
	}{
		"accepted":              {accepted, "accepted = accepted"},
		"to be retried":         {push.Outcome{Verdict: push.Unavailable, HTTP: 503, Scope: push.ScopeEndpoint}, "unavailable = abandoned"},
		"no response":           {unknown, "unknown = unknown"},
		"cancelled by deadline": {push.Outcome{}, "unknown = unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &service{script: func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
					select {
					case <-time.After(3 * time.Second):
						if c.last != (push.Outcome{}) {
							return c.last
						}
						<-ctx.Done()
					case <-ctx.Done():
					}
					return push.NoResponse(ctx.Err())
				}}
				r := newRoute(t, s, 2)
				attempts, end := context.WithTimeout(t.Context(), 5*time.Second)
				defer end()
				ctx, cancel := context.WithCancel(attempts)
				time.AfterFunc(time.Second, cancel)
				start := time.Now()
				got := r.Send(push.WithAttemptContext(ctx, attempts), &push.Call{Notification: repeatable("a")})
				want := 3 * time.Second
				if c.last == (push.Outcome{}) {
					want = 5 * time.Second
				}
				if verdicts(got) != c.want || time.Since(start) != want {
					t.Errorf("%s after %v, want %s after %v", verdicts(got), time.Since(start), c.want, want)
				}
			})
		})
	}
}

// TestCancelledAttemptIsNoProviderFailure cancels many sends. The throttler does not count them.
func TestCancelledAttemptIsNoProviderFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{script: func(ctx context.Context, _ *push.Notification, _ int, _ string) push.Outcome {
			<-ctx.Done()
			return push.NoResponse(ctx.Err())
		}}, 2)
		r.Throttler = &retry.AdaptiveThrottler{}
		for range 200 {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Millisecond, cancel)
			if got := r.Send(ctx, &push.Call{Notification: newNotification("a")}); got.Verdict != push.Unknown {
				t.Fatal(verdicts(got))
			}
		}
		if rate := r.Throttler.RejectionRate(); rate > 0 {
			t.Errorf("the throttler rejects %v of the notifications", rate)
		}
	})
}

// checkNoBlame checks that no endpoint has failures and that all leases were returned.
func checkNoBlame(t *testing.T, r *delivery.Route) {
	t.Helper()
	status := r.Pool.Status()
	for _, e := range status.Endpoints {
		if e.Failures > 0 {
			t.Errorf("%s has failures: %+v", e.Address, e)
		}
	}
	if status.InFlight != 0 {
		t.Errorf("%d leases were not returned", status.InFlight)
	}
}

func TestCancelledRateLimitWaitIsAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 1)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 0.1, Burst: 1}})
		r.Send(t.Context(), &push.Call{Notification: newNotification("a")})
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if got := r.Send(ctx, &push.Call{Notification: newNotification("b")}); verdicts(got) != "= abandoned" {
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
		verdictCounts := map[push.Verdict]int{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 1000 {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
				defer cancel()
				receipt := r.Send(ctx, &push.Call{Notification: newNotification(fmt.Sprint(i))})
				mu.Lock()
				defer mu.Unlock()
				verdictCounts[receipt.Verdict]++
			})
		}
		wg.Wait()
		if verdictCounts[push.Accepted] < 300 || verdictCounts[push.Accepted]+verdictCounts[push.Throttled] != 1000 {
			t.Errorf("%v, want 300 accepted in three seconds and the rest throttled", verdictCounts)
		}
	})
}
