// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
)

// sendAll sends the notifications as one SendAll and returns their receipts in order.
func sendAll(t *testing.T, s delivery.Sender, ctx context.Context, ns ...*push.Notification) []push.Receipt {
	t.Helper()
	calls := make([]*push.Call, len(ns))
	for i, n := range ns {
		calls[i] = &push.Call{Notification: n, Index: i, CanQueue: true}
	}
	var mu sync.Mutex
	ended := map[int]int{}
	s.SendAll(ctx, calls, func(done []*push.Call) {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range done {
			ended[c.Index]++
		}
	})
	receipts := make([]push.Receipt, len(ns))
	for i, c := range calls {
		if receipts[i] = c.Receipt; ended[i] != 1 || c.Receipt.ID != ns[i].ID {
			t.Errorf("call %d ended %d times, receipt %+v", i, ended[i], c.Receipt)
		}
	}
	return receipts
}

func manyNotifications(count int) []*push.Notification {
	ns := make([]*push.Notification, count)
	for i := range ns {
		ns[i] = newNotification(fmt.Sprint(i))
	}
	return ns
}

// fullRoute returns a route with every limit.
func fullRoute(t *testing.T, s *service, endpoints int) *delivery.Route {
	r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(endpoints), Size: endpoints, Limiter: new(pool.AdaptiveLimiter)}, endpoints)
	r.Budget, r.Throttler, r.RateLimiter = new(retry.Budget), new(retry.AdaptiveThrottler), quota.New(quota.Config{})
	r.ConcurrencyLimit, r.Unregistered = new(delivery.ConcurrencyLimit), new(delivery.UnregisteredCache)
	return r
}

// checkIdle checks that nothing is in flight or waits.
func checkIdle(t *testing.T, r *delivery.Route) {
	t.Helper()
	if s := r.ConcurrencyLimit.Status(); s.InFlight != 0 || s.Waiting != 0 {
		t.Errorf("concurrency limit: %+v", s)
	}
	if s := r.Pool.LimitStatus(); s.InFlight != 0 || s.Waiting != 0 {
		t.Errorf("adaptive limit: %+v", s)
	}
	for _, e := range r.Pool.Status().Endpoints {
		if e.InFlight != 0 {
			t.Errorf("%d leases of %s are not released", e.InFlight, e.Address)
		}
	}
}

func TestRunSharesOneLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		r := fullRoute(t, s, 3)
		receipts := sendAll(t, r, t.Context(), manyNotifications(64)...)
		endpoints := map[string]int{}
		for _, receipt := range receipts {
			if got := verdicts(&receipt); got != "accepted = accepted" {
				t.Errorf("%s", got)
			}
			endpoints[receipt.Attempts[0].Endpoint]++
		}
		if len(endpoints) != 1 {
			t.Errorf("endpoints of the first attempts: %v", endpoints)
		}
		checkIdle(t, r)
	})
}

// TestRunEndsLikeSingleSends sends the same notifications as a run and one by one. The verdicts of the
// attempts and of the receipts are the same.
func TestRunEndsLikeSingleSends(t *testing.T) {
	outcomes := map[string][]push.Outcome{
		"accepted": nil, "refused": {refused}, "unregistered": {unregistered}, "unknown": {unknown}, "expired credential": {expiredJWT},
		"unavailable": {unavailable}, "always unavailable": {unavailable, unavailable, unavailable}, "unsent": {unsent, unsent}, "device": {throttled(push.ScopeDevice, time.Minute)},
		"then refused": {unavailable, refused}, "then unknown": {unavailable, unknown}, "device with a short pause": {throttled(push.ScopeDevice, time.Second)},
	}
	names := make([]string, 0, len(outcomes))
	for name := range outcomes {
		names = append(names, name)
	}
	slices.Sort(names)
	service := func() *service {
		return &service{script: func(_ context.Context, n *push.Notification, attempt int, _ string) push.Outcome {
			if list := outcomes[n.ID]; attempt <= len(list) {
				return list[attempt-1]
			}
			return accepted
		}}
	}
	notifications := func() (ns []*push.Notification) {
		for _, name := range names {
			ns = append(ns, newNotification(name))
		}
		invalid, expiring := newNotification("invalid"), newNotification("expired")
		invalid.Token = ""
		expiring.TTL, expiring.AcceptedAt = new(push.Duration), time.Now().Add(-time.Hour)
		return append(ns, invalid, expiring)
	}
	synctest.Test(t, func(t *testing.T) {
		single, run := fullRoute(t, service(), 3), fullRoute(t, service(), 3)
		var want []string
		for _, n := range notifications() {
			want = append(want, n.ID+": "+verdicts(single.Send(t.Context(), &push.Call{Notification: n})))
		}
		var got []string
		for _, receipt := range sendAll(t, run, t.Context(), notifications()...) {
			got = append(got, receipt.ID+": "+verdicts(&receipt))
		}
		if !slices.Equal(got, want) {
			t.Errorf("run:\n%s\nsingle:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		checkIdle(t, run)
	})
}

func TestRetriesOfRunAvoidItsEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scriptedService(unavailable)
		r := fullRoute(t, s, 3)
		ns := manyNotifications(30)
		for _, receipt := range sendAll(t, r, t.Context(), ns...) {
			if got := verdicts(&receipt); got != "unavailable accepted = accepted" || receipt.Attempts[0].Endpoint == receipt.Attempts[1].Endpoint {
				t.Errorf("%s: %+v", got, receipt.Attempts)
			}
		}
		checkIdle(t, r)
	})
}

// TestRunBeyondLimitsWaitsAsSinglesDo sends more than every limit allows at once.
func TestRunBeyondLimitsWaitsAsSinglesDo(t *testing.T) {
	for name, limit := range map[string]func(*delivery.Route){
		"none":        func(*delivery.Route) {},
		"concurrency": func(r *delivery.Route) { r.ConcurrencyLimit.Max = 48 },
		"adaptive":    func(r *delivery.Route) { r.Pool.Limiter().InitialLimit, r.Pool.Limiter().MinLimit = 16, 16 },
		"rate": func(r *delivery.Route) {
			r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 100, Burst: 10}})
		},
		"rate of a device": func(r *delivery.Route) {
			r.RateLimiter = quota.New(quota.Config{Device: quota.Limit{Rate: 1, Burst: 1}})
		},
		"app that exceeds its share": func(r *delivery.Route) {
			r.RateLimiter = quota.New(quota.Config{Scopes: []quota.Scope{{Name: "a", Apps: []string{"shop"}, Limit: quota.Limit{Rate: 50, Burst: 5}}}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := fullRoute(t, &service{}, 2)
				limit(r)
				ns := manyNotifications(64)
				for _, receipt := range sendAll(t, r, t.Context(), ns...) {
					if got := verdicts(&receipt); got != "accepted = accepted" {
						t.Errorf("%s: %s", got, receipt.Reason)
					}
				}
				checkIdle(t, r)
			})
		})
	}
}

// TestRestOfRunEndsAtItsDeadline sends more than a stuck provider and the concurrency limit let through.
func TestRestOfRunEndsAtItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) {
			c := newFakeConn(addr)
			c.latency = time.Hour
			return c, nil
		}
		r := newRouteWithPool(t, &service{}, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 100, Dial: stuck}, 1)
		r.ConcurrencyLimit = &delivery.ConcurrencyLimit{Max: 10}
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		started, attempted := time.Now(), 0
		for _, receipt := range sendAll(t, r, ctx, manyNotifications(64)...) {
			attempted += min(len(receipt.Attempts), 1)
			if receipt.Verdict != push.Unsent && receipt.Verdict != push.Unknown || len(receipt.Attempts) == 0 && receipt.Reason != "GATEWAY_FULL" {
				t.Errorf("%+v", receipt)
			}
		}
		if took := time.Since(started); attempted == 0 || attempted > 10 || took > 26*time.Second {
			t.Errorf("%d attempted in %s", attempted, took)
		}
		checkIdle(t, r)
	})
}

// TestRunWaitsForStreamsAsOneCaller sends more than the endpoints can have in flight.
func TestRunWaitsForStreamsAsOneCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		slow := func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) {
			c := newFakeConn(addr)
			c.latency = time.Second
			return c, nil
		}
		r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(2), Size: 2, MaxInFlight: 10, Dial: slow, Limiter: new(pool.AdaptiveLimiter)}, 2)
		r.ConcurrencyLimit = new(delivery.ConcurrencyLimit)
		started := time.Now()
		for _, receipt := range sendAll(t, r, t.Context(), manyNotifications(64)...) {
			if got := verdicts(&receipt); got != "accepted = accepted" {
				t.Errorf("%s: %s", got, receipt.Reason)
			}
		}
		if took := time.Since(started); took != 4*time.Second { // 20 at a time
			t.Errorf("took %s", took)
		}
		checkIdle(t, r)
	})
}

func TestRunWithoutEndpointEndsByItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := fullRoute(t, &service{}, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		started := time.Now()
		for _, receipt := range sendAll(t, r, ctx, manyNotifications(64)...) {
			if receipt.Verdict != push.Unsent || len(receipt.Attempts) != 0 {
				t.Errorf("%+v", receipt)
			}
		}
		if took := time.Since(started); took > 25*time.Second {
			t.Errorf("took %s", took)
		}
		checkIdle(t, r)
	})
}

// TestRunThatWaitsExpires lets notifications expire while their run waits for an endpoint.
func TestUnattemptedNotificationsTakeNoTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouteWithPool(t, &service{}, pool.Config{Resolver: fixedResolver(1), Size: 1, Dial: hangingDial}, 0)
		r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 0.001, Burst: 3}, Device: quota.Limit{Rate: 0.001, Burst: 1}})
		for _, count := range []int{1, 3} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			for _, got := range sendAll(t, r, ctx, manyNotifications(count)...) {
				if len(got.Attempts) > 0 || got.Verdict == push.Throttled {
					t.Errorf("without an endpoint: %+v", got)
				}
			}
			if got := r.Send(ctx, &push.Call{Notification: newNotification("0")}); len(got.Attempts) > 0 || got.Verdict == push.Throttled {
				t.Errorf("without an endpoint: %+v", got)
			}
			cancel()
		}
		if got := r.RateLimiter.TryAcquireN(manyNotifications(4)); got != 3 {
			t.Errorf("%d of 3 tokens are left", got)
		}
	})
}

func TestRunThatWaitsExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		busy := func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) {
			c := newFakeConn(addr)
			c.latency = 5 * time.Second
			return c, nil
		}
		r := newRouteWithPool(t, &service{}, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 8, Dial: busy, Limiter: new(pool.AdaptiveLimiter)}, 1)
		r.ConcurrencyLimit = new(delivery.ConcurrencyLimit)
		ns := manyNotifications(16)
		for i, n := range ns {
			if i%2 == 1 {
				n.TTL = new(push.Duration)
			}
		}
		for i, receipt := range sendAll(t, r, t.Context(), ns...) {
			want := push.Accepted
			if i >= 8 && i%2 == 1 {
				want = push.Expired
			}
			if receipt.Verdict != want {
				t.Errorf("call %d: %s", i, verdicts(&receipt))
			}
		}
		checkIdle(t, r)
	})
}

func TestCallerOfRunLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unresponsive := func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) {
			c := newFakeConn(addr)
			c.latency = time.Hour
			return c, nil
		}
		r := newRouteWithPool(t, &service{}, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 40, Dial: unresponsive, Limiter: new(pool.AdaptiveLimiter)}, 1)
		r.ConcurrencyLimit, r.Throttler = new(delivery.ConcurrencyLimit), new(retry.AdaptiveThrottler)
		waits, leave := context.WithCancel(t.Context())
		attempts, cancelAttempts := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancelAttempts()
		time.AfterFunc(time.Second, leave)
		var unknown, abandoned int
		started := time.Now()
		for _, receipt := range sendAll(t, r, push.WithAttemptContext(waits, attempts), manyNotifications(64)...) {
			switch receipt.Verdict {
			case push.Unknown:
				unknown++
			case push.Abandoned, push.Unsent:
				abandoned++
			}
		}
		if unknown != 40 || abandoned != 24 || time.Since(started) != 20*time.Second {
			t.Errorf("%d unknown and %d abandoned after %s, want 40 and 24 after 20s", unknown, abandoned, time.Since(started))
		}
		checkIdle(t, r)
	})
}

func TestPanicOfProviderAffectsOneCallOfRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, n *push.Notification, _ int, _ string) push.Outcome {
			if n.ID == "7" {
				panic("cannot judge")
			}
			return accepted
		}}
		r := fullRoute(t, s, 2)
		ns := manyNotifications(20)
		ns[3].Token = "defect"
		for i, receipt := range sendAll(t, r, t.Context(), ns...) {
			want := push.Accepted
			switch i {
			case 3:
				want = push.Unsent
			case 7:
				want = push.Unknown
			}
			if receipt.Verdict != want {
				t.Errorf("call %d: %s (%s)", i, verdicts(&receipt), receipt.Reason)
			}
		}
		checkIdle(t, r)
	})
}

func TestProviderDownLeavesNoRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome { return unavailable }}
		r := fullRoute(t, down, 2)
		r.Retry.Attempts = 1
		rejected := 0
		for range 40 {
			for _, receipt := range sendAll(t, r, t.Context(), manyNotifications(64)...) {
				if receipt.Reason == "PROVIDER_DOWN" {
					rejected++
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if rejected < 1500 {
			t.Errorf("the throttler rejected %d of 2560", rejected)
		}
		checkIdle(t, r)
	})
}

func TestRunThatTimesOutIsUnknownOrUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unresponsive := func(_ context.Context, addr netip.AddrPort) (pool.Conn, error) {
			c := newFakeConn(addr)
			c.latency = time.Hour
			return c, nil
		}
		outcomes := map[string]int{}
		for _, run := range []bool{false, true} {
			r := newRouteWithPool(t, &service{}, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 40, Dial: unresponsive, Limiter: new(pool.AdaptiveLimiter)}, 1)
			r.ConcurrencyLimit = new(delivery.ConcurrencyLimit)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if !run {
				receipt := r.Send(ctx, &push.Call{Notification: newNotification("single")})
				outcomes[receipt.Verdict.String()+" "+receipt.Reason]++
				continue
			}
			for _, receipt := range sendAll(t, r, ctx, manyNotifications(40)...) {
				outcomes[receipt.Verdict.String()+" "+receipt.Reason]++
			}
			checkIdle(t, r)
		}
		if len(outcomes) != 1 || outcomes["unknown LOCAL_CANCELLED"] != 41 {
			t.Errorf("%v", outcomes)
		}
	})
}

// TestPanicInRunEndsItsCalls panics in the observer, which is called by several goroutines of a run. Every
// call ends, those before the panic are accepted, and nothing stays in flight.
func TestPanicInRunEndsItsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, endpoints := range []int{1, 2} { // with two, a part of the run can have a goroutine of its own
			s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome { return accepted }}
			r := fullRoute(t, s, endpoints)
			r.Observer.Attempted = func(n *push.Notification, _ int, _ *push.Attempt, _ pool.Conn) {
				if n.ID == "7" || n.ID == "50" {
					panic("observer")
				}
			}
			unknown := 0
			for i, receipt := range sendAll(t, r, t.Context(), manyNotifications(64)...) {
				switch {
				case receipt.Verdict == push.Unknown && receipt.Reason == "PROVIDER_PANIC":
					unknown++
				case receipt.Verdict != push.Accepted || i == 7 || i == 50:
					t.Errorf("call %d: %s (%s)", i, verdicts(&receipt), receipt.Reason)
				}
			}
			if unknown == 0 {
				t.Error("no call has the outcome of the panic")
			}
			checkIdle(t, r)
		}
	})
}
