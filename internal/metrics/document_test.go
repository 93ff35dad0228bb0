// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/broadcast"
	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

const (
	document    = "../../docs/metrics.md"
	tablesBegin = "<!-- tables: make reference -->\n"
	tablesEnd   = "<!-- end of tables -->\n"
)

// TestMetricsPageIsUpToDate compares the tables of the page with the metrics. After a change, make
// reference writes them.
func TestMetricsPageIsUpToDate(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), tablesBegin)
	_, after, closed := strings.Cut(rest, tablesEnd)
	if !found || !closed {
		t.Fatalf("%s has no lines %q and %q around the tables", document, tablesBegin, tablesEnd)
	}
	want := before + tablesBegin + tables(t) + tablesEnd + after
	if want == string(text) {
		return
	}
	if os.Getenv("UPDATE") == "" {
		t.Fatalf("%s does not match the metrics, update it with: make reference", document)
	}
	if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// groups are the tables of the document with the prefixes of their metrics.
var groups = []struct {
	title    string
	prefixes []string
}{
	{"Notifications and attempts", []string{"sluice_notification", "sluice_attempt", "sluice_retries", "sluice_throttle"}},
	{"Rate limits", []string{"sluice_ratelimit"}},
	{"Overload", []string{"sluice_shed", "sluice_adaptive", "sluice_concurrency"}},
	{"The API and its callers", []string{"sluice_http", "sluice_callers", "sluice_key", "sluice_oidc", "sluice_audit"}},
	{"Pools", []string{"sluice_pool", "sluice_certificate"}},
	{"Endpoints", []string{"sluice_endpoint"}},
	{"Queue, history and webhooks", []string{"sluice_queue", "sluice_history", "sluice_nats", "sluice_webhook"}},
	{"Broadcasts", []string{"sluice_broadcast"}},
	{"Configuration, log, traces and build", []string{"sluice_config", "sluice_log", "sluice_trace", "sluice_build"}},
}

// tables returns the tables of all metrics.
func tables(t *testing.T) string {
	rows := make([]strings.Builder, len(groups))
	withAllMetrics(t, func(t *testing.T, m *metrics.Metrics) {
		families, err := m.Gatherer().Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			name, kind := family.GetName(), strings.ToLower(family.GetType().String())
			if !strings.HasPrefix(name, "sluice_") {
				continue
			}
			var labels []string
			for _, label := range family.GetMetric()[0].GetLabel() {
				labels = append(labels, label.GetName())
			}
			fmt.Fprintf(&rows[groupOf(t, name)], "| `%s` | %s | %s | %s |\n", name, kind, strings.Join(labels, ", "), family.GetHelp())
		}
	})
	var text strings.Builder
	for i, group := range groups {
		fmt.Fprintf(&text, "\n## %s\n\n| name | type | labels | meaning |\n|---|---|---|---|\n%s", group.title, rows[i].String())
	}
	return text.String() + "\n"
}

func groupOf(t *testing.T, name string) int {
	t.Helper()
	for i, group := range groups {
		for _, prefix := range group.prefixes {
			if strings.HasPrefix(name, prefix) {
				return i
			}
		}
	}
	t.Fatalf("%s has no table", name)
	return 0
}

// withAllMetrics calls check with metrics in which every family has a series.
func withAllMetrics(t *testing.T, check func(*testing.T, *metrics.Metrics)) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(nil)
		m.Route("shop", push.APNs).Throttled(&push.Notification{}) // the series exist from the first event on
		m.Route("shop", push.APNs).Ended(&push.Notification{}, &push.Receipt{Replaced: new(push.Target)}, 0)
		m.Request("/livez", 200)
		m.Refused("key", "rate")
		m.WatchCallers(func() []metrics.KeyExpiry {
			return []metrics.KeyExpiry{{App: "shop", Key: "backend", ExpiresAt: time.Now()}}
		}, func() []metrics.Issuer { return []metrics.Issuer{{URL: "https://login.example.com"}} })
		m.WatchAudit(func() int64 { return 0 })
		m.WatchConnections(func() int64 { return 1 }, 100, func() uint64 { return 1 })
		m.Reloaded(true)
		one := func() uint64 { return 1 }
		m.WatchTraces(one, one, one)
		m.WatchStorage(func() (*queue.Status, *history.Status, []webhooks.Status) {
			return &queue.Status{Waiting: []queue.Depth{{App: "shop", Lane: push.LaneBulk}}}, &history.Status{}, []webhooks.Status{{App: "shop", Name: "crm"}}
		})
		m.WatchStorageHealth(func() *metrics.StorageHealth {
			return &metrics.StorageHealth{External: true, Encrypted: map[string]uint64{"0123456789abcdef": 1}}
		})
		m.WatchBroadcasts(func() []broadcast.Status { return []broadcast.Status{{App: "shop"}} })
		startPool(t, m, quota.New(quota.Config{}))
		check(t, m)
	})
}
