// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func TestConsecutiveFailuresOpenBreakerAtAnyInterval(t *testing.T) {
	for _, apart := range []time.Duration{0, 900 * time.Millisecond, 3 * time.Second, 7 * time.Second} {
		t.Run(apart.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := startPool(t, 2, pool.Config{})
				advance(time.Second)
				for i := range 5 {
					if s := tp.endpointStatus(1); s.State != "closed" {
						t.Fatalf("after %d failures the breaker is %s", i, s.State)
					}
					tp.pickEndpoint(1).Done(failed)
					advance(apart)
				}
				if s := tp.endpointStatus(1); s.State != "open" {
					t.Errorf("after five failures %s apart the breaker is %s", apart, s.State)
				}
			})
		})
	}
}

func TestSuccessResetsConsecutiveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 20 {
			for range 4 {
				tp.pickEndpoint(1).Done(accepted)
			}
			for range 4 {
				tp.pickEndpoint(1).Done(failed)
			}
		}
		if s := tp.endpointStatus(1); s.State != "closed" || s.Failures != 80 || s.Successes != 80 {
			t.Errorf("with half of the outcomes failed and never five in a row, the breaker is %+v; it opens above half", s)
		}
	})
}

func TestTimeoutsFromBeforeLastSuccessAreNotConsecutive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		timedOut := push.Outcome{Verdict: push.Unknown, Scope: push.ScopeEndpoint, Reason: string(wire.ResponseTimeout)}
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		var before, after []*pool.Lease
		for range 10 {
			before = append(before, tp.pickEndpoint(1))
		}
		for range 20 {
			tp.pickEndpoint(1).Done(accepted)
		}
		for range 5 {
			after = append(after, tp.pickEndpoint(1))
		}
		for _, l := range before {
			l.Done(timedOut)
		}
		if s := tp.endpointStatus(1); s.State != "closed" {
			t.Errorf("ten timeouts that began before twenty successes made the breaker %s: %s", s.State, s.Reason)
		}
		for _, l := range after {
			l.Done(timedOut)
		}
		if s := tp.endpointStatus(1); s.State != "open" || !strings.HasPrefix(s.Reason, "5 consecutive failures") {
			t.Errorf("after five timeouts since the last success the breaker is %s: %s", s.State, s.Reason)
		}
	})
}

func TestFailureRateOpensBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 3 {
			tp.pickEndpoint(1).Done(accepted)
		}
		for i, o := range []push.Outcome{failed, failed, failed, accepted, failed, failed, failed} {
			if s := tp.endpointStatus(1); s.State != "closed" {
				t.Fatalf("after %d outcomes the breaker is %s", 3+i, s.State)
			}
			tp.pickEndpoint(1).Done(o)
		}
		if s := tp.endpointStatus(1); s.State != "open" || !strings.HasPrefix(s.Reason, "6 of 10 failed within 5s") {
			t.Errorf("after 6 of 10 failed the breaker is %+v", s)
		}
	})
}

func TestOldOutcomesLeaveWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 100 {
			tp.pickEndpoint(1).Done(accepted)
		}
		advance(6 * time.Second)
		if s := tp.endpointStatus(1); s.Successes != 0 {
			t.Errorf("after 6s the window of 5s still counts %d successes", s.Successes)
		}
		for _, o := range []push.Outcome{failed, failed, failed, failed, accepted, failed, failed, failed, accepted, failed} {
			tp.pickEndpoint(1).Done(o)
		}
		if s := tp.endpointStatus(1); s.State != "open" {
			t.Errorf("after 8 of 10 failed the breaker is %s; outcomes outside the window must not count", s.State)
		}
	})
}

func TestTimeoutLongerThanWindowCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{Breaker: pool.Breaker{ConsecutiveFailures: 1000}})
		advance(time.Second)
		var slow []*pool.Lease
		for range 10 {
			slow = append(slow, tp.pickEndpoint(1))
		}
		advance(8 * time.Second)
		for _, l := range slow {
			l.Done(failed)
		}
		if s := tp.endpointStatus(1); s.State != "open" {
			t.Errorf("after ten failures of eight seconds each the breaker is %+v", s)
		}
	})
}

func TestOnlyEndpointFaultsCount(t *testing.T) {
	tests := map[string]push.Outcome{
		"throttled":              {Verdict: push.Throttled, HTTP: 429, Scope: push.ScopeDevice},
		"bad token":              {Verdict: push.Refused, HTTP: 400, Reason: "BadDeviceToken"},
		"bad credential":         {Verdict: push.Unauthorized, HTTP: 403, Scope: push.ScopeCredential},
		"never processed":        push.NoResponse(&wire.Error{Reason: wire.GoAwayUnprocessed, Processed: wire.Never}),
		"connection ended":       push.NoResponse(&wire.Error{Reason: wire.GoAwayNoAnswer}),
		"caller left":            abandoned,
		"500 with project scope": {Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeProject},
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := startPool(t, 2, pool.Config{})
				advance(time.Second)
				for range 200 {
					tp.pickEndpoint(1).Done(o)
				}
				if s := tp.endpointStatus(1); s.State != "closed" || s.Failures != 0 {
					t.Errorf("after 200 such outcomes the breaker is %+v", s)
				}
			})
		})
	}
}

func TestNeutralOutcomesDoNotResetConsecutiveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 5 {
			tp.pickEndpoint(1).Done(failed)
			tp.pickEndpoint(2).Done(abandoned)
			l := tp.pick()
			l.Done(abandoned)
		}
		if s := tp.endpointStatus(1); s.State != "open" {
			t.Errorf("after five failures with abandoned requests in between the breaker is %s", s.State)
		}
	})
}

func TestEjectionTimeDoublesUpToMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300, 300} {
			want *= time.Second
			start := time.Now()
			for tp.endpointStatus(1).State == "open" {
				advance(time.Second)
				if got := time.Since(start); got > want+2*time.Second {
					t.Fatalf("an ejection of %s has lasted %s", want, got)
				}
			}
			if got := time.Since(start); got < want {
				t.Errorf("an ejection of %s lasted only %s", want, got)
			}
			tp.pickEndpoint(1).Done(failed) // the probe
			advance(200 * time.Millisecond)
		}
	})
}

func TestEjectionTimeShrinksWhileHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		for range 2 { // the next ejection lasts 40 seconds
			advance(45 * time.Second)
			tp.pickEndpoint(1).Done(failed)
		}
		advance(45 * time.Second)
		tp.pickEndpoint(1).Done(accepted)
		advance(25 * time.Second) // undoes two of three doublings
		tp.eject(1)
		advance(15 * time.Second)
		if s := tp.endpointStatus(1).State; s != "open" {
			t.Fatalf("15s into an ejection of 20s the breaker is %s", s)
		}
		advance(7 * time.Second)
		if s := tp.endpointStatus(1).State; s != "half-open" {
			t.Fatalf("22s after an ejection of 20s the breaker is %s", s)
		}
	})
}

func TestProbeTimeoutReopensBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		advance(12 * time.Second)
		lost := tp.pickEndpoint(1) // Done is called too late
		advance(11 * time.Second)
		if s := tp.endpointStatus(1); s.State != "open" || !strings.Contains(s.Reason, "no outcome within 10s") {
			t.Fatalf("11s after a probe without outcome the breaker is %+v", s)
		}
		advance(22 * time.Second)
		next := tp.pickEndpoint(1)
		lost.Done(failed) // belongs to an older generation
		if s := tp.endpointStatus(1); s.State != "half-open" {
			t.Fatalf("the late outcome of the first probe made the breaker %s", s.State)
		}
		next.Done(accepted)
		if s := tp.endpointStatus(1); s.State != "closed" {
			t.Fatalf("after a successful probe the breaker is %s", s.State)
		}
	})
}

func TestAbandonedProbeIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		advance(12 * time.Second)
		for range 3 {
			probe := tp.pick()
			if probe.Endpoint().Addr() != addr(1) {
				t.Fatalf("the next first attempt went to %s; want the probe", probe.Endpoint())
			}
			probe.Done(abandoned)
		}
		tp.pick().Done(accepted)
		if s := tp.endpointStatus(1); s.State != "closed" {
			t.Errorf("after a successful probe the breaker is %s", s.State)
		}
	})
}

func TestRetryIsNotProbeWhileOthersAreHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		tried := tp.pickEndpoint(2)
		tried.Done(accepted)
		advance(12 * time.Second)
		for range 50 {
			lease := tp.pick(tried.Endpoint())
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("a retry was used as a probe")
			}
			lease.Done(accepted)
		}
	})
}

func TestOutcomesFromBeforeEjectionAreIgnored(t *testing.T) {
	for name, late := range map[string]push.Outcome{"failure": failed, "success": accepted} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tp := startPool(t, 2, pool.Config{})
				advance(time.Second)
				var early []*pool.Lease
				for range 20 {
					early = append(early, tp.pickEndpoint(1))
				}
				tp.eject(1)
				early[0].Done(late)
				advance(12 * time.Second)
				early[1].Done(late)
				if s := tp.endpointStatus(1); s.State != "half-open" {
					t.Fatalf("a late %s made the breaker %s", name, s.State)
				}
				tp.pickEndpoint(1).Done(accepted)
				for _, l := range early[2:] {
					l.Done(late)
				}
				if s := tp.endpointStatus(1); s.State != "closed" || s.Failures+s.Successes != 0 {
					t.Errorf("late outcomes were counted: %+v", s)
				}
			})
		})
	}
}

func TestLeaseDoneIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		lease := tp.pickEndpoint(1)
		for range 10 {
			lease.Done(failed)
		}
		if s := tp.endpointStatus(1); s.Failures != 1 || s.InFlight != 0 {
			t.Errorf("after ten calls of Done on one lease: %+v", s)
		}
	})
}

func TestFailingEndpointWithoutSpareGetsFewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.status = 500 })
		total := 0
		for start := time.Now(); time.Since(start) < 5*time.Minute; total++ {
			tp.attempt()
		}
		share := float64(tp.serverCopy(1).requests) / float64(total)
		if share > 0.005 {
			t.Errorf("the endpoint got %d of %d requests, %.2f%%; want at most 0.5%%", tp.serverCopy(1).requests, total, 100*share)
		}
		if n := tp.countEvents(pool.EventProbing); n < 3 || n > 6 {
			t.Errorf("%d probes in five minutes; want one after 10, 30, 70 and 150 seconds", n)
		}
	})
}

func TestSilentEndpointIsEjectedAfterFiveTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{MaxInFlight: 16})
		advance(time.Second)
		tp.setServer(1, func(s *fakeServer) { s.status = 0 })
		done := make(chan struct{})
		for range 64 {
			go func() {
				for range 100 {
					var tried pool.Tried
					for {
						endpoint, o := tp.attempt(tried...)
						if o.Verdict == push.Accepted {
							break
						}
						tried = append(tried, endpoint)
					}
				}
				done <- struct{}{}
			}()
		}
		for range 64 {
			<-done
		}
		if hits := tp.serverCopy(1).requests; hits > 16 {
			t.Errorf("the silent endpoint got %d requests; want at most MaxInFlight (16)", hits)
		}
	})
}

func TestConcurrentPicksSendOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		advance(11500 * time.Millisecond)
		var probe *pool.Lease
		c := tp.lastConn(1)
		c.mu.Lock()
		c.onState = func() { probe = tp.pick() } // runs in the middle of the other Pick
		c.mu.Unlock()
		other := tp.pick()
		if probe == nil || probe.Endpoint().Addr() != addr(1) || other.Endpoint().Addr() == addr(1) {
			t.Fatalf("the requests went to %v and %s", probe, other.Endpoint())
		}
		if n := tp.endpointStatus(1).InFlight; n != 1 {
			t.Errorf("%d requests are in flight on the endpoint; want only the probe", n)
		}
		probe.Done(accepted)
		other.Done(accepted)
	})
}

// TestWindowMatchesModel compares the counts of a breaker with a list of all outcomes.
func TestWindowMatchesModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		window := rapid.IntRange(1100, 9000).Draw(rt, "window ms")
		bucket := rapid.IntRange(500, 1000).Draw(rt, "bucket ms")
		type step struct{ advance, succeeded, failed int }
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				advance:   rapid.SampledFrom([]int{0, 1, 300, 1000, 2500, 30000}).Draw(rt, "advance ms"),
				succeeded: rapid.IntRange(0, 5).Draw(rt, "succeeded"), failed: rapid.IntRange(0, 5).Draw(rt, "failed"),
			}
		}), 1, 30).Draw(rt, "steps")
		violation := ""
		synctest.Test(t, func(t *testing.T) {
			tp := startPool(t, 1, pool.Config{Breaker: pool.Breaker{
				ConsecutiveFailures: 1 << 30, FailureRate: 1,
				Window: time.Duration(window) * time.Millisecond, Bucket: time.Duration(bucket) * time.Millisecond,
			}})
			advance(time.Second)
			succeeded, failures := map[int]int{}, map[int]int{} // by bucket
			for i, s := range steps {
				advance(time.Duration(s.advance) * time.Millisecond)
				now := int(time.Since(bubbleStart).Milliseconds()) / bucket
				lease := tp.pickN(10)
				lease.Succeeded(s.succeeded, time.Millisecond)
				for range s.failed {
					lease.Done(failed)
				}
				for range 10 { // the rest
					lease.Done(abandoned)
				}
				succeeded[now], failures[now] = succeeded[now]+s.succeeded, failures[now]+s.failed
				want := [2]int{}
				for b := range (window + bucket - 1) / bucket {
					want[0], want[1] = want[0]+succeeded[now-b], want[1]+failures[now-b]
				}
				if e := tp.endpointStatus(1); [2]int{e.Successes, e.Failures} != want {
					violation = fmt.Sprintf("step %d: %d successes and %d failures; want %v", i, e.Successes, e.Failures, want)
					return
				}
			}
		})
		if violation != "" {
			rt.Fatal(violation)
		}
	})
}
