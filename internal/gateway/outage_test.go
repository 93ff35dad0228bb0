// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

// testOutage is a running pool of a provider with a watch for outages, in a synctest bubble.
type testOutage struct {
	*outage
	t     *testing.T
	ended func(*push.Notification, *push.Receipt, time.Duration)
	logs  bytes.Buffer  // read only while the bubble is idle
	cut   chan struct{} // closed when the connections end
	down  atomic.Bool   // dials fail
}

// endingConn is a connection that ends when cut is closed.
type endingConn struct {
	idleConn
	cut chan struct{}
}

func (c endingConn) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-c.cut:
		return errors.New("reset")
	}
}

// runOutage runs test with a provider that has two endpoints.
func runOutage(t *testing.T, test func(o *testOutage)) {
	synctest.Test(t, func(t *testing.T) {
		o := &testOutage{t: t, cut: make(chan struct{})}
		log := slog.New(slog.NewTextHandler(&o.logs, nil))
		u := &upstream{throttler: &retry.AdaptiveThrottler{}}
		p, err := pool.New(pool.Config{
			Name: "apns shop", DrainTimeout: time.Millisecond, Logger: slog.New(debugHandler{log.Handler()}), Observe: u.observe(func(pool.Event) {}),
			Resolver: pool.Static{netip.MustParseAddrPort("192.0.2.1:443"), netip.MustParseAddrPort("192.0.2.2:443")},
			Dial: func(context.Context, netip.AddrPort) (pool.Conn, error) {
				if o.down.Load() {
					return nil, errors.New("connection refused")
				}
				select {
				case <-o.cut:
					return idleConn{}, nil
				default:
					return endingConn{cut: o.cut}, nil
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		u.pool = p
		u.outage = &outage{pool: p, name: "apns shop", throttler: u.throttler, log: log}
		o.outage, o.ended = u.outage, u.outage.observe(nil)
		s := &service{g: &Gateway{background: newTasks(), log: log}, name: "apns shop"}
		s.upstream.Store(u)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx) }()
		test(o)
		stop()
		if err := testwait.For(t, ended, "the end of the service"); err != nil {
			t.Error(err)
		}
	})
}

// goDown ends all connections and makes further dials fail.
func (o *testOutage) goDown() {
	o.down.Store(true)
	close(o.cut)
}

// send sends perSecond notifications a second. The outcome of every nth is Unavailable.
func (o *testOutage) send(duration time.Duration, perSecond, nth int) {
	for i := range int(duration.Seconds() * float64(perSecond)) {
		outcome := push.Outcome{Verdict: push.Accepted}
		if nth > 0 && i%nth == 0 {
			outcome = push.Outcome{Verdict: push.Unavailable, Reason: "ServiceUnavailable"}
		}
		if permit, err := o.throttler.Acquire(1); err == nil {
			permit.Release(outcome, 1)
		} else {
			outcome = push.Outcome{Verdict: push.Unavailable, Reason: "PROVIDER_DOWN"}
		}
		o.ended(nil, &push.Receipt{Outcome: outcome}, 0)
		time.Sleep(time.Second / time.Duration(perSecond))
	}
}

// lines returns the log since the last call.
func (o *testOutage) lines() []string {
	synctest.Wait()
	defer o.logs.Reset()
	return strings.FieldsFunc(o.logs.String(), func(r rune) bool { return r == '\n' })
}

// wantLines checks that the log since the last call has exactly these lines, each with the given parts.
func (o *testOutage) wantLines(want ...[]string) {
	o.t.Helper()
	lines := o.lines()
	for i, parts := range want {
		for _, part := range parts {
			if i < len(lines) && !strings.Contains(lines[i], part) {
				o.t.Errorf("line %d has no %q: %s", i, part, lines[i])
			}
		}
	}
	if len(lines) != len(want) {
		o.t.Errorf("%d lines, want %d:\n%s", len(lines), len(want), strings.Join(lines, "\n"))
	}
}

// attribute returns the number in an attribute of a line.
func attribute(line, name string) (n int) {
	if m := regexp.MustCompile(` ` + name + `=(\d+)`).FindStringSubmatch(line); m != nil {
		n, _ = strconv.Atoi(m[1])
	}
	return n
}

func TestOutageIsLoggedOnceWithItsDurationAndCause(t *testing.T) {
	for _, perSecond := range []int{2, 500} { // below and above the rate that the throttler always allows
		runOutage(t, func(o *testOutage) {
			o.send(time.Minute, perSecond, 0)
			o.wantLines()
			start := time.Now()
			o.send(10*time.Second, perSecond, 1)
			o.wantLines([]string{"level=WARN", `msg="provider unavailable"`, `pool="apns shop"`, "since=" + start.UTC().Format(time.RFC3339)[:17], "notifications of the last ten seconds failed, the last one with "})
			o.send(time.Minute, perSecond, 1)
			o.wantLines()
			if !o.active.Load() {
				t.Error("the provider is not reported as unavailable")
			}
			o.send(30*time.Second, perSecond, 0)
			line := strings.Join(o.lines(), "\n")
			for _, part := range []string{"level=INFO", `msg="provider recovered"`, "for=1m", "notifications of the last ten seconds failed"} {
				if !strings.Contains(line, part) {
					t.Errorf("%q is missing in %s", part, line)
				}
			}
			if n := attribute(line, "affected"); n < 70*perSecond*95/100 || n > 82*perSecond || strings.Count(line, "msg=") != 1 {
				t.Errorf("want about %d affected notifications: %s", 70*perSecond, line)
			}
			if o.active.Load() {
				t.Error("the provider is still reported as unavailable")
			}
			o.send(time.Minute, perSecond, 0)
			o.wantLines()
		})
	}
}

func TestFewFailuresAreNoOutage(t *testing.T) {
	runOutage(t, func(o *testOutage) {
		o.send(10*time.Minute, 2, 3)
		time.Sleep(time.Minute)
		o.send(4*time.Second, 1, 1) // too few
		time.Sleep(time.Minute)
		o.wantLines()
	})
}

func TestUnreachableProviderIsLoggedImmediately(t *testing.T) {
	runOutage(t, func(o *testOutage) {
		time.Sleep(time.Minute)
		o.goDown()
		time.Sleep(time.Millisecond)
		o.wantLines([]string{`msg="provider unavailable"`, "affected=0", "connection refused"})
		for range 20 {
			o.ended(nil, &push.Receipt{Outcome: push.Outcome{Reason: "CONNECT_REFUSED"}}, 0) // the zero verdict is Unsent
		}
		time.Sleep(time.Hour)
		o.wantLines()
		o.down.Store(false)
		time.Sleep(time.Minute) // without a notification
		o.wantLines([]string{`msg="provider recovered"`, "for=1h0m", "affected=20", "connection refused"})
	})
}

func TestEjectedEndpointsAreAnOutageUntilOneAnswers(t *testing.T) {
	runOutage(t, func(o *testOutage) {
		attempt := func(verdict push.Verdict, status int) {
			permit, err := o.throttler.Acquire(1)
			if err != nil {
				t.Fatal(err)
			}
			lease, err := o.pool.Pick(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			outcome := push.Outcome{Verdict: verdict, HTTP: status, Scope: push.ScopeEndpoint, Reason: "ServiceUnavailable"}
			lease.Done(outcome)
			permit.Release(outcome, 1)
			time.Sleep(time.Minute) // too few for a failure rate
		}
		time.Sleep(time.Minute)
		for i := 0; i < 30 && !o.active.Load(); i++ { // some are probes of the endpoint that is ejected first
			attempt(push.Unavailable, 503)
		}
		o.wantLines([]string{`msg="provider unavailable"`, "all 2 connected endpoints are ejected, such as 192.0.2.", "probe failed: ServiceUnavailable; ejected for"})
		time.Sleep(time.Hour)
		o.wantLines()
		attempt(push.Accepted, 200)
		o.wantLines([]string{`msg="provider recovered"`})
	})
}

// TestFlappingProviderDoesNotFillTheLog: an outage every 40 seconds has few lines.
func TestFlappingProviderDoesNotFillTheLog(t *testing.T) {
	runOutage(t, func(o *testOutage) {
		for range 90 { // an hour
			o.send(15*time.Second, 50, 1)
			o.send(25*time.Second, 50, 0)
		}
		if lines := o.lines(); len(lines) > 4 {
			t.Errorf("%d lines in an hour:\n%s", len(lines), strings.Join(lines, "\n"))
		}
		o.send(6*time.Minute, 50, 0)
		o.wantLines([]string{`msg="provider recovered"`})
		o.send(time.Hour, 50, 0)
		o.lines()
		o.send(15*time.Second, 50, 1)
		o.send(25*time.Second, 50, 0)
		o.wantLines([]string{"unavailable"}, []string{"recovered"}) // soon again
	})
}
