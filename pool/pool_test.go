// SPDX-License-Identifier: Apache-2.0

package pool_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPoolIsReadyWithFirstLiveEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 0, pool.Config{})
		if err := tp.Ready(); err == nil || !strings.Contains(err.Error(), "Run was not called") {
			t.Errorf("before Run, Ready() = %v", err)
		}
		tp.run()
		if err := tp.Ready(); err == nil || !strings.Contains(err.Error(), "contains no address") {
			t.Errorf("with an empty answer, Ready() = %v", err)
		}
		tp.setServer(2, func(s *fakeServer) { s.dialDelay = time.Hour })
		tp.setAddrs(addr(1), addr(2))
		if err := tp.Ready(); err != nil {
			t.Errorf("with one live endpoint and one being dialed, Ready() = %v", err)
		}
		tp.wantMembers(1)
	})
}

func TestPickWaitsForFirstEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{})
		start := time.Now()
		endpoint, o := tp.attempt()
		if took := time.Since(start); o.Verdict != push.Accepted || took != 50*time.Millisecond {
			t.Errorf("the first attempt went to %s after %s: %+v; want it after one dial (30ms) and one response (20ms)", endpoint, took, o)
		}
	})
}

func TestPickWithoutConnectionEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := newTestPool(t, 1, pool.Config{})
		tp.setServer(1, func(s *fakeServer) { s.dialDelay = time.Hour })
		tp.run()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := tp.Pick(ctx, nil)
		if o := push.NoResponse(err); !errors.Is(err, context.DeadlineExceeded) || o.Verdict != push.Unsent || o.Reason != pool.NoEndpoint || o.EndpointFault() {
			t.Errorf("Pick = %v, outcome %+v; want unsent, NO_ENDPOINT and no endpoint fault", err, o)
		}
		canceled, cancelNow := context.WithCancel(t.Context())
		cancelNow()
		_, err = tp.Pick(canceled, nil)
		if o := push.NoResponse(err); o.Verdict != push.Abandoned {
			t.Errorf("Pick with a canceled context = %v, outcome %+v; want abandoned", err, o)
		}
	})
}

func TestColdStartDialsEachEndpointOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 20, pool.Config{Size: 10})
		advance(250 * time.Millisecond)
		tp.wantMembers(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
		advance(time.Minute)
		if tp.dialCount() != 10 || tp.Status().Dials != 10 {
			t.Errorf("%d dials, Status says %d; want 10", tp.dialCount(), tp.Status().Dials)
		}
	})
}

func TestLoadIsEven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.countPicks(8)
		for endpoint, n := range tp.countPicks(8 * 100) {
			if n != 100 {
				t.Errorf("%s was picked %d times of 800; want 100", endpoint, n)
			}
		}
	})
}

func TestEjectionTakesEffectImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		var leases []*pool.Lease
		for range 5 {
			leases = append(leases, tp.pickEndpoint(1))
		}
		for _, l := range leases {
			l.Done(failed)
		}
		if got := tp.countPicks(100); got[addr(2).String()] != 100 { // only Done has run since
			t.Errorf("after the fifth consecutive failure the next 100 went to %v; want all on endpoint 2", got)
		}
	})
}

func TestDNSChangeKeepsFullHealthyPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{Size: 2})
		advance(time.Second)
		tp.setAddrs(addr(3), addr(4))
		advance(9 * time.Minute)
		tp.wantMembers(1, 2)
		if tp.dialCount() != 2 {
			t.Errorf("%d dials; want 2", tp.dialCount())
		}
	})
}

func TestMaxAgeReplacesUnlistedMembersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{Size: 2})
		advance(time.Second)
		tp.setAddrs(addr(1), addr(3))
		advance(13 * time.Minute)
		tp.wantMembers(1, 3)
		if n := len(tp.serverCopy(1).dials); n != 1 {
			t.Errorf("endpoint 1 is still listed, but was dialed %d times", n)
		}
		if tp.Status().Dials != 3 {
			t.Errorf("%d dials; want 3", tp.Status().Dials)
		}
	})
}

func TestMaxAgeReplacesMembersWithinJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{})
		advance(time.Second)
		tp.setAddrs(addrs(9, 16)...)
		start := time.Now()
		for tp.countEvents(pool.EventJoined) < 16 {
			advance(time.Second)
			if n := len(tp.Status().Endpoints); n != 8 {
				t.Fatalf("the pool has %d endpoints; want 8 at all times", n)
			}
		}
		if took := time.Since(start); took < 10*time.Minute-10*time.Second || took > 12*time.Minute+20*time.Second {
			t.Errorf("all members were replaced after %s; want 10 to 12 minutes", took)
		}
		tp.wantMembers(9, 10, 11, 12, 13, 14, 15, 16)
	})
}

func TestEjectedEndpointIsReplacedByConnectedSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{Size: 2})
		advance(time.Second)
		tp.wantMembers(1, 2)
		tp.eject(1)
		tp.wantMembers(1, 2) // endpoint 3 is being dialed
		advance(30 * time.Millisecond)
		tp.wantMembers(2, 3)
		if s := tp.endpointStatus(1); s.State != "open" || s.EjectedUntil == nil || !strings.HasPrefix(s.Reason, "5 consecutive failures, the last InternalServerError") {
			t.Errorf("the replaced endpoint is %+v", s)
		}
		if conn := tp.lastConn(1); !conn.State().Draining {
			t.Error("the connection of the replaced endpoint is not drained")
		}
	})
}

func TestReplacedEndpointReturnsAfterItsEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{Size: 2})
		advance(time.Second)
		tp.eject(1)
		advance(time.Second)
		tp.wantMembers(2, 3)
		tp.eject(2)
		advance(8 * time.Second)
		tp.wantMembers(2, 3) // endpoint 1 is ejected, so there is no spare
		advance(2*time.Second + 100*time.Millisecond)
		tp.wantMembers(1, 3) // the ejection of 1 has expired, that of 2 has not
		if s := tp.endpointStatus(1); s.State != "half-open" {
			t.Errorf("the returned endpoint is %s; want half-open", s.State)
		}
	})
}

func TestEjectedEndpointRecoversThroughProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{})
		advance(time.Second)
		tp.eject(1)
		advance(11 * time.Second)
		if s := tp.endpointStatus(1); s.State != "half-open" {
			t.Fatalf("after 11s the breaker is %s", s.State)
		}
		probe := tp.pick()
		if probe.Endpoint().Addr() != addr(1) {
			t.Fatalf("the next first attempt went to %s; want the probe", probe.Endpoint())
		}
		if got := tp.countPicks(100); got[addr(1).String()] != 0 {
			t.Errorf("the endpoint got %d requests during its probe", got[addr(1).String()])
		}
		probe.Done(accepted)
		if got := tp.countPicks(100); got[addr(1).String()] < 25 {
			t.Errorf("after the probe the endpoint got %d of 100", got[addr(1).String()])
		}
		advance(0)
		if tp.countEvents(pool.EventProbing) != 1 || tp.countEvents(pool.EventRecovered) != 1 {
			t.Errorf("want one probing and one recovered event:\n%s", tp.eventLog())
		}
	})
}

func TestStatusCountsEjectedEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{})
		advance(time.Second)
		count := func() (open int) {
			for _, e := range tp.Status().Endpoints {
				if e.State == "open" {
					open++
				}
			}
			return open
		}
		for _, want := range []int{0, 1, 2} {
			if got := count(); got != want {
				t.Errorf("%d of 2 endpoints are open; want %d", got, want)
			}
			if want < 2 {
				tp.eject(want + 1)
			}
		}
	})
}

func TestPanicUsesAllEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 4, pool.Config{Size: 4})
		advance(time.Second)
		for i := 1; i <= 4; i++ {
			tp.eject(i)
		}
		if !tp.Status().Panic || tp.countEvents(pool.EventPanicStarted) != 1 {
			t.Errorf("the pool is not in panic mode:\n%s", tp.eventLog())
		}
		if got := tp.countPicks(40); len(got) != 4 {
			t.Errorf("in panic mode 40 requests went to %v; want all four endpoints", got)
		}
		tp.setAddrs(addrs(1, 5)...)
		advance(100 * time.Millisecond)
		if !slices.Contains(tp.members(), addr(5).String()) {
			t.Fatalf("the new address is not a member: %v", tp.members())
		}
		if s := tp.endpointStatus(5); s.State != "closed" {
			t.Errorf("the breaker of the new address is %s", s.State)
		}
	})
}

func TestFailFastReturnsErrorInsteadOfEjectedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{FailFast: true})
		advance(time.Second)
		first := tp.pickEndpoint(1)
		first.Done(accepted)
		tp.eject(2)
		if err := tp.pickError(first.Endpoint()); err.Reason != pool.BreakerOpen {
			t.Errorf("with the untried endpoint ejected, a retry got %v", err)
		}
		tp.eject(1)
		err := tp.pickError()
		if o := push.NoResponse(err); err.Reason != pool.BreakerOpen || o.Verdict != push.Unsent || o.EndpointFault() {
			t.Errorf("with all endpoints ejected, Pick = %v, outcome %+v", err, o)
		}
		advance(11 * time.Second)
		tp.pick().Done(accepted) // the probe
		tp.pick().Done(accepted)
	})
}

func TestPanicAboveMaxEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 8, pool.Config{Size: 8})
		advance(time.Second)
		for i := 1; i <= 8; i++ {
			tp.eject(i)
			used := len(tp.countPicks(80))
			want := 8 - i
			if i > 4 {
				want = 8
			}
			if used != want {
				t.Errorf("with %d of 8 ejected, %d are used; want %d", i, used, want)
			}
		}
	})
}

func TestPickAvoidsTriedEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 20, pool.Config{Size: 10})
		advance(time.Second)
		tp.wantMembers(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
		var tried pool.Tried
		for range 10 {
			lease := tp.pick(tried...)
			if tried.Has(lease.Endpoint()) {
				t.Fatalf("attempt %d repeated %s", len(tried)+1, lease.Endpoint())
			}
			tried = append(tried, lease.Endpoint())
			lease.Done(failed)
		}
		lease := tp.pick(tried...) // all endpoints are tried
		lease.Done(accepted)
	})
}

func TestShortDNSAnswerRemovesNoMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{})
		advance(time.Second)
		tp.setAddrs(addr(1))
		advance(30 * time.Minute)
		tp.wantMembers(1, 2, 3)
	})
}

func TestFailedDNSKeepsLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 9, pool.Config{})
		advance(time.Second)
		tp.mu.Lock()
		tp.dnsErr = errors.New("SERVFAIL")
		tp.mu.Unlock()
		advance(5 * time.Minute)
		tp.mu.Lock()
		tp.dnsErr, tp.addrs = nil, nil
		tp.mu.Unlock()
		advance(5 * time.Minute)
		tp.eject(1)
		advance(100 * time.Millisecond)
		tp.wantMembers(2, 3, 4, 5, 6, 7, 8, 9) // the last answer is still used, so 9 is a spare
		if n := tp.countEvents(pool.EventResolveFailed); n < 20 || n > 40 {
			t.Errorf("%d resolve failures in ten minutes; want about one every 30 seconds", n)
		}
	})
}

func TestPoolNeverExceedsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 20, pool.Config{Size: 3, MaxAge: 20 * time.Second})
		for i := range 600 {
			advance(500 * time.Millisecond)
			if i%7 == 0 {
				tp.pick().Done(failed)
			}
			if i%50 == 0 {
				tp.setAddrs(addrs(1+i/50, 8+i/50)...)
			}
			if n := len(tp.Status().Endpoints); n > 3 || n < 1 {
				t.Fatalf("the pool has %d endpoints\n%s", n, tp.eventLog())
			}
		}
	})
}

func TestNewRejectsInvalidConfig(t *testing.T) {
	static, dial := pool.Static{addr(1)}, func(context.Context, netip.AddrPort) (pool.Conn, error) { return nil, errCut }
	tests := map[string]struct {
		cfg  pool.Config
		want string
	}{
		"no resolver":      {pool.Config{Dial: dial}, "a Resolver is required"},
		"no dial":          {pool.Config{Resolver: static}, "a Dial is required"},
		"size":             {pool.Config{Resolver: static, Dial: dial, Size: -1}, "field Size is -1: must be 1 to 1024"},
		"conns":            {pool.Config{Resolver: static, Dial: dial, ConnsPerEndpoint: 65}, "field ConnsPerEndpoint is 65: must be 1 to 64"},
		"in flight":        {pool.Config{Resolver: static, Dial: dial, MaxInFlight: -5}, "field MaxInFlight is -5: must be positive"},
		"age":              {pool.Config{Resolver: static, Dial: dial, MaxAge: -1}, "may be negative"},
		"ejected":          {pool.Config{Resolver: static, Dial: dial, MaxEjected: 2}, "field MaxEjected is 2: must be a share up to 1"},
		"window":           {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{Window: time.Second}}, "Breaker.Window is 1s: must be longer than Bucket 1s"},
		"rate":             {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{FailureRate: 1.5}}, "Breaker.FailureRate is 1.5: must be a share"},
		"consecutive":      {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{ConsecutiveFailures: -1}}, "may be negative"},
		"duration":         {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{ProbeTimeout: -1}}, "no duration of Breaker may be negative"},
		"outlier":          {pool.Config{Resolver: static, Dial: dial, Outlier: pool.Outlier{StdevFactor: -1}}, "no value of Outlier may be negative"},
		"min failure rate": {pool.Config{Resolver: static, Dial: dial, Outlier: pool.Outlier{MinFailureRate: 1.1}}, "Outlier.MinFailureRate is 1.1"},
		"slow factor":      {pool.Config{Resolver: static, Dial: dial, Outlier: pool.Outlier{SlowFactor: 0.5}}, "Outlier.SlowFactor is 0.5: must be above 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.cfg.Name = "apns"
			_, err := pool.New(test.cfg)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), `pool "apns": `) {
				t.Errorf("New = %v; want an error that contains %q", err, test.want)
			}
		})
	}
}

func TestEventsAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 2, pool.Config{Size: 1})
		advance(time.Second)
		tp.eject(1)
		advance(time.Second)
		var got []string
		tp.mu.Lock()
		for i, e := range tp.events {
			got = append(got, string(e.Kind)+" "+e.Endpoint)
			if e.Pool != "test" || e.Reason == "" || i > 0 && e.Time.Before(tp.events[i-1].Time) {
				t.Errorf("event %d lacks its pool or reason, or is out of order: %+v", i, e)
			}
		}
		tp.mu.Unlock()
		want := []string{
			"resolved ", "connected 10.0.0.1:443", "joined 10.0.0.1:443",
			"ejected 10.0.0.1:443", "panic_started ",
			"connected 10.0.0.2:443", "left 10.0.0.1:443", "joined 10.0.0.2:443", "panic_ended ",
		}
		if !slices.Equal(got, want) {
			t.Errorf("got events\n%q\nwant\n%q", got, want)
		}
	})
}

func TestStatusJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tp := startPool(t, 3, pool.Config{Size: 2, Picker: pool.RoundRobin{}})
		advance(time.Second)
		lease := tp.pickEndpoint(2)
		tp.eject(1)
		advance(time.Second)
		text, err := json.MarshalIndent(tp.Status(), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		lease.Done(accepted)
		for _, want := range []string{
			`"name": "test"`, `"ready": true`, `"panic": false`, `"size": 2`, `"waiting": 0`, `"dials": 3`, `"in_flight": 1`,
			`"address": "10.0.0.2:443"`, `"state": "closed"`, `"connections": 1`, `"age_s": `, `"successes": 0`, `"failures": 0`, `"latency_ms": 0`,
			`"spares": [`, `"state": "open"`, `"ejected_until": "2000-01-01T`, `"reason": "5 consecutive failures, the last InternalServerError"`,
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("Status lacks %s:\n%s", want, text)
			}
		}
	})
}
