// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/mockprovider"
	"github.com/sluice-push/sluice/pool"
)

// TestMetricsAndStatusShowFailingEndpoint compares /metrics with what the callers and the provider
// have seen.
func TestMetricsAndStatusShowFailingEndpoint(t *testing.T) {
	const notifications = 400
	r := newShopGateway(t, mockprovider.Config{
		Script: mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.APNs, Endpoint: "3", Status: 503}}},
	}, slowTimeouts+"pool: { size: 8, idle_timeout: 0s, breaker: { ejection: 1h, max_ejection: 1h }, outlier: { off: true } }") // one is ejected, once
	bad := r.mock.APNsAddrs()[3].String()
	r.waitPoolSize(8)
	forEachConcurrent(t, 8, notifications, func(i int) {
		if got := r.send(t, fmt.Sprintf(`{"platform":"apns","token":"c0ffee%058x","title":"canary"}`, i)); got.Status != "accepted" {
			t.Errorf("notification %d: %+v", i, got)
		}
	})
	if status, problem := r.post("shop", `{"platform":"apns","token":"c0ffee?","title":"canary"}`); status != http.StatusBadRequest {
		t.Errorf("invalid notification: %d %v", status, problem)
	}

	failed := r.mock.Ledger().Count(mockprovider.Query{Endpoint: bad})
	service := fmt.Sprintf("pool=\"apns %s MOCKKEY001\"", r.mock.APNsAddrs()[0])
	_, text := r.get(r.adminURL + "/metrics")
	for _, want := range []string{
		fmt.Sprintf(`sluice_notifications_total{app="shop",platform="apns",reason="",status="accepted"} %d`, notifications),
		`sluice_notifications_total{app="shop",platform="apns",reason="InvalidTarget",status="refused"} 1`,
		fmt.Sprintf(`sluice_notification_duration_seconds_count{app="shop",platform="apns"} %d`, notifications),
		fmt.Sprintf(`sluice_attempts_total{app="shop",platform="apns",reason="",verdict="accepted"} %d`, notifications),
		fmt.Sprintf(`sluice_attempts_total{app="shop",platform="apns",reason="ServiceUnavailable",verdict="unavailable"} %d`, failed),
		fmt.Sprintf(`sluice_attempt_duration_seconds_count{app="shop",platform="apns"} %d`, notifications+failed),
		fmt.Sprintf(`sluice_retries_total{app="shop",platform="apns"} %d`, failed),
		`sluice_retries_denied_total{app="shop",platform="apns"} 0`,
		`sluice_pool_ejections_total{cause="consecutive_failures",` + service + `} 1`,
		`sluice_pool_connections_opened_total{` + service + `} 8`,
		`sluice_pool_joined_total{` + service + `} 8`,
		`sluice_pool_endpoints{` + service + `,state="open"} 1`,
		`sluice_pool_endpoints{` + service + `,state="closed"} 7`,
		fmt.Sprintf(`sluice_endpoint_ejected{endpoint=%q,%s} 1`, bad, service),
		`sluice_ratelimit_closed_seconds{` + service + `} 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no line\n%s\nin\n%s", want, linesContaining(text, want[:strings.Index(want, "{")]))
		}
	}
	if lines := linesContaining(text, `platform="fcm"`); lines != "" {
		t.Errorf("nothing was sent to FCM, but there are series:\n%s", lines)
	}
	for _, secret := range []string{"c0ffee", "canary", r.key, r.otherKey, "Bearer", "eyJ"} {
		if strings.Contains(text, secret) {
			t.Errorf("/metrics contains %q:\n%s", secret, linesContaining(text, secret))
		}
	}
	if e := r.lastEvent(t, bad); e.Kind != pool.EventEjected || !strings.HasPrefix(e.Reason, "5 consecutive failures, the last ServiceUnavailable; ejected for ") || e.Time.IsZero() {
		t.Errorf("the last event of the failing endpoint is %+v", e)
	}
}

// TestTwoAccountsOfOneProjectHaveDistinctPools checks the names of the pools: if two pools had the
// same name, every scrape would fail.
func TestTwoAccountsOfOneProjectHaveDistinctPools(t *testing.T) {
	s, other := newMockEnv(t), newMockEnv(t)
	elsewhere := strings.Replace(other.fcmBlock(), other.ready.FCM, s.ready.FCM, 1)
	h := s.start(t, listenConfig+"pool: {idle_timeout: 0s}\napps:\n"+s.appBlock("a", s.fcmBlock())+s.appBlock("b", elsewhere))
	var names []string
	for _, service := range h.gw.Status().Services {
		names = append(names, service.Pool.Name)
	}
	if len(names) != 2 || names[0] == names[1] || !regexp.MustCompile(`^`+regexp.QuoteMeta(names[0])+` [0-9a-f]{8}$`).MatchString(names[1]) {
		t.Errorf("pools: %q", names)
	}
	testwait.Until(t, func() bool { // a pool that has not started has no metrics
		status, text := h.get(h.adminURL + "/metrics")
		return status == http.StatusOK && strings.Count(text, "\nsluice_pool_ready{") == 2
	}, "the metrics of both pools")
}

// linesContaining returns the lines of text that contain substr.
func linesContaining(text, substr string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, substr) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "")
}

// lastEvent returns the last event of an endpoint in GET /v1/status.
func (r shopGateway) lastEvent(t *testing.T, address string) (last pool.Event) {
	t.Helper()
	for _, s := range r.status(t).Services {
		for _, e := range s.Pool.Events {
			if e.Endpoint == address {
				last = e
			}
		}
	}
	return last
}

// TestMetricsShowHealthOfQueue queues a notification that the provider answers after a second.
func TestMetricsShowHealthOfQueue(t *testing.T) {
	s := newMockEnv(t, mockprovider.Config{Script: mockprovider.Script{Faults: []mockprovider.Fault{{Service: mockprovider.APNs, Delay: time.Second}}}})
	h := s.start(t, listenConfig+fmt.Sprintf("queue: {dir: %q}\n", t.TempDir())+"apps:\n"+s.appBlock("shop", s.apnsBlock()))
	metric := func(name string) (value float64) {
		_, text := h.get(h.adminURL + "/metrics")
		if m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(text); m != nil {
			value, _ = strconv.ParseFloat(m[1], 64)
			return value
		}
		return -1
	}
	testwait.Until(t, func() bool { return metric("sluice_queue_writable") == 1 }, "the queue is open")
	start := time.Now()
	if status, response := h.request("POST", "", apnsNotification(deviceToken), "Prefer", "respond-async"); status != http.StatusAccepted {
		t.Fatal(status, response)
	}
	var oldest float64
	testwait.Until(t, func() bool {
		oldest = metric("sluice_queue_oldest_timestamp_seconds")
		return oldest > 0
	}, "the notification is due")
	if early := start.Add(-time.Second); oldest < float64(early.Unix()) || oldest > float64(time.Now().Unix()+1) {
		t.Errorf("stored at %v, want %v", oldest, start)
	}
	testwait.Until(t, func() bool { return metric("sluice_queue_oldest_timestamp_seconds") == 0 }, "the queue is empty")
	if trims, nats := metric("sluice_history_trims_total"), metric("sluice_nats_connected"); trims != 0 || nats != -1 {
		t.Errorf("trims %v, connected to NATS %v; want 0 and no metric", trims, nats)
	}
}
