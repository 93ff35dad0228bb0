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
		h := newTestPool(t, 0, pool.Config{})
		if err := h.Ready(); err == nil || !strings.Contains(err.Error(), "Run was not called") {
			t.Errorf("before Run, Ready() = %v", err)
		}
		h.run()
		if err := h.Ready(); err == nil || !strings.Contains(err.Error(), "names no address") {
			t.Errorf("with an empty answer, Ready() = %v", err)
		}
		h.setServer(2, func(s *fakeServer) { s.dialDelay = time.Hour })
		h.setAddrs(addr(1), addr(2))
		if err := h.Ready(); err != nil {
			t.Errorf("with one endpoint live and one being dialled, Ready() = %v", err)
		}
		h.wantMembers(1)
	})
}

func TestPickWaitsForFirstEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{})
		began := time.Now()
		endpoint, o := h.attempt()
		if took := time.Since(began); o.Verdict != push.Accepted || took != 50*time.Millisecond {
			t.Errorf("the first attempt went to %s after %s: %+v; want it as soon as one is dialled (30ms) and has answered (20ms)", endpoint, took, o)
		}
	})
}

func TestPickInEmptyPoolEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 0, pool.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := h.Pick(ctx, nil)
		if o := push.NoResponse(err); !errors.Is(err, context.DeadlineExceeded) || o.Verdict != push.Unsent || o.Reason != pool.NoEndpoint || o.EndpointFault() {
			t.Errorf("Pick = %v, which is the outcome %+v; want unsent, NO_ENDPOINT, nobody's fault", err, o)
		}
		gone, leave := context.WithCancel(t.Context())
		leave()
		_, err = h.Pick(gone, nil)
		if o := push.NoResponse(err); o.Verdict != push.Abandoned {
			t.Errorf("a caller that left made %v of it, which is %+v", err, o)
		}
	})
}

func TestColdStartDialsEachEndpointOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 20, pool.Config{Size: 10})
		advance(250 * time.Millisecond)
		h.wantMembers(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
		advance(time.Minute)
		if h.dialCount() != 10 || h.Status().Dials != 10 {
			t.Errorf("%d dials, Status says %d, want 10", h.dialCount(), h.Status().Dials)
		}
	})
}

func TestLoadIsEven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.countPicks(8)
		for endpoint, n := range h.countPicks(8 * 100) {
			if n != 100 {
				t.Errorf("%s was picked %d times of 800, want 100", endpoint, n)
			}
		}
	})
}

func TestEjectionTakesEffectImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		var leases []*pool.Lease
		for range 5 {
			leases = append(leases, h.pickEndpoint(1))
		}
		for _, l := range leases {
			l.Done(failed)
		}
		if got := h.countPicks(100); got[addr(2).String()] != 100 { // nothing has run but Done
			t.Errorf("after the fifth failure in a row the next 100 went to %v, want all to endpoint 2", got)
		}
	})
}

func TestDNSChangeKeepsFullHealthyPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{Size: 2})
		advance(time.Second)
		h.setAddrs(addr(3), addr(4))
		advance(9 * time.Minute)
		h.wantMembers(1, 2)
		if h.dialCount() != 2 {
			t.Errorf("%d dials, want the first two", h.dialCount())
		}
	})
}

func TestMaxAgeReplacesUnlistedMembersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{Size: 2})
		advance(time.Second)
		h.setAddrs(addr(1), addr(3))
		advance(13 * time.Minute)
		h.wantMembers(1, 3)
		if n := len(h.serverCopy(1).dials); n != 1 {
			t.Errorf("endpoint 1 is still named, and was dialled %d times", n)
		}
		if h.Status().Dials != 3 {
			t.Errorf("%d dials, want 3", h.Status().Dials)
		}
	})
}

func TestMaxAgeReplacesMembersWithinJitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{})
		advance(time.Second)
		h.setAddrs(addrs(9, 16)...)
		began := time.Now()
		for h.countEvents(pool.EventJoined) < 16 {
			advance(time.Second)
			if n := len(h.Status().Endpoints); n != 8 {
				t.Fatalf("the pool holds %d endpoints while it ages, want 8 at all times", n)
			}
		}
		if took := time.Since(began); took < 10*time.Minute-10*time.Second || took > 12*time.Minute+20*time.Second {
			t.Errorf("the pool was renewed after %s, want 10 to 12 minutes", took)
		}
		h.wantMembers(9, 10, 11, 12, 13, 14, 15, 16)
	})
}

func TestEjectedEndpointIsReplacedByConnectedSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{Size: 2})
		advance(time.Second)
		h.wantMembers(1, 2)
		h.eject(1)
		h.wantMembers(1, 2) // 3 is being dialled
		advance(30 * time.Millisecond)
		h.wantMembers(2, 3)
		if s := h.endpointStatus(1); s.State != "open" || s.EjectedUntil == nil || !strings.HasPrefix(s.Reason, "5 failures in a row, the last InternalServerError") {
			t.Errorf("the replaced endpoint stands as %+v", s)
		}
		if conn := h.lastConn(1); !conn.State().Draining {
			t.Error("its connection is not drained")
		}
	})
}

func TestReplacedEndpointReturnsAfterItsEjection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{Size: 2})
		advance(time.Second)
		h.eject(1)
		advance(time.Second)
		h.wantMembers(2, 3)
		h.eject(2)
		advance(8 * time.Second)
		h.wantMembers(2, 3) // 1 is ejected, so there is no spare
		advance(2*time.Second + 100*time.Millisecond)
		h.wantMembers(1, 3) // its ejection is over, that of 2 is not
		if s := h.endpointStatus(1); s.State != "half-open" {
			t.Errorf("it came back %s, want on probation", s.State)
		}
	})
}

func TestEjectedEndpointRecoversThroughProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{})
		advance(time.Second)
		h.eject(1)
		advance(11 * time.Second)
		if s := h.endpointStatus(1); s.State != "half-open" {
			t.Fatalf("after 11s it is %s", s.State)
		}
		probe := h.pick()
		if probe.Endpoint().Addr() != addr(1) {
			t.Fatalf("the next first attempt went to %s, want the probe", probe.Endpoint())
		}
		if got := h.countPicks(100); got[addr(1).String()] != 0 {
			t.Errorf("%d requests went there while the probe was out", got[addr(1).String()])
		}
		probe.Done(accepted)
		if got := h.countPicks(100); got[addr(1).String()] < 25 {
			t.Errorf("after the probe it got %d of 100", got[addr(1).String()])
		}
		advance(0)
		if h.countEvents(pool.EventProbing) != 1 || h.countEvents(pool.EventRecovered) != 1 {
			t.Errorf("the story lacks its end:\n%s", h.eventLog())
		}
	})
}

func TestStatusCountsEjectedEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{})
		advance(time.Second)
		count := func() (open int) {
			for _, e := range h.Status().Endpoints {
				if e.State == "open" {
					open++
				}
			}
			return open
		}
		for _, want := range []int{0, 1, 2} {
			if got := count(); got != want {
				t.Errorf("%d of 2 endpoints are open, want %d", got, want)
			}
			if want < 2 {
				h.eject(want + 1)
			}
		}
	})
}

func TestPanicUsesAllEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 4, pool.Config{Size: 4})
		advance(time.Second)
		for i := 1; i <= 4; i++ {
			h.eject(i)
		}
		if !h.Status().Panic || h.countEvents(pool.EventPanicStarted) != 1 {
			t.Errorf("the pool does not panic:\n%s", h.eventLog())
		}
		if got := h.countPicks(40); len(got) != 4 {
			t.Errorf("in panic 40 requests went to %v, want all four", got)
		}
		h.setAddrs(addrs(1, 5)...)
		advance(100 * time.Millisecond)
		if !slices.Contains(h.members(), addr(5).String()) {
			t.Fatalf("the fresh address is not in the pool: %v", h.members())
		}
		if s := h.endpointStatus(5); s.State != "closed" {
			t.Errorf("the fresh address is %s", s.State)
		}
	})
}

func TestFailFastReturnsErrorInsteadOfEjectedEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{FailFast: true})
		advance(time.Second)
		first := h.pickEndpoint(1)
		first.Done(accepted)
		h.eject(2)
		if err := h.pickError(first.Endpoint()); err.Reason != pool.BreakerOpen {
			t.Errorf("with the untried one ejected, a retry got %v", err)
		}
		h.eject(1)
		err := h.pickError()
		if o := push.NoResponse(err); err.Reason != pool.BreakerOpen || o.Verdict != push.Unsent || o.EndpointFault() {
			t.Errorf("with all ejected, Pick = %v, which is %+v", err, o)
		}
		advance(11 * time.Second)
		h.pick().Done(accepted) // the probe
		h.pick().Done(accepted)
	})
}

func TestPanicAboveMaxEjected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 8, pool.Config{Size: 8})
		advance(time.Second)
		for i := 1; i <= 8; i++ {
			h.eject(i)
			used := len(h.countPicks(80))
			want := 8 - i
			if i > 4 {
				want = 8
			}
			if used != want {
				t.Errorf("with %d of 8 ejected, %d are used, want %d", i, used, want)
			}
		}
	})
}

func TestPickAvoidsTriedEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 20, pool.Config{Size: 10})
		advance(time.Second)
		h.wantMembers(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
		var tried pool.Tried
		for range 10 {
			lease := h.pick(tried...)
			if tried.Has(lease.Endpoint()) {
				t.Fatalf("attempt %d went back to %s", len(tried)+1, lease.Endpoint())
			}
			tried = append(tried, lease.Endpoint())
			lease.Done(failed)
		}
		lease := h.pick(tried...) // now any will do
		lease.Done(accepted)
	})
}

func TestShortDNSAnswerRemovesNoMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{})
		advance(time.Second)
		h.setAddrs(addr(1))
		advance(30 * time.Minute)
		h.wantMembers(1, 2, 3)
	})
}

func TestFailedDNSKeepsLastAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 9, pool.Config{})
		advance(time.Second)
		h.mu.Lock()
		h.dnsErr = errors.New("SERVFAIL")
		h.mu.Unlock()
		advance(5 * time.Minute)
		h.mu.Lock()
		h.dnsErr, h.addrs = nil, nil
		h.mu.Unlock()
		advance(5 * time.Minute)
		h.eject(1)
		advance(100 * time.Millisecond)
		h.wantMembers(2, 3, 4, 5, 6, 7, 8, 9) // 9 is remembered
		if n := h.countEvents(pool.EventResolveFailed); n < 20 || n > 40 {
			t.Errorf("ten minutes without DNS were told %d times, want about every 30 seconds", n)
		}
	})
}

func TestPoolNeverExceedsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 20, pool.Config{Size: 3, MaxAge: 20 * time.Second})
		for i := range 600 {
			advance(500 * time.Millisecond)
			if i%7 == 0 {
				h.pick().Done(failed)
			}
			if i%50 == 0 {
				h.setAddrs(addrs(1+i/50, 8+i/50)...)
			}
			if n := len(h.Status().Endpoints); n > 3 || n < 1 {
				t.Fatalf("the pool holds %d endpoints\n%s", n, h.eventLog())
			}
		}
	})
}

func TestNewRejectsInvalidConfig(t *testing.T) {
	static, dial := pool.Static{addr(1)}, func(context.Context, netip.AddrPort) (pool.Conn, error) { return nil, errCut }
	tests := map[string]struct {
		cfg  pool.Config
		says string
	}{
		"no resolver":      {pool.Config{Dial: dial}, "a Resolver is required"},
		"no dial":          {pool.Config{Resolver: static}, "a Dial is required"},
		"size":             {pool.Config{Resolver: static, Dial: dial, Size: -1}, "field Size is -1: must be 1 to 1024"},
		"conns":            {pool.Config{Resolver: static, Dial: dial, ConnsPerEndpoint: 65}, "field Conns is 65: must be 1 to 64"},
		"in flight":        {pool.Config{Resolver: static, Dial: dial, MaxInFlight: -5}, "field InFlight is -5: must be positive"},
		"age":              {pool.Config{Resolver: static, Dial: dial, MaxAge: -1}, "may be negative"},
		"ejected":          {pool.Config{Resolver: static, Dial: dial, MaxEjected: 2}, "field MaxEjected is 2: must be a share up to 1"},
		"window":           {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{Window: time.Second}}, "Breaker.Window is 1s: must be longer than Bucket 1s"},
		"rate":             {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{FailureRate: 1.5}}, "Breaker.FailureRate is 1.5: must be a share"},
		"consecutive":      {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{ConsecutiveFailures: -1}}, "may be negative"},
		"duration":         {pool.Config{Resolver: static, Dial: dial, Breaker: pool.Breaker{ProbeTimeout: -1}}, "no duration of Breaker may be negative"},
		"outlier":          {pool.Config{Resolver: static, Dial: dial, Outlier: pool.Outlier{StdevFactor: -1}}, "no value of Outlier may be negative"},
		"borne failures":   {pool.Config{Resolver: static, Dial: dial, Outlier: pool.Outlier{MinFailureRate: 1.1}}, "Outlier.MinFailures is 1.1"},
		"slow is not slow": {pool.Config{Resolver: static, Dial: dial, Outlier: pool.Outlier{SlowFactor: 0.5}}, "Outlier.SlowFactor is 0.5: must be above 1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test.cfg.Name = "apns"
			_, err := pool.New(test.cfg)
			if err == nil || !strings.Contains(err.Error(), test.says) || !strings.HasPrefix(err.Error(), `pool "apns": `) {
				t.Errorf("New = %v, want it to say %q", err, test.says)
			}
		})
	}
}

func TestEventsAreInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 2, pool.Config{Size: 1})
		advance(time.Second)
		h.eject(1)
		advance(time.Second)
		var got []string
		h.mu.Lock()
		for i, e := range h.events {
			got = append(got, string(e.Kind)+" "+e.Endpoint)
			if e.Pool != "test" || e.Reason == "" || i > 0 && e.Time.Before(h.events[i-1].Time) {
				t.Errorf("event %d lacks its pool, its reason or its order: %+v", i, e)
			}
		}
		h.mu.Unlock()
		want := []string{
			"resolved ", "dialled 10.0.0.1:443", "joined 10.0.0.1:443",
			"ejected 10.0.0.1:443", "panicked ",
			"dialled 10.0.0.2:443", "left 10.0.0.1:443", "joined 10.0.0.2:443", "calmed ",
		}
		if !slices.Equal(got, want) {
			t.Errorf("told\n%q\nwant\n%q", got, want)
		}
	})
}

func TestStatusJSON(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := startPool(t, 3, pool.Config{Size: 2, Picker: pool.RoundRobin{}})
		advance(time.Second)
		lease := h.pickEndpoint(2)
		h.eject(1)
		advance(time.Second)
		text, err := json.MarshalIndent(h.Status(), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		lease.Done(accepted)
		for _, want := range []string{
			`"name": "test"`, `"ready": true`, `"panic": false`, `"size": 2`, `"waiting": 0`, `"dials": 3`, `"in_flight": 1`,
			`"address": "10.0.0.2:443"`, `"state": "closed"`, `"connections": 1`, `"age_s": `, `"successes": 0`, `"failures": 0`, `"latency_ms": 0`,
			`"spares": [`, `"state": "open"`, `"ejected_until": "2000-01-01T`, `"reason": "5 failures in a row, the last InternalServerError"`,
		} {
			if !strings.Contains(string(text), want) {
				t.Errorf("the status lacks %s:\n%s", want, text)
			}
		}
	})
}
