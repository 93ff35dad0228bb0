// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	"github.com/sluice-push/sluice/retry"
)

func maxJitter() float64 { return 1 }

func TestSendOutcomes(t *testing.T) {
	for _, c := range []struct {
		name     string
		outcomes []push.Outcome
		want     string
	}{
		{"accepted by the first", []push.Outcome{accepted}, "accepted = accepted"},
		{"accepted by the last", []push.Outcome{unavailable, unavailable, accepted}, "unavailable unavailable accepted = accepted"},
		{"all fail", []push.Outcome{unavailable, unavailable, unavailable}, "unavailable unavailable unavailable = unavailable"},
		{"several connections went away", []push.Outcome{unsent, unsent, unsent, unsent}, "unsent unsent unsent unsent accepted = accepted"},
		{"what was not processed takes no attempt away", []push.Outcome{unavailable, unsent, unsent, unavailable}, "unavailable unsent unsent unavailable accepted = accepted"},
		{"nothing is ever processed", slices.Repeat([]push.Outcome{unsent}, 20), strings.Repeat("unsent ", 11) + "= unsent"},
		{"the provider refuses it", []push.Outcome{unavailable, refused}, "unavailable refused = refused"},
		{"nobody by that token", []push.Outcome{unregistered}, "unregistered = unregistered"},
		{"a credential renewed in between", []push.Outcome{expiredJWT, accepted}, "unauthorized accepted = accepted"},
		{"the quota's short wait", []push.Outcome{throttled(push.ScopeDevice, time.Second), accepted}, "throttled accepted = accepted"},

		{"unknown, then accepted", []push.Outcome{unknown, accepted}, "unknown accepted = accepted"},
		{"unknown, then dead", []push.Outcome{unknown, unregistered}, "unknown unregistered = unregistered"},
		{"unknown, then refused", []push.Outcome{unknown, refused}, "unknown refused = refused"},
		{"it may have arrived before all failed", []push.Outcome{unknown, unavailable, unavailable}, "unknown unavailable unavailable = unknown"},
		{"it may have arrived before it was not sent", []push.Outcome{unknown, unsent, unavailable, unavailable}, "unknown unsent unavailable unavailable = unknown"},
		{"it may have arrived before the quota ran out", []push.Outcome{unknown, throttled(push.ScopeDevice, time.Hour)}, "unknown throttled = unknown"},
		{"it may have arrived on the way", []push.Outcome{unsent, unknown, unavailable, unavailable}, "unsent unknown unavailable unavailable = unknown"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRoute(t, scriptedService(c.outcomes...), 4)
				if got := verdicts(r.Send(t.Context(), repeatable("a"))); got != c.want {
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
		receipt := newRoute(t, s, 3).Send(t.Context(), newNotification("a"))
		if receipt.ID != "a" || receipt.ProviderID != "provider's" || len(receipt.Attempts) != 2 {
			t.Fatalf("receipt %+v", receipt)
		}
		for i, a := range receipt.Attempts {
			if a.Took != 40*time.Millisecond || a.Started.IsZero() || a.Endpoint != s.visited("a")[i] {
				t.Errorf("attempt %d: %+v, but it visited %s", i+1, a, s.visited("a")[i])
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
			if got := r.Send(t.Context(), newNotification("a")); len(got.Attempts) != attempts || got.Status() != push.StatusUnavailable {
				t.Errorf("%s, want %d attempts", verdicts(got), attempts)
			}
		}
	})
}

func TestNotificationCanLowerAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for asked, want := range map[int]int{0: 3, 1: 1, 2: 2, 10: 3} {
			r := newRoute(t, scriptedService(unavailable, unavailable, unavailable, unavailable), 6)
			n := newNotification("a")
			n.Retry = &push.Retry{Attempts: asked}
			if got := r.Send(t.Context(), n); len(got.Attempts) != want || got.Status() != push.StatusUnavailable {
				t.Errorf("asked for %d: %s, want %d attempts", asked, verdicts(got), want)
			}
		}
	})
}

func TestAttemptTimeoutIsSetOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{}
		r := newRoute(t, s, 1)
		r.Retry.AttemptTimeout = 700 * time.Millisecond
		r.Send(t.Context(), newNotification("a"))
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
			{[]push.Outcome{throttled(push.ScopeDevice, time.Second)}, 2 * time.Second}, // asked for, and the jitter
		} {
			r := newRoute(t, scriptedService(c.outcomes...), 4)
			r.Retry.Rand = maxJitter
			began := time.Now()
			if got := r.Send(t.Context(), newNotification("a")); got.Verdict != push.Accepted || time.Since(began) != c.want {
				t.Errorf("%s after %v, want after %v", verdicts(got), time.Since(began), c.want)
			}
		}
	})
}

func TestInvalidNotificationIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 0) // there is nobody to send it to
		n := newNotification("a")
		n.Token = ""
		got := r.Send(t.Context(), n)
		if got.Verdict != push.Refused || got.Field != "token" || got.Reason != "BadDeviceToken" || len(got.Attempts) != 0 {
			t.Errorf("receipt %+v", got)
		}
		if _, ok := errors.AsType[*push.FieldError](r.Check(n)); !ok {
			t.Error("Check finds no fault with it")
		}
	})
}

func TestUnknownOutcomeIsRepeatedOnlyIfAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, scriptedService(unknown), 4)
		if got := verdicts(r.Send(t.Context(), newNotification("a"))); got != "unknown = unknown" {
			t.Error(got)
		}
		n := newNotification("b")
		n.CollapseKey = "score"
		if got := verdicts(r.Send(t.Context(), n)); got != "unknown accepted = accepted" {
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
		if got := r.Send(t.Context(), newNotification("a")); len(got.Attempts) != 2 || denied != 1 {
			t.Errorf("one first attempt at ratio 1: %s, denied %d times; want 2 attempts", verdicts(got), denied)
		}
		time.Sleep(2 * time.Minute)
		if got := r.Send(t.Context(), newNotification("b")); len(got.Attempts) != 2 {
			t.Errorf("in the next window: %s, want 2 attempts", verdicts(got))
		}
		r.Budget = &retry.Budget{Ratio: -1, PerSecond: 3, Window: time.Second}
		if got := r.Send(t.Context(), newNotification("c")); len(got.Attempts) != 3 {
			t.Errorf("with three retries for nothing: %s, want 3 attempts", verdicts(got))
		}
	})
}

func TestBudgetBoundsAttemptsDuringOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(context.Context, *push.Notification, int, string) push.Outcome { return unavailable }}
		r := newRoute(t, s, 8)
		r.Budget = new(retry.Budget)
		attempts := 0
		for i := range 2000 {
			attempts += len(r.Send(t.Context(), newNotification(fmt.Sprint(i))).Attempts)
		}
		if most := 2000*1.1 + 3*60; float64(attempts) > most {
			t.Errorf("%d attempts for 2,000 notifications", attempts)
		}
	})
}

func TestNoEndpointGivesUnsentWithReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoute(t, &service{}, 0)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		got := r.Send(ctx, newNotification("a"))
		if got.Verdict != push.Unsent || got.Status() != push.StatusUnavailable || got.Reason == "" || len(got.Attempts) != 0 {
			t.Errorf("receipt %+v", got)
		}
	})
}

func TestProviderPanicEndsOneSendAndLogsNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{script: func(_ context.Context, n *push.Notification, _ int, _ string) push.Outcome {
			switch n.ID {
			case "ours":
				panic("the token is 5ecre7")
			case "runtime's":
				var none []int
				_ = none[len(n.ID)]
			}
			return accepted
		}}
		r := newRouteWithPool(t, s, pool.Config{Resolver: fixedResolver(1), Size: 1, MaxInFlight: 1}, 1)
		var log strings.Builder
		r.Logger = slog.New(slog.NewTextHandler(&log, nil))
		for _, id := range []string{"ours", "runtime's"} {
			got := r.Send(t.Context(), newNotification(id))
			if got.Verdict != push.Unknown || got.Reason != "PROVIDER_PANIC" || len(got.Attempts) != 1 {
				t.Errorf("%s: %+v", id, got)
			}
		}
		n := newNotification("c")
		n.Token = "defect"
		if got := r.Send(t.Context(), n); got.Verdict != push.Unsent || got.Reason != "PROVIDER_PANIC" {
			t.Errorf("in Translate: %+v", got)
		}
		if got := r.Send(t.Context(), newNotification("d")); got.Verdict != push.Accepted {
			t.Errorf("the next, on the only place of the only endpoint: %s", verdicts(got))
		}
		if strings.Count(log.String(), "panicked") != 3 || strings.Contains(log.String(), "5ecre7") {
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
		var heard []string
		r := newRoute(t, s, 2)
		r.Observer = delivery.Observer{
			Attempted: func(n *push.Notification, number int, a push.Attempt) {
				heard = append(heard, fmt.Sprint(n.ID, " ", number, " ", a.Verdict, " ", a.Took))
			},
			Ended: func(n *push.Notification, r push.Receipt, took time.Duration) {
				heard = append(heard, fmt.Sprint(n.ID, " ", r.Verdict, " ", took))
			},
		}
		r.Send(t.Context(), newNotification("a"))
		if want := []string{"a 1 unsent 1s", "a 2 accepted 1s", "a accepted 2s"}; !slices.Equal(heard, want) {
			t.Errorf("heard %q, want %q", heard, want)
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
		met := map[string][]string{} // by notification: where it was processed, or may have been
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
				met[n.ID] = append(met[n.ID], endpoint)
			}
			return outcome
		}}
		synctest.Test(t, func(t *testing.T) {
			route := newRoute(t, s, endpoints)
			route.Retry.Attempts = attempts
			var all sync.WaitGroup
			for i := range notifications {
				all.Go(func() { route.Send(t.Context(), repeatable(fmt.Sprint(i))) })
			}
			all.Wait()
		})
		for id, visited := range met {
			fresh := visited[:min(len(visited), endpoints)]
			if distinct := len(slices.Compact(slices.Sorted(slices.Values(fresh)))); distinct != len(fresh) {
				r.Fatalf("notification %s failed on %v with %d endpoints", id, visited, endpoints)
			}
		}
		for id, visited := range s.visits {
			if len(visited) > attempts+8 { // eight may have been unsent, and not count
				r.Fatalf("notification %s made %d attempts of %d", id, len(visited), attempts)
			}
		}
	})
}

func TestReceiptIsUnknownIfAnyAttemptWasUnknown(t *testing.T) {
	all := []push.Outcome{accepted, unregistered, refused, unsent, unavailable, unknown, expiredJWT, throttled(push.ScopeDevice, time.Second)}
	final := []push.Verdict{push.Accepted, push.Unregistered, push.Refused}
	rapid.Check(t, func(r *rapid.T) {
		outcomes := rapid.SliceOfN(rapid.SampledFrom(all), 1, 6).Draw(r, "outcomes")
		var got push.Receipt
		synctest.Test(t, func(t *testing.T) {
			route := newRoute(t, scriptedService(outcomes...), 8)
			route.Retry.Attempts = len(outcomes)
			got = route.Send(t.Context(), repeatable("a"))
		})
		last := got.Attempts[len(got.Attempts)-1].Verdict
		mayHave := slices.ContainsFunc(got.Attempts, func(a push.Attempt) bool { return a.Verdict == push.Unknown })
		switch {
		case slices.Contains(final, last) && got.Verdict != last:
			r.Fatalf("%s: the provider's word must stand", verdicts(got))
		case !slices.Contains(final, last) && mayHave != (got.Verdict == push.Unknown):
			r.Fatalf("%s: unknown where it may have arrived, and only there", verdicts(got))
		case !mayHave && got.Verdict != last:
			r.Fatalf("%s: the end must be the last attempt's", verdicts(got))
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
		occupant.Go(func() { r.Send(t.Context(), newNotification("occupant")) })
		synctest.Wait()
		if got := verdicts(r.Send(t.Context(), newNotification("a"))); got != "unsent accepted = accepted" {
			t.Errorf("%s, while the other endpoint was full", got)
		}
		close(release)
		occupant.Wait()
	})
}
