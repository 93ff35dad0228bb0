// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/history"
	"github.com/sluice-push/sluice/queue"
)

var historyReadings = []reading[history.Status]{
	{prometheus.NewDesc("sluice_history_events_total", "Events that this gateway has heard of, its own and others'.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.Events) }},
	{prometheus.NewDesc("sluice_history_lost_total", "Events that nobody waited for and that could not be written.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.Lost) }},
	{prometheus.NewDesc("sluice_history_rebuilt_total", "Times that a damaged index was made anew.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.Rebuilt) }},
	gauge("sluice_history_behind", "Chunks, of up to a hundred events, that are in the stream and not in the index yet.", nil,
		func(s history.Status) float64 { return float64(s.Behind) }),
	gauge("sluice_history_caught_up", "0 while the index is being made, so that questions wait; else 1.", nil,
		func(s history.Status) float64 { return one(s.CaughtUp) }),
}

var queueReadings = []reading[queue.Status]{
	gauge("sluice_queue_bytes", "Bytes on disk of what is due, up to sluice_queue_max_bytes.", nil, func(s queue.Status) float64 { return float64(s.Bytes) }),
	gauge("sluice_queue_later_bytes", "Bytes on disk of what is scheduled or put back, up to sluice_queue_max_bytes.", nil,
		func(s queue.Status) float64 { return float64(s.LaterBytes) }),
	gauge("sluice_queue_max_bytes", "Bound of either, in bytes.", nil, func(s queue.Status) float64 { return float64(s.MaxBytes) }),
}

var waitingTasks = gauge("sluice_queue_waiting", "Notifications that are due, those that are being sent included.", []string{"app", "lane"},
	func(d queue.Depth) float64 { return float64(d.Tasks) })

// Durable tells how queue and history stand, nil for one that cannot tell.
type Durable func() (*queue.Status, *history.Status)

// WatchDurable sets what tells of the gateway's one queue and history.
func (m *Metrics) WatchDurable(d Durable) { m.durable.tell.Store(&d) }

// durable shows queue and history as they stand when Prometheus asks.
type durable struct{ tell atomic.Pointer[Durable] }

// Describe names the metrics.
func (d *durable) Describe(to chan<- *prometheus.Desc) {
	for _, r := range historyReadings {
		to <- r.desc
	}
	for _, r := range queueReadings {
		to <- r.desc
	}
	to <- waitingTasks.desc
}

// Collect gives their values; none without a queue.
func (d *durable) Collect(to chan<- prometheus.Metric) {
	tell := d.tell.Load()
	if tell == nil {
		return
	}
	q, h := (*tell)()
	if h != nil {
		for _, r := range historyReadings {
			r.send(to, *h)
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
