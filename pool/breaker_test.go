// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

func TestConsecutiveFailuresOpenBreakerAtAnyInterval(t *testing.T) {
	for _, apart := range []time.Duration{0, 900 * time.Millisecond, 3 * time.Second, 7 * time.Second} {
		t.Run(apart.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startPool(t, 2, pool.Config{})
				advance(time.Second)
				for i := range 5 {
					if s := h.endpointStatus(1); s.State != "closed" {
						t.Fatalf("after %d failures it is %s", i, s.State)
					}
					h.pickEndpoint(1).Done(failed)
					advance(apart)
				}
				if s := h.endpointStatus(1); s.State != "open" {
					t.Errorf("after five failures, %s apart, it is %s", apart, s.State)
				}
			})
		})
	}
}

func TestSuccessResetsConsecutiveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 20 {
			for range 4 {
				h.pickEndpoint(1).Done(accepted)
			}
			for range 4 {
				h.pickEndpoint(1).Done(failed)
			}
		}
		if s := h.endpointStatus(1); s.State != "closed" || s.Failures != 80 || s.Successes != 80 {
			t.Errorf("with half of the outcomes failed, never five in a row, it is %+v; the rule says more than half", s)
		}
	})
}

func TestTimeoutsFromBeforeLastSuccessAreNotConsecutive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := push.Outcome{Verdict: push.Unknown, Scope: push.ScopeEndpoint, Reason: string(wire.ResponseTimeout)}
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		var before, after []*pool.Lease
		for range 10 {
			before = append(before, h.pickEndpoint(1))
		}
		for range 20 {
			h.pickEndpoint(1).Done(accepted)
		}
		for range 5 {
			after = append(after, h.pickEndpoint(1))
		}
		for _, l := range before {
			l.Done(silent)
		}
		if s := h.endpointStatus(1); s.State != "closed" {
			t.Errorf("ten silences, while it answered twenty others, made it %s: %s", s.State, s.Reason)
		}
		for _, l := range after {
			l.Done(silent)
		}
		if s := h.endpointStatus(1); s.State != "open" || !strings.HasPrefix(s.Reason, "5 failures in a row") {
			t.Errorf("five silences since it last answered left it %s: %s", s.State, s.Reason)
		}
	})
}

func TestFailureRateOpensBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 3 {
			h.pickEndpoint(1).Done(accepted)
		}
		for i, o := range []push.Outcome{failed, failed, failed, accepted, failed, failed, failed} {
			if s := h.endpointStatus(1); s.State != "closed" {
				t.Fatalf("after %d outcomes it is %s", 3+i, s.State)
			}
			h.pickEndpoint(1).Done(o)
		}
		if s := h.endpointStatus(1); s.State != "open" || !strings.HasPrefix(s.Reason, "6 of 10 failed within 5s") {
			t.Errorf("after 6 of 10 failed it is %+v", s)
		}
	})
}

func TestOldOutcomesLeaveWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 100 {
			h.pickEndpoint(1).Done(accepted)
		}
		advance(6 * time.Second)
		if s := h.endpointStatus(1); s.Successes != 0 {
			t.Errorf("after 6s of rest the window of 5s still counts %d", s.Successes)
		}
		for _, o := range []push.Outcome{failed, failed, failed, failed, accepted, failed, failed, failed, accepted, failed} {
			h.pickEndpoint(1).Done(o)
		}
		if s := h.endpointStatus(1); s.State != "open" {
			t.Errorf("after 8 of 10 failed it is %s: the hundred before count no more", s.State)
		}
	})
}

func TestTimeoutLongerThanWindowCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{Breaker: pool.Breaker{ConsecutiveFailures: 1000}})
		advance(time.Second)
		var slow []*pool.Lease
		for range 10 {
			slow = append(slow, h.pickEndpoint(1))
		}
		advance(8 * time.Second)
		for _, l := range slow {
			l.Done(failed)
		}
		if s := h.endpointStatus(1); s.State != "open" {
			t.Errorf("after ten failures of eight seconds each it is %+v", s)
		}
	})
}

func TestOnlyEndpointFaultsCount(t *testing.T) {
	tests := map[string]push.Outcome{
		"throttled":               {Verdict: push.Throttled, HTTP: 429, Scope: push.ScopeDevice},
		"a bad token":             {Verdict: push.Refused, HTTP: 400, Reason: "BadDeviceToken"},
		"a bad credential":        {Verdict: push.Unauthorized, HTTP: 403, Scope: push.ScopeCredential},
		"never processed":         push.NoResponse(&wire.Error{Reason: wire.GoAwayUnprocessed, Processed: wire.Never}),
		"a connection's end":      push.NoResponse(&wire.Error{Reason: wire.GoAwayNoAnswer}),
		"the caller left":         abandoned,
		"500 that a rule excuses": {Verdict: push.Unavailable, HTTP: 500, Scope: push.ScopeProject},
	}
	for name, o := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startPool(t, 2, pool.Config{})
				advance(time.Second)
				for range 200 {
					h.pickEndpoint(1).Done(o)
				}
				if s := h.endpointStatus(1); s.State != "closed" || s.Failures != 0 {
					t.Errorf("after 200 of them the breaker is %+v", s)
				}
			})
		})
	}
}

func TestNeutralOutcomesDoNotResetConsecutiveFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		for range 5 {
			h.pickEndpoint(1).Done(failed)
			h.pickEndpoint(2).Done(abandoned)
			l := h.pick()
			l.Done(abandoned)
		}
		if s := h.endpointStatus(1); s.State != "open" {
			t.Errorf("five failures with callers leaving in between: %s", s.State)
		}
	})
}

func TestEjectionTimeDoublesUpToMax(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.eject(1)
		for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300, 300} {
			want *= time.Second
			began := time.Now()
			for h.endpointStatus(1).State == "open" {
				advance(time.Second)
				if got := time.Since(began); got > want+2*time.Second {
					t.Fatalf("an ejection that should last %s has lasted %s", want, got)
				}
			}
			if got := time.Since(began); got < want {
				t.Errorf("an ejection that should last %s lasted %s", want, got)
			}
			h.pickEndpoint(1).Done(failed) // the probe
			advance(200 * time.Millisecond)
		}
	})
}

func TestEjectionTimeShrinksWhileHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.eject(1)
		for range 2 { // to 40 seconds
			advance(45 * time.Second)
			h.pickEndpoint(1).Done(failed)
		}
		advance(45 * time.Second)
		h.pickEndpoint(1).Done(accepted)
		advance(25 * time.Second) // takes two of three back
		h.eject(1)
		advance(15 * time.Second)
		if s := h.endpointStatus(1).State; s != "open" {
			t.Fatalf("15s into an ejection of 20s it is %s", s)
		}
		advance(7 * time.Second)
		if s := h.endpointStatus(1).State; s != "half-open" {
			t.Fatalf("22s after an ejection of 20s it is %s", s)
		}
	})
}

func TestProbeTimeoutReopensBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		h.eject(1)
		advance(12 * time.Second)
		lost := h.pickEndpoint(1) // and never done
		advance(11 * time.Second)
		if s := h.endpointStatus(1); s.State != "open" || !strings.Contains(s.Reason, "no outcome within 10s") {
			t.Fatalf("11s into a probe without an end it is %+v", s)
		}
		advance(22 * time.Second)
		next := h.pickEndpoint(1)
		lost.Done(failed) // from an older generation
		if s := h.endpointStatus(1); s.State != "half-open" {
			t.Fatalf("the lost probe's late end made it %s", s.State)
		}
		next.Done(accepted)
		if s := h.endpointStatus(1); s.State != "closed" {
			t.Fatalf("after a good probe it is %s", s.State)
		}
	})
}

func TestAbandonedProbeIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{})
		advance(time.Second)
		h.eject(1)
		advance(12 * time.Second)
		for range 3 {
			probe := h.pick()
			if probe.Endpoint().Addr() != addr(1) {
				t.Fatalf("the next first attempt went to %s", probe.Endpoint())
			}
			probe.Done(abandoned)
		}
		h.pick().Done(accepted)
		if s := h.endpointStatus(1); s.State != "closed" {
			t.Errorf("after all it is %s", s.State)
		}
	})
}

func TestRetryIsNotProbeWhileOthersAreHealthy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{})
		advance(time.Second)
		h.eject(1)
		tried := h.pickEndpoint(2)
		tried.Done(accepted)
		advance(12 * time.Second)
		for range 50 {
			lease := h.pick(tried.Endpoint())
			if lease.Endpoint().Addr() == addr(1) {
				t.Fatal("a second attempt was risked on a probe")
			}
			lease.Done(accepted)
		}
	})
}

func TestOutcomesFromBeforeEjectionAreIgnored(t *testing.T) {
	for name, late := range map[string]push.Outcome{"failure": failed, "success": accepted} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := startPool(t, 2, pool.Config{})
				advance(time.Second)
				var early []*pool.Lease
				for range 20 {
					early = append(early, h.pickEndpoint(1))
				}
				h.eject(1)
				early[0].Done(late)
				advance(12 * time.Second)
				early[1].Done(late)
				if s := h.endpointStatus(1); s.State != "half-open" {
					t.Fatalf("a late %s made it %s", name, s.State)
				}
				h.pickEndpoint(1).Done(accepted)
				for _, l := range early[2:] {
					l.Done(late)
				}
				if s := h.endpointStatus(1); s.State != "closed" || s.Failures+s.Successes != 0 {
					t.Errorf("late outcomes were booked: %+v", s)
				}
			})
		})
	}
}

func TestLeaseDoneIsIdempotent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		lease := h.pickEndpoint(1)
		for range 10 {
			lease.Done(failed)
		}
		if s := h.endpointStatus(1); s.Failures != 1 || s.InFlight != 0 {
			t.Errorf("one lease that was done ten times: %+v", s)
		}
	})
}

func TestFailingEndpointWithoutSpareGetsFewRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.status = 500 })
		total := 0
		for began := time.Now(); time.Since(began) < 5*time.Minute; total++ {
			h.attempt()
		}
		share := float64(h.serverCopy(1).requests) / float64(total)
		if share > 0.005 {
			t.Errorf("it took %d of %d requests, %.2f%%; want at most 0.5%%", h.serverCopy(1).requests, total, 100*share)
		}
		if n := h.countEvents(pool.EventProbing); n < 3 || n > 6 {
			t.Errorf("%d probes in five minutes, want one after 10, 30, 70 and 150 seconds", n)
		}
	})
}

func TestSilentEndpointIsEjectedAfterFiveTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{MaxInFlight: 16})
		advance(time.Second)
		h.setServer(1, func(s *fakeServer) { s.status = 0 })
		done := make(chan struct{})
		for range 64 {
			go func() {
				for range 100 {
					var tried pool.Tried
					for {
						endpoint, o := h.attempt(tried...)
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
		if hits := h.serverCopy(1).requests; hits > 16 {
			t.Errorf("%d requests went into the hole, want no more than its cap of 16", hits)
		}
	})
}

func TestConcurrentPicksSendOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{})
		advance(time.Second)
		h.eject(1)
		advance(11500 * time.Millisecond)
		var probe *pool.Lease
		c := h.lastConn(1)
		c.mu.Lock()
		c.onState = func() { probe = h.pick() } // in the midst of the other's Pick
		c.mu.Unlock()
		other := h.pick()
		if probe == nil || probe.Endpoint().Addr() != addr(1) || other.Endpoint().Addr() == addr(1) {
			t.Fatalf("the two went to %v and %s", probe, other.Endpoint())
		}
		if n := h.endpointStatus(1).InFlight; n != 1 {
			t.Errorf("%d are in flight on the endpoint, want the probe", n)
		}
		probe.Done(accepted)
		other.Done(accepted)
	})
}
