// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/internal/history"
	"github.com/sluice-push/sluice/internal/queue"
	"github.com/sluice-push/sluice/internal/webhooks"
)

var historyReadings = []reading[history.Status]{
	{prometheus.NewDesc("sluice_history_events_total", "Events that this gateway has heard of, its own and others'.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.Events) }},
	{prometheus.NewDesc("sluice_history_lost_total", "Events that nobody waited for and that could not be written.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.Lost) }},
	{prometheus.NewDesc("sluice_history_rebuilt_total", "Times that a damaged index was made anew.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.Rebuilt) }},
	gauge("sluice_history_behind", "Chunks, of up to five hundred events, that are in the stream and not in the index yet.", nil,
		func(s history.Status) float64 { return float64(s.Behind) }),
	gauge("sluice_history_caught_up", "0 while the index is being made, so that questions wait; else 1.", nil,
		func(s history.Status) float64 { return boolValue(s.CaughtUp) }),
}

var queueReadings = []reading[queue.Status]{
	gauge("sluice_queue_bytes", "Bytes on disk of what is due, up to sluice_queue_max_bytes.", nil, func(s queue.Status) float64 { return float64(s.Bytes) }),
	gauge("sluice_queue_later_bytes", "Bytes on disk of what is scheduled or put back, up to sluice_queue_max_bytes.", nil,
		func(s queue.Status) float64 { return float64(s.LaterBytes) }),
	gauge("sluice_queue_max_bytes", "Bound of either, in bytes.", nil, func(s queue.Status) float64 { return float64(s.MaxBytes) }),
}

var waitingTasks = gauge("sluice_queue_waiting", "Notifications that are due, those that are being sent included.", []string{"app", "lane"},
	func(d queue.Depth) float64 { return float64(d.Tasks) })

var webhookLabels = []string{"app", "webhook"}

var webhookReadings = []reading[webhooks.Status]{
	{prometheus.NewDesc("sluice_webhook_told_total", "Events that the receiver took from this gateway.", webhookLabels, nil),
		prometheus.CounterValue, func(s webhooks.Status) float64 { return float64(s.Delivered) }},
	gauge("sluice_webhook_told_up_to_timestamp_seconds", "When the last event happened that the receiver took from this gateway, in Unix time; 0 before the first.",
		webhookLabels, func(s webhooks.Status) float64 { return unixSeconds(s.DeliveredUpTo) }),
	gauge("sluice_webhook_failures", "Attempts in a row that the receiver did not take.", webhookLabels, func(s webhooks.Status) float64 { return float64(s.Failures) }),
	gauge("sluice_webhook_parked_ranges", "Ranges of events that were given up and stand in GET /v1/status, up to a hundred.", webhookLabels,
		func(s webhooks.Status) float64 { return float64(len(s.DeadLettered)) }),
}

// unixSeconds is t in Unix time, 0 if it is none.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Storage tells how queue, history and webhooks stand, nil for one that cannot tell.
type Storage func() (*queue.Status, *history.Status, []webhooks.Status)

// WatchStorage sets what tells of the gateway's one queue and history, and of its webhooks.
func (m *Metrics) WatchStorage(d Storage) { m.storage.status.Store(&d) }

// storageCollector shows queue, history and webhooks as they stand when Prometheus asks.
type storageCollector struct{ status atomic.Pointer[Storage] }

// Describe names the metrics.
func (d *storageCollector) Describe(to chan<- *prometheus.Desc) {
	for _, r := range historyReadings {
		to <- r.desc
	}
	for _, r := range queueReadings {
		to <- r.desc
	}
	for _, r := range webhookReadings {
		to <- r.desc
	}
	to <- waitingTasks.desc
}

// Collect gives their values; none without a queue.
func (d *storageCollector) Collect(to chan<- prometheus.Metric) {
	tell := d.status.Load()
	if tell == nil {
		return
	}
	q, h, hooks := (*tell)()
	if h != nil {
		for _, r := range historyReadings {
			r.send(to, *h)
		}
	}
	for _, w := range hooks {
		for _, r := range webhookReadings {
			r.send(to, w, w.App, w.Name)
		}
	}
	if q == nil {
		return
	}
	for _, r := range queueReadings {
		r.send(to, *q)
	}
	for _, depth := range q.Waiting {
		waitingTasks.send(to, depth, depth.App, string(depth.Lane))
	}
}
