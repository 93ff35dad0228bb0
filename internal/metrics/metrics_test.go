// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

func TestNotificationsAreCountedByStatusAndReason(t *testing.T) {
	m := metrics.New(nil)
	apns, fcm := m.Route("shop", push.APNs), m.Route("shop", push.FCM)
	observe(apns, accepted)
	observe(apns, unavailable, accepted)
	observe(apns, unregistered)
	observe(fcm, accepted)
	fcm.Ended(&push.Notification{}, &push.Receipt{Outcome: push.Outcome{Verdict: push.Abandoned, Reason: "LOCAL_CANCELLED"}}, time.Second)
	expectLines(t, m,
		`sluice_notifications_total{app="shop",platform="apns",reason="",status="accepted"} 2`,
		`sluice_notifications_total{app="shop",platform="apns",reason="Unregistered",status="unregistered"} 1`,
		`sluice_notifications_total{app="shop",platform="fcm",reason="",status="accepted"} 1`,
		`sluice_notifications_total{app="shop",platform="fcm",reason="LOCAL_CANCELLED",status="unavailable"} 1`,
	)
}

func TestAttemptsAndRetriesAreCounted(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.APNs)
	observe(route, unavailable, unavailable, accepted)
	observe(route, accepted)
	route.RetryDenied(&push.Notification{}, unavailable)
	route.Throttled(&push.Notification{})
	expectLines(t, m,
		`sluice_attempts_total{app="shop",platform="apns",reason="",verdict="accepted"} 2`,
		`sluice_attempts_total{app="shop",platform="apns",reason="ServiceUnavailable",verdict="unavailable"} 2`,
		`sluice_retries_total{app="shop",platform="apns"} 2`,
		`sluice_retries_denied_total{app="shop",platform="apns"} 1`,
		`sluice_throttle_rejections_total{app="shop",platform="apns"} 1`,
		`sluice_attempt_duration_seconds_bucket{app="shop",platform="apns",le="0.01"} 0`,
		`sluice_attempt_duration_seconds_bucket{app="shop",platform="apns",le="0.025"} 4`,
		`sluice_notification_duration_seconds_bucket{app="shop",platform="apns",le="0.05"} 1`,
		`sluice_notification_duration_seconds_bucket{app="shop",platform="apns",le="0.1"} 2`,
	)
}

func TestDurationExcludesNotificationsWithoutAttempt(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.APNs)
	route.Ended(&push.Notification{}, &push.Receipt{Outcome: invalid}, time.Microsecond)
	route.Ended(&push.Notification{}, &push.Receipt{Outcome: push.Outcome{Verdict: push.Throttled, Reason: "GATE_CLOSED"}}, time.Microsecond)
	expectLines(t, m,
		`sluice_notifications_total{app="shop",platform="apns",reason="GATE_CLOSED",status="throttled"} 1`,
		`sluice_notifications_total{app="shop",platform="apns",reason="BadDeviceToken",status="refused"} 1`,
		`sluice_notification_duration_seconds_count{app="shop",platform="apns"} 0`,
	)
}

func TestWarningsAreCounted(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.FCM)
	route.Ended(&push.Notification{}, &push.Receipt{Warnings: []push.Warning{{Field: "a"}, {Field: "b"}}}, time.Second)
	route.Ended(&push.Notification{}, &push.Receipt{}, time.Second)
	expectLines(t, m, `sluice_notification_warnings_total{app="shop",platform="fcm"} 2`)
}

func TestReplacedTargetsAreCounted(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.FCM)
	route.Ended(&push.Notification{}, &push.Receipt{Replaced: &push.Target{Installation: "id"}}, time.Second)
	route.Ended(&push.Notification{}, &push.Receipt{}, time.Second)
	expectLines(t, m, `sluice_notifications_replaced_total{app="shop",platform="fcm"} 1`)
}

func TestRateLimitWaitsAndRejections(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.FCM)
	route.RateLimited(&push.Notification{}, 500*time.Millisecond, true)
	route.RateLimited(&push.Notification{}, time.Hour, false)
	expectLines(t, m,
		`sluice_ratelimit_wait_seconds_count{app="shop",platform="fcm"} 1`,
		`sluice_ratelimit_wait_seconds_sum{app="shop",platform="fcm"} 0.5`,
		`sluice_ratelimit_rejections_total{app="shop",platform="fcm"} 1`,
	)
}

func TestRouteCountersStartAtZero(t *testing.T) {
	m := metrics.New(nil)
	m.Route("idle", push.APNs)
	m.Route("shop", push.APNs).Throttled(&push.Notification{})
	if lines := scrape(t, m, `"idle"`); len(lines) > 0 {
		t.Errorf("an app that sends nothing has series: %v", lines)
	}
	expectLines(t, m,
		`sluice_notifications_total{app="shop",platform="apns",reason="",status="accepted"} 0`,
		`sluice_attempts_total{app="shop",platform="apns",reason="",verdict="accepted"} 0`,
		`sluice_retries_total{app="shop",platform="apns"} 0`,
		`sluice_retries_denied_total{app="shop",platform="apns"} 0`,
		`sluice_ratelimit_rejections_total{app="shop",platform="apns"} 0`,
	)
}

func TestReasonSeriesAreBounded(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.APNs)
	for i := range 1000 {
		observe(route, push.Outcome{Verdict: push.Refused, HTTP: 400, Reason: fmt.Sprint("Reason", i)})
	}
	for _, name := range []string{"sluice_notifications_total", "sluice_attempts_total"} {
		if n := len(scrape(t, m, name)); n > 129 {
			t.Errorf("%s has %d series, want at most 129", name, n)
		}
	}
	expectLines(t, m, `sluice_notifications_total{app="shop",platform="apns",reason="other",status="refused"} 873`)
}

func TestPoolEventsAreCountedOnce(t *testing.T) {
	for kind, name := range map[pool.EventKind]string{
		pool.EventResolved: "resolve_changes_total", pool.EventResolveFailed: "resolve_failures_total", pool.EventConnected: "connections_opened_total",
		pool.EventDialFailed: "dial_failures_total", pool.EventJoined: "joined_total", pool.EventLeft: "left_total", pool.EventGoAway: "goaways_total",
		pool.EventConnLost: "connections_lost_total", pool.EventConnClosed: "connections_closed_total", pool.EventProbing: "probes_total",
		pool.EventRecovered: "recoveries_total", pool.EventPanicStarted: "panics_total",
	} {
		m := metrics.New(nil)
		m.Observe(pool.Event{Pool: "apns", Kind: kind, Endpoint: "192.0.2.1:443", Reason: "for a reason"})
		want := []string{"sluice_pool_" + name + `{pool="apns"} 1`}
		if got := scrape(t, m, "sluice_pool_"); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", kind, got, want)
		}
	}
}

func TestEjectionsAreCountedByCause(t *testing.T) {
	m := metrics.New(nil)
	for range 3 {
		m.Observe(pool.Event{Pool: "apns", Kind: pool.EventEjected, Cause: pool.CauseSuccessRate})
	}
	expectLines(t, m, `sluice_pool_ejections_total{cause="success_rate",pool="apns"} 3`)
}

func TestPoolAndRateLimiterGauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(nil)
		limiter := quota.New(quota.Config{Total: quota.Limit{Rate: 100}})
		p := startPool(t, m, limiter)
		expectLines(t, m,
			`sluice_pool_ready{pool="apns"} 1`, `sluice_pool_panic{pool="apns"} 0`, `sluice_pool_size{pool="apns"} 3`,
			`sluice_pool_endpoints{pool="apns",state="closed"} 3`, `sluice_pool_endpoints{pool="apns",state="open"} 0`,
			`sluice_pool_spares{pool="apns",state="closed"} 1`, `sluice_pool_dials_total{pool="apns"} 3`,
			`sluice_pool_connections_opened_total{pool="apns"} 3`, `sluice_pool_joined_total{pool="apns"} 3`,
			`sluice_pool_left_total{pool="apns"} 0`, `sluice_pool_ejections_total{cause="consecutive_failures",pool="apns"} 0`,
			`sluice_ratelimit_limit{pool="apns"} 100`, `sluice_ratelimit_rate{pool="apns"} 100`, `sluice_ratelimit_closed_seconds{pool="apns"} 0`,
		)
		if n := len(scrape(t, m, "sluice_endpoint_connections", "192.0.2.", "} 1")); n != 3 {
			t.Errorf("%d endpoints with a connection, want 3", n)
		}
		lease := pickLease(t, p)
		limiter.Record(&push.Notification{}, push.Outcome{Verdict: push.Throttled, Scope: push.ScopeProject, RetryAfter: time.Minute})
		expectLines(t, m,
			`sluice_pool_in_flight{pool="apns"} 1`,
			fmt.Sprintf(`sluice_endpoint_in_flight{endpoint=%q,pool="apns"} 1`, lease.Endpoint()),
			`sluice_ratelimit_closed_seconds{pool="apns"} 60`, `sluice_ratelimit_rate{pool="apns"} 50`,
		)
		lease.Done(accepted)
	})
}

func TestEjectedEndpointAndReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(nil)
		p := startPool(t, m, nil)
		failing := pickLease(t, p)
		failing.Done(unavailable)
		for failures := 1; failures < 5; {
			l := pickLease(t, p)
			if l.Endpoint() != failing.Endpoint() {
				l.Done(accepted)
				continue
			}
			l.Done(unavailable)
			failures++
		}
		time.Sleep(time.Second)
		expectLines(t, m,
			`sluice_pool_ejections_total{cause="consecutive_failures",pool="apns"} 1`, `sluice_pool_spares{pool="apns",state="open"} 1`,
			`sluice_pool_endpoints{pool="apns",state="closed"} 3`, `sluice_pool_left_total{pool="apns"} 1`, `sluice_pool_joined_total{pool="apns"} 4`,
		)
		if left := scrape(t, m, failing.Endpoint().String()); len(left) > 0 {
			t.Errorf("a removed endpoint still has series: %q", left)
		}
	})
}

func TestMetricsContainNoSecrets(t *testing.T) {
	const canary = "c4n4ry"
	m := metrics.New(nil)
	route := m.Route("shop", push.APNs)
	n := &push.Notification{
		ID: canary, App: "shop", Platform: push.APNs, Target: push.Target{Token: canary}, Title: canary, Body: canary, CollapseKey: canary,
	}
	secret := push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken", ProviderID: canary, Field: canary, Detail: canary}
	a := push.Attempt{Endpoint: canary, Outcome: secret}
	route.Attempted(n, 2, &a, nil)
	route.RateLimited(n, time.Second, true)
	route.RateLimited(n, time.Second, false)
	route.RetryDenied(n, secret)
	route.Throttled(n)
	route.Ended(n, &push.Receipt{ID: canary, Outcome: secret, Attempts: []push.Attempt{a}}, time.Second)
	m.Observe(pool.Event{Pool: "apns", Kind: pool.EventDialFailed, Endpoint: canary, Reason: canary})
	if found := scrape(t, m, canary); len(found) > 0 {
		t.Errorf("secret in %q", found)
	}
}

func TestNamesFollowPrometheusConventions(t *testing.T) {
	withAllMetrics(t, func(t *testing.T, m *metrics.Metrics) {
		families, err := m.Gatherer().Gather()
		if err != nil {
			t.Fatal(err)
		}
		problems, err := promlint.NewWithMetricFamilies(families).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			if strings.HasPrefix(p.Metric, "sluice_") {
				t.Errorf("%s: %s", p.Metric, p.Text)
			}
		}
	})
}

func TestCountingAllocatesNothing(t *testing.T) {
	route := metrics.New(nil).Route("shop", push.APNs)
	n, a := &push.Notification{}, push.Attempt{Took: time.Millisecond, Outcome: unavailable}
	r := push.Receipt{Outcome: unregistered, Attempts: []push.Attempt{a}}
	if allocs := testing.AllocsPerRun(100, func() {
		route.Attempted(n, 1, &a, nil)
		route.Ended(n, &r, time.Millisecond)
	}); allocs != 0 {
		t.Errorf("%g allocations per notification", allocs)
	}
}

func TestShedIsCountedByLaneAndReason(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.APNs)
	route.Shed(&push.Notification{Lane: push.LaneBulk}, push.Outcome{Reason: "GATEWAY_FULL"})
	route.Shed(&push.Notification{}, push.Outcome{Reason: "OVERLOADED"})
	expectLines(t, m,
		`sluice_shed_total{app="shop",lane="bulk",platform="apns",reason="GATEWAY_FULL"} 1`,
		`sluice_shed_total{app="shop",lane="normal",platform="apns",reason="OVERLOADED"} 1`,
	)
}

func TestRequestsAreCounted(t *testing.T) {
	m := metrics.New(nil)
	m.Request("/v1/status", 200)
	m.Request("/v1/status", 204)
	m.Request("", 404)
	m.Request("/v1/status", 0)
	expectLines(t, m,
		`sluice_http_requests_total{class="2xx",route="/v1/status"} 2`,
		`sluice_http_requests_total{class="4xx",route="none"} 1`,
		`sluice_http_requests_total{class="none",route="/v1/status"} 1`,
	)
}

func TestCallersAndKeys(t *testing.T) {
	m := metrics.New(nil)
	m.Refused("key", "rate")
	m.Refused("none", "unknown_key")
	m.Refused("none", "unknown_key")
	m.WatchCallers(func() []metrics.KeyExpiry {
		return []metrics.KeyExpiry{{App: "shop", Key: "backend", ExpiresAt: time.Unix(1900000000, 0)}, {Key: "ops", ExpiresAt: time.Unix(1900000001, 0)}}
	}, func() []metrics.Issuer {
		return []metrics.Issuer{{URL: "https://login.example.com", FetchedAt: time.Unix(1900000002, 0), Failures: 3}}
	})
	expectLines(t, m,
		`sluice_callers_refused_total{kind="key",reason="rate"} 1`,
		`sluice_callers_refused_total{kind="none",reason="unknown_key"} 2`,
		`sluice_key_expiry_timestamp_seconds{app="shop",key="backend"} 1.9e+09`,
		`sluice_key_expiry_timestamp_seconds{app="",key="ops"} 1.900000001e+09`,
		`sluice_oidc_keys_fetched_timestamp_seconds{issuer="https://login.example.com"} 1.900000002e+09`,
		`sluice_oidc_fetch_failures_total{issuer="https://login.example.com"} 3`,
	)
}

func TestWaitingAndThrottlingGauges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(nil)
		limiter := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 1}, Scopes: []quota.Scope{
			{Name: "night", Lanes: []push.Lane{push.LaneBulk}, Limit: quota.Limit{Rate: 1, Burst: 1}},
		}})
		startPool(t, m, limiter)
		for _, lane := range []push.Lane{push.LaneBulk, push.LaneBulk, push.LaneCritical} {
			go func() {
				_, _ = limiter.Acquire(t.Context(), &push.Notification{Target: push.Target{Token: "a"}, Lane: lane}, time.Minute)
			}()
			synctest.Wait()
		}
		expectLines(t, m,
			`sluice_ratelimit_waiting{lane="bulk",pool="apns",scope="night"} 1`,
			`sluice_ratelimit_waiting{lane="critical",pool="apns",scope="total"} 1`,
			`sluice_ratelimit_waiting{lane="bulk",pool="apns",scope="total"} 0`,
			`sluice_throttle_rejection_ratio{pool="apns"} 0.25`,
			`sluice_certificate_expires_timestamp_seconds{pool="apns"} 1.8e+09`,
			`sluice_adaptive_concurrency_limit{pool="apns"} 1024`,
			`sluice_adaptive_concurrency_waiting{pool="apns"} 0`,
			`sluice_concurrency_limit 700`,
			`sluice_concurrency_in_flight 0`,
		)
	})
}

// TestTracesAreExemplars observes notifications with and without a sampled trace, and reads the metrics as
// Prometheus does.
func TestTracesAreExemplars(t *testing.T) {
	m := metrics.New(nil)
	route := m.Route("shop", push.APNs)
	for _, flags := range []string{"01", "00"} {
		n := &push.Notification{Trace: push.TraceContext{TraceParent: "00-0af7651916cd43dd8448eb211c80319" + flags[1:] + "-b7ad6b7169203331-" + flags}}
		a := push.Attempt{Took: time.Millisecond, Outcome: unavailable}
		route.Attempted(n, 1, &a, nil)
		route.RateLimited(n, time.Second, true)
		route.Ended(n, &push.Receipt{Outcome: unavailable, Attempts: []push.Attempt{a}}, 2*time.Millisecond)
	}
	w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)
	r.Header.Set("Accept", "application/openmetrics-text;version=1.0.0")
	m.Handler().ServeHTTP(w, r)
	for _, want := range []string{
		`sluice_attempt_duration_seconds_bucket{app="shop",platform="apns",le="0.001"} 2 # {trace_id="0af7651916cd43dd8448eb211c803191"} 0.001 `,
		`sluice_notification_duration_seconds_bucket{app="shop",platform="apns",le="0.0025"} 2 # {trace_id="0af7651916cd43dd8448eb211c803191"} 0.002 `,
		`sluice_ratelimit_wait_seconds_bucket{app="shop",platform="apns",le="1.0"} 2 # {trace_id="0af7651916cd43dd8448eb211c803191"} 1.0 `,
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s is missing in %s", want, w.Body)
		}
	}
	if strings.Contains(w.Body.String(), "0af7651916cd43dd8448eb211c803190") {
		t.Error("a trace that is not sampled is an exemplar")
	}
}
