// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

func maxJitter() float64 { return 1 }

func TestSendOutcomes(t *testing.T) {
	for _, c := range []struct {
		name     string
		outcomes []push.Outcome
		want     string
	}{
		{"accepted by the first attempt", []push.Outcome{accepted}, "accepted = accepted"},
		{"accepted by the last attempt", []push.Outcome{unavailable, unavailable, accepted}, "unavailable unavailable accepted = accepted"},
		{"all fail", []push.Outcome{unavailable, unavailable, unavailable}, "unavailable unavailable unavailable = unavailable"},
		{"several unsent", []push.Outcome{unsent, unsent, unsent, unsent}, "unsent unsent unsent unsent accepted = accepted"},
		{"unsent attempts do not count", []push.Outcome{unavailable, unsent, unsent, unavailable}, "unavailable unsent unsent unavailable accepted = accepted"},
		{"always unsent", slices.Repeat([]push.Outcome{unsent}, 20), strings.Repeat("unsent ", 11) + "= unsent"},
		{"refused", []push.Outcome{unavailable, refused}, "unavailable refused = refused"},
		{"unregistered", []push.Outcome{unregistered}, "unregistered = unregistered"},
		{"credential renewed", []push.Outcome{expiredJWT, accepted}, "unauthorized accepted = accepted"},
		{"throttled for a short time", []push.Outcome{throttled(push.ScopeDevice, time.Second), accepted}, "throttled accepted = accepted"},

		{"unknown, then accepted", []push.Outcome{unknown, accepted}, "unknown accepted = accepted"},
		{"unknown, then unregistered", []push.Outcome{unknown, unregistered}, "unknown unregistered = unregistered"},
		{"unknown, then refused", []push.Outcome{unknown, refused}, "unknown refused = refused"},
		{"unknown, then unavailable", []push.Outcome{unknown, unavailable, unavailable}, "unknown unavailable unavailable = unknown"},
		{"unknown, then unsent", []push.Outcome{unknown, unsent, unavailable, unavailable}, "unknown unsent unavailable unavailable = unknown"},
		{"unknown, then throttled", []push.Outcome{unknown, throttled(push.ScopeDevice, time.Hour)}, "unknown throttled = unknown"},
		{"unknown between other failures", []push.Outcome{unsent, unknown, unavailable, unavailable}, "unsent unknown unavailable unavailable = unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoute(t, scriptedService(c.outcomes...), 4)
				if got := verdicts(r.Send(t.Context(), &push.Call{Notification: repeatable("a")})); got != c.want {
					t.Errorf("%s, want %s", got, c.want)
				}
			})
		})
	}
}

func TestReceiptListsEveryAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, _ *push.Notification, attempt int, _ string) push.Outcome {
			time.Sleep(40 * time.Millisecond)
			return []push.Outcome{unsent, accepted}[attempt-1]
		}}
		receipt := newRoute(t, s, 3).Send(t.Context(), &push.Call{Notification: newNotification("a")})
		if receipt.ID != "a" || receipt.ProviderID != "provider-id" || len(receipt.Attempts) != 2 {
			t.Fatalf("receipt %+v", receipt)
		}
		for i, a := range receipt.Attempts {
			if a.Took != 40*time.Millisecond || a.Started.IsZero() || a.Endpoint != s.visited("a")[i] {
				t.Errorf("attempt %d: %+v, want endpoint %s", i+1, a, s.visited("a")[i])
			}
		}
	})
}

func TestPolicySetsNumberOfAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, attempts := range []int{1, 2, 5} {
			s := scriptedService(unavailable, unavailable, unavailable, unavailable, unavailable, unavailable)
			r := newRoute(t, s, 6)
			r.Retry.Attempts = attempts
			if got := r.Send(t.Context(), &push.Call{Notification: newNotification("a")}); len(got.Attempts) != attempts || got.Status() != push.StatusUnavailable {
				t.Errorf("%s, want %d attempts", verdicts(got), attempts)
			}
		}
	})
}

func TestNotificationCanLowerAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for limit, want := range map[int]int{0: 3, 1: 1, 2: 2, 10: 3} {
			r := newRoute(t, scriptedService(unavailable, unavailable, unavailable, unavailable), 6)
			n := newNotification("a")
			n.Retry = &push.Retry{Attempts: limit}
			if got := r.Send(t.Context(), &push.Call{Notification: n}); len(got.Attempts) != want || got.Status() != push.StatusUnavailable {
				t.Errorf("limit %d in the notification: %s, want %d attempts", limit, verdicts(got), want)
			}
		}
	})
}

func TestAttemptTimeoutIsSetOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		r := newRoute(t, s, 1)
		r.Retry.AttemptTimeout = 700 * time.Millisecond
		r.Send(t.Context(), &push.Call{Notification: newNotification("a")})
		if s.last.Timeout != 700*time.Millisecond {
			t.Errorf("Timeout = %v", s.last.Timeout)
		}
	})
}

func TestPolicySetsRetryWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			outcomes []push.Outcome
			want     time.Duration
		}{
			{[]push.Outcome{unsent, unsent}, 0},
			{[]push.Outcome{unavailable, unavailable}, 150 * time.Millisecond},
			{[]push.Outcome{throttled(push.ScopeDevice, time.Second)}, 2 * time.Second}, // Retry-After plus jitter
		} {
			r := newRoute(t, scriptedService(c.outcomes...), 4)
			r.Retry.Rand = maxJitter
			start := time.Now()
			if got := r.Send(t.Context(), &push.Call{Notification: newNotification("a")}); got.Verdict != push.Accepted || time.Since(start) != c.want {
				t.Errorf("%s after %v, want after %v", verdicts(got), time.Since(start), c.want)
			}
		}
	})
}

func TestInvalidNotificationIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 0) // no endpoint
		n := newNotification("a")
		n.Token = ""
		got := r.Send(t.Context(), &push.Call{Notification: n})
		if got.Verdict != push.Refused || got.Field != "token" || got.Reason != "BadDeviceToken" || len(got.Attempts) != 0 {
			t.Errorf("receipt %+v", got)
		}
		if _, ok := errors.AsType[*push.FieldError](r.Check(n)); !ok {
			t.Error("Check returned no *push.FieldError")
		}
	})
}

func TestUnknownOutcomeIsRepeatedOnlyIfAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(unknown), 4)
		if got := verdicts(r.Send(t.Context(), &push.Call{Notification: newNotification("a")})); got != "unknown = unknown" {
			t.Error(got)
		}
		n := newNotification("b")
		n.Platform, n.Title, n.CollapseKey = push.APNs, "2:1", "score"
		if got := verdicts(r.Send(t.Context(), &push.Call{Notification: n})); got != "unknown accepted = accepted" {
			t.Error(got)
		}
	})
}

func TestBudgetLimitsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome { return unavailable }}
		r := newRoute(t, s, 4)
		var denied int
		r.Observer.RetryDenied = func(*push.Notification, push.Outcome) { denied++ }
		r.Budget = &retry.Budget{Ratio: 1, PerSecond: -1, Window: time.Minute}
		if got := r.Send(t.Context(), &push.Call{Notification: newNotification("a")}); len(got.Attempts) != 2 || denied != 1 {
			t.Errorf("ratio 1: %s, %d retries denied; want 2 attempts and 1 denied", verdicts(got), denied)
		}
		time.Sleep(2 * time.Minute)
		if got := r.Send(t.Context(), &push.Call{Notification: newNotification("b")}); len(got.Attempts) != 2 {
			t.Errorf("next window: %s, want 2 attempts", verdicts(got))
		}
		r.Budget = &retry.Budget{Ratio: -1, PerSecond: 3, Window: time.Second}
		if got := r.Send(t.Context(), &push.Call{Notification: newNotification("c")}); len(got.Attempts) != 3 {
			t.Errorf("three retries per second: %s, want 3 attempts", verdicts(got))
		}
	})
}

func TestBudgetBoundsAttemptsDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome { return unavailable }}
		r := newRoute(t, s, 8)
		r.Budget = &retry.Budget{Ratio: 0.1, PerSecond: 3}
		attempts := 0
		for i := range 2000 {
			attempts += len(r.Send(t.Context(), &push.Call{Notification: newNotification(fmt.Sprint(i))}).Attempts)
		}
		if limit := 2000*1.1 + 3*60; float64(attempts) > limit {
			t.Errorf("%d attempts for 2,000 notifications, want at most %.0f", attempts, limit)
		}
	})
}

func TestNoEndpointGivesUnsentWithReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		got := r.Send(ctx, &push.Call{Notification: newNotification("a")})
		if got.Verdict != push.Unsent || got.Status() != push.StatusUnavailable || got.Reason == "" || len(got.Attempts) != 0 {
			t.Errorf("receipt %+v", got)
		}
	})
}

func TestUnreachableServiceEndsSendImmediatelyWithCause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		untrusted := &wire.Error{Reason: wire.TLSServerUntrusted, Processed: wire.Never, Err: errors.New("certificate has expired")}
		r := newRouteWithPool(t, &service{}, pool.Config{
			Resolver: fixedResolver(2),
			Dial:     func(context.Context, netip.AddrPort) (pool.Conn, error) { return nil, untrusted },
		}, 0)
		start := time.Now()
		got := r.Send(t.Context(), &push.Call{Notification: newNotification("a")})
		if got.Verdict != push.Unsent || got.Reason != string(wire.TLSServerUntrusted) || !strings.Contains(got.Detail, "certificate has expired") ||
			got.RetryAfter < time.Second || len(got.Attempts) != 0 || time.Since(start) > time.Second {
			t.Errorf("receipt %+v after %s", got, time.Since(start))
		}
	})
}

func TestProviderPanicEndsOneSendAndLogsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, n *push.Notification, _ int, _ string) push.Outcome {
			switch n.ID {
			case "string":
				panic("token 5ecre7")
			case "runtime":
				var none []int
				_ = none[len(n.ID)]
			}
			return accepted
		}}
		r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 1}, 1)
		var log strings.Builder
		r.Logger = slog.New(slog.NewTextHandler(&log, nil))
		for _, id := range []string{"string", "runtime"} {
			got := r.Send(t.Context(), &push.Call{Notification: newNotification(id)})
			if got.Verdict != push.Unknown || got.Reason != "PROVIDER_PANIC" || len(got.Attempts) != 1 {
				t.Errorf("%s: %+v", id, got)
			}
		}
		n := newNotification("c")
		n.Token = "defect"
		if got := r.Send(t.Context(), &push.Call{Notification: n}); got.Verdict != push.Unsent || got.Reason != "PROVIDER_PANIC" {
			t.Errorf("panic in Translate: %+v", got)
		}
		if got := r.Send(t.Context(), &push.Call{Notification: newNotification("d")}); got.Verdict != push.Accepted {
			t.Errorf("the lease was not returned: %s", verdicts(got))
		}
		if strings.Count(log.String(), "panicked") != 3 || strings.Contains(log.String(), "5ecre7") {
			t.Errorf("log: %s", log.String())
		}
	})
}

func TestLimitOfSenderIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limited := push.Outcome{Verdict: push.Throttled, Reason: "TooManyRequests", Scope: push.ScopeDevice, RetryAfter: time.Minute, HTTP: 429}
		r := newRoute(t, scriptedService(limited), 2)
		var log bytes.Buffer
		r.Logger = slog.New(slog.NewTextHandler(&log, nil))
		r.RateLimiter = quota.New(quota.Config{}).Service(quota.Limit{Rate: 1000. / 60, Per: time.Minute})
		for i := range 30 {
			r.Send(t.Context(), &push.Call{Notification: toToken(fmt.Sprint("device ", i), 1)})
		}
		line := log.String()
		if strings.Count(line, "provider limits the sender") != 1 || !strings.Contains(line, "closed_for=1m0s rate=8.") || strings.Contains(line, "device ") {
			t.Errorf("%q", line)
		}
	})
}

func TestResponseOfIntermediaryIsLoggedOncePerMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome { return push.Intermediary(403, 0) }}
		r := newRoute(t, s, 3)
		var log strings.Builder
		r.Logger = slog.New(slog.NewTextHandler(&log, nil))
		for began := time.Now(); time.Since(began) < 100*time.Second; time.Sleep(time.Second) {
			got := r.Send(t.Context(), &push.Call{Notification: newNotification("a")})
			if got.Verdict != push.Unavailable || got.Reason != push.IntermediaryResponse || got.Detail == "" {
				t.Errorf("receipt %+v", got)
			}
		}
		if n := strings.Count(log.String(), "\n"); n < 2 || n > 3 || !strings.Contains(log.String(), "http=403") {
			t.Errorf("log: %s", log.String())
		}
	})
}

func TestObserverGetsEveryAttemptAndTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, _ *push.Notification, attempt int, _ string) push.Outcome {
			time.Sleep(time.Second)
			return []push.Outcome{unsent, accepted}[attempt-1]
		}}
		var events []string
		r := newRoute(t, s, 2)
		r.Observer = delivery.Observer{
			Attempted: func(n *push.Notification, number int, a *push.Attempt, _ pool.Conn) {
				events = append(events, fmt.Sprint(n.ID, " ", number, " ", a.Verdict, " ", a.Took))
			},
			Ended: func(n *push.Notification, r *push.Receipt, took time.Duration) {
				events = append(events, fmt.Sprint(n.ID, " ", r.Verdict, " ", took))
			},
		}
		r.Send(t.Context(), &push.Call{Notification: newNotification("a")})
		if want := []string{"a 1 unsent 1s", "a 2 accepted 1s", "a accepted 2s"}; !slices.Equal(events, want) {
			t.Errorf("events %q, want %q", events, want)
		}
	})
}

func TestRetryPicksUntriedEndpoint(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		endpoints := rapid.IntRange(1, 8).Draw(r, "endpoints")
		attempts := rapid.IntRange(1, 10).Draw(r, "attempts")
		notifications := rapid.IntRange(1, 30).Draw(r, "notifications")
		seed := rapid.Uint32().Draw(r, "seed")
		failing := []push.Outcome{unsent, unavailable, unknown, accepted}
		var mu sync.Mutex
		processed := map[string][]string{} // by notification ID: endpoints of the attempts other than unsent
		s := &service{script: func(_ context.Context, n *push.Notification, attempt int, endpoint string) push.Outcome {
			mix := seed
			for _, b := range []byte(n.ID + endpoint) {
				mix = mix*16777619 ^ uint32(b)
			}
			time.Sleep(time.Duration(mix % 50_000_000))
			outcome := failing[(mix>>8+uint32(attempt))%uint32(len(failing))]
			if outcome.Verdict != push.Unsent {
				mu.Lock()
				defer mu.Unlock()
				processed[n.ID] = append(processed[n.ID], endpoint)
			}
			return outcome
		}}
		synctest.Test(t, func(t *testing.T) {
			route := newRoute(t, s, endpoints)
			route.Retry.Attempts = attempts
			var wg sync.WaitGroup
			for i := range notifications {
				wg.Go(func() { route.Send(t.Context(), &push.Call{Notification: repeatable(fmt.Sprint(i))}) })
			}
			wg.Wait()
		})
		for id, visited := range processed {
			first := visited[:min(len(visited), endpoints)]
			if distinct := len(slices.Compact(slices.Sorted(slices.Values(first)))); distinct != len(first) {
				r.Fatalf("notification %s used an endpoint twice: %v of %d endpoints", id, visited, endpoints)
			}
		}
		for id, visited := range s.visits {
			if len(visited) > attempts+8 { // up to eight unsent attempts do not count
				r.Fatalf("notification %s made %d attempts, policy %d", id, len(visited), attempts)
			}
		}
	})
}

func TestReceiptIsUnknownIfAnyAttemptWasUnknown(t *testing.T) {
	possible := []push.Outcome{accepted, unregistered, refused, unsent, unavailable, unknown, expiredJWT, throttled(push.ScopeDevice, time.Second)}
	final := []push.Verdict{push.Accepted, push.Unregistered, push.Refused}
	rapid.Check(t, func(r *rapid.T) {
		outcomes := rapid.SliceOfN(rapid.SampledFrom(possible), 1, 6).Draw(r, "outcomes")
		var got *push.Receipt
		synctest.Test(t, func(t *testing.T) {
			route := newRoute(t, scriptedService(outcomes...), 8)
			route.Retry.Attempts = len(outcomes)
			got = route.Send(t.Context(), &push.Call{Notification: repeatable("a")})
		})
		last := got.Attempts[len(got.Attempts)-1].Verdict
		anyUnknown := slices.ContainsFunc(got.Attempts, func(a push.Attempt) bool { return a.Verdict == push.Unknown })
		switch {
		case slices.Contains(final, last) && got.Verdict != last:
			r.Fatalf("%s: the final verdict of the provider must be the result", verdicts(got))
		case !slices.Contains(final, last) && anyUnknown != (got.Verdict == push.Unknown):
			r.Fatalf("%s: the result must be unknown if and only if an attempt was", verdicts(got))
		case !anyUnknown && got.Verdict != last:
			r.Fatalf("%s: the result must be that of the last attempt", verdicts(got))
		}
	})
}

func TestUnsentAttemptDoesNotExcludeItsEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &service{script: func(_ context.Context, n *push.Notification, attempt int, _ string) push.Outcome {
			if n.ID == "occupant" {
				<-release
			}
			if n.ID == "a" && attempt == 1 {
				return unsent
			}
			return accepted
		}}
		r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(2), Size: 2, MaxInFlight: 1}, 2)
		var occupant sync.WaitGroup
		occupant.Go(func() { r.Send(t.Context(), &push.Call{Notification: newNotification("occupant")}) })
		synctest.Wait()
		if got := verdicts(r.Send(t.Context(), &push.Call{Notification: newNotification("a")})); got != "unsent accepted = accepted" {
			t.Errorf("%s, want a retry on the same endpoint while the other is full", got)
		}
		close(release)
		occupant.Wait()
	})
}
