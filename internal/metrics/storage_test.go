// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/webhooks"
	"github.com/sluice-push/sluice/push"
)

func TestStorageMetrics(t *testing.T) {
	m := metrics.New(nil)
	if lines := slices.Concat(scrape(t, m, "sluice_queue"), scrape(t, m, "sluice_history"), scrape(t, m, "sluice_webhook")); len(lines) > 0 {
		t.Errorf("without storage: %q", lines)
	}
	m.WatchStorage(func() (*queue.Status, *history.Status, []webhooks.Status) {
		return &queue.Status{Bytes: 1, LaterBytes: 2, MaxBytes: 3, Oldest: time.Unix(13, 5e8), Waiting: []queue.Depth{{App: "shop", Lane: push.LaneBulk, Tasks: 4}}},
			&history.Status{Events: 5, LagBatches: 7, IndexRebuilds: 8, CaughtUp: true},
			[]webhooks.Status{{App: "shop", Name: "crm", Delivered: 9, DeliveredUpTo: time.Unix(10, 5e8), Failures: 11, DeadLettered: make([]webhooks.Range, 12)}}
	})
	expectLines(t, m, `sluice_queue_bytes 1`, `sluice_queue_scheduled_bytes 2`, `sluice_queue_max_bytes 3`, `sluice_queue_oldest_timestamp_seconds 13.5`, `sluice_queue_waiting{app="shop",lane="bulk"} 4`,
		`sluice_history_events_total 5`, `sluice_history_lag_batches 7`, `sluice_history_index_rebuilds_total 8`, `sluice_history_caught_up 1`,
		`sluice_webhook_delivered_total{app="shop",webhook="crm"} 9`, `sluice_webhook_delivered_up_to_timestamp_seconds{app="shop",webhook="crm"} 10.5`,
		`sluice_webhook_failures{app="shop",webhook="crm"} 11`, `sluice_webhook_dead_lettered_ranges{app="shop",webhook="crm"} 12`)
}

func TestStorageHealthMetrics(t *testing.T) {
	m := metrics.New(nil)
	var health *metrics.StorageHealth
	m.WatchStorageHealth(func() *metrics.StorageHealth { return health })
	if lines := slices.Concat(scrape(t, m, "sluice_queue"), scrape(t, m, "sluice_nats")); len(lines) > 0 {
		t.Errorf("while the storage is not open: %q", lines)
	}
	health = &metrics.StorageHealth{Writable: true, Trims: 2}
	expectLines(t, m, `sluice_queue_writable 1`, `sluice_history_trims_total 2`)
	health.Encrypted = map[string]uint64{"0123456789abcdef": 3}
	expectLines(t, m, `sluice_queue_encrypted_messages{key="0123456789abcdef"} 3`)
	if lines := scrape(t, m, "sluice_nats"); len(lines) > 0 {
		t.Errorf("with an embedded queue: %q", lines)
	}
	health = &metrics.StorageHealth{External: true, Connected: true}
	expectLines(t, m, `sluice_queue_writable 0`, `sluice_nats_connected 1`)
	health.Connected = false
	expectLines(t, m, `sluice_nats_connected 0`)
}

// TestPanicWhileMetricsAreReadIsLogged panics in the function that returns the state of the storage. The
// scrape has the other metrics.
func TestPanicWhileMetricsAreReadIsLogged(t *testing.T) {
	var text bytes.Buffer
	m := metrics.New(slog.New(slog.NewTextHandler(&text, nil)))
	m.WatchStorage(func() (*queue.Status, *history.Status, []webhooks.Status) { panic("SECRET") })
	expectLines(t, m, `sluice_log_dropped_total 0`)
	if log := text.String(); !strings.Contains(log, "task=metrics") || strings.Contains(log, "SECRET") {
		t.Errorf("log: %s", log)
	}
}
