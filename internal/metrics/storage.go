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
	{prometheus.NewDesc("sluice_history_events_total", "Events received by this gateway, including those of other gateways.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.Events) }},
	{prometheus.NewDesc("sluice_history_index_rebuilds_total", "Rebuilds of a damaged index.", nil, nil),
		prometheus.CounterValue, func(s history.Status) float64 { return float64(s.IndexRebuilds) }},
	gauge("sluice_history_lag_batches", "Messages of a NATS cluster's stream that this gateway has not received yet.", nil,
		func(s history.Status) float64 { return float64(s.LagBatches) }),
	gauge("sluice_history_caught_up", "0 after the start until this gateway has all events of a NATS cluster, and queries wait, otherwise 1.", nil,
		func(s history.Status) float64 { return boolValue(s.CaughtUp) }),
}

var queueReadings = []reading[queue.Status]{
	gauge("sluice_queue_bytes", "Size on disk of due notifications in bytes, at most sluice_queue_max_bytes.", nil, func(s queue.Status) float64 { return float64(s.Bytes) }),
	gauge("sluice_queue_scheduled_bytes", "Size on disk of scheduled and rescheduled notifications in bytes, at most sluice_queue_max_bytes.", nil,
		func(s queue.Status) float64 { return float64(s.LaterBytes) }),
	gauge("sluice_queue_oldest_timestamp_seconds", "When the oldest due notification was stored, in Unix time; 0 if none is due.", nil,
		func(s queue.Status) float64 { return unixSeconds(s.Oldest) }),
	gauge("sluice_queue_max_bytes", "Maximum of sluice_queue_bytes and of sluice_queue_scheduled_bytes.", nil, func(s queue.Status) float64 { return float64(s.MaxBytes) }),
}

var waitingTasks = gauge("sluice_queue_waiting", "Due notifications, including those in flight.", []string{"app", "lane"},
	func(d queue.Depth) float64 { return float64(d.Tasks) })

var webhookLabels = []string{"app", "webhook"}

var webhookReadings = []reading[webhooks.Status]{
	{prometheus.NewDesc("sluice_webhook_delivered_total", "Events delivered to the receiver by this gateway.", webhookLabels, nil),
		prometheus.CounterValue, func(s webhooks.Status) float64 { return float64(s.Delivered) }},
	gauge("sluice_webhook_delivered_up_to_timestamp_seconds", "Time of the last event delivered by this gateway, in Unix time; 0: none yet.",
		webhookLabels, func(s webhooks.Status) float64 { return unixSeconds(s.DeliveredUpTo) }),
	gauge("sluice_webhook_failures", "Consecutive failed attempts.", webhookLabels, func(s webhooks.Status) float64 { return float64(s.Failures) }),
	gauge("sluice_webhook_disabled", "1 if the receiver has disabled the webhook with the response 410, otherwise 0.", webhookLabels,
		func(s webhooks.Status) float64 { return boolValue(!s.DisabledSince.IsZero()) }),
	gauge("sluice_webhook_dead_lettered_ranges", "Ranges of events that were not delivered, as in GET /v1/status, at most 100.", webhookLabels,
		func(s webhooks.Status) float64 { return float64(len(s.DeadLettered)) }),
}

var healthReadings = []reading[StorageHealth]{
	gauge("sluice_queue_writable", "1 if the queue can accept notifications, 0 if the disk is full, or NATS or the disk does not respond.", nil,
		func(s StorageHealth) float64 { return boolValue(s.Writable) }),
	{prometheus.NewDesc("sluice_history_trims_total", "Times that the gateway began to delete the oldest events because the disk was nearly full.", nil, nil),
		prometheus.CounterValue, func(s StorageHealth) float64 { return float64(s.Trims) }},
}

var natsReading = gauge("sluice_nats_connected", "1 while the gateway is connected to NATS. Missing with an embedded queue.", nil, boolValue)

var encryptedReading = gauge("sluice_queue_encrypted_messages", "Messages of the log that are encrypted with a key of queue.encryption. A key without them can be removed.",
	[]string{"key"}, func(messages uint64) float64 { return float64(messages) })

// StorageHealth says whether the storage of a gateway works.
type StorageHealth struct {
	Writable  bool   // the queue can accept notifications
	Trims     uint64 // times that a nearly full disk has shortened the history
	External  bool   // the storage is in NATS
	Connected bool   // to it
	// Encrypted is the number of messages that are encrypted with each key, by its ID.
	Encrypted map[string]uint64
}

// WatchStorageHealth sets the function that returns the health of the storage; nil while it is not
// open.
func (m *Metrics) WatchStorageHealth(health func() *StorageHealth) { m.storage.health.Store(&health) }

// unixSeconds returns t in Unix time, or 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Storage returns the state of the queue, the history and the webhooks; nil for one that is not
// available.
type Storage func() (*queue.Status, *history.Status, []webhooks.Status)

// WatchStorage sets the function that returns the state of the storage of the gateway.
func (m *Metrics) WatchStorage(s Storage) { m.storage.status.Store(&s) }

// storageCollector reads the state of the storage on collection.
type storageCollector struct {
	status atomic.Pointer[Storage]
	health atomic.Pointer[func() *StorageHealth]
}

// Describe implements prometheus.Collector.
func (c *storageCollector) Describe(to chan<- *prometheus.Desc) {
	for _, r := range historyReadings {
		to <- r.desc
	}
	for _, r := range queueReadings {
		to <- r.desc
	}
	for _, r := range webhookReadings {
		to <- r.desc
	}
	for _, r := range healthReadings {
		to <- r.desc
	}
	to <- natsReading.desc
	to <- encryptedReading.desc
	to <- waitingTasks.desc
}

// Collect implements prometheus.Collector. Without a Storage it sends nothing.
func (c *storageCollector) Collect(to chan<- prometheus.Metric) {
	c.collectHealth(to)
	storage := c.status.Load()
	if storage == nil {
		return
	}
	q, h, hooks := (*storage)()
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

func (c *storageCollector) collectHealth(to chan<- prometheus.Metric) {
	read := c.health.Load()
	if read == nil {
		return
	}
	health := (*read)()
	if health == nil {
		return
	}
	for _, r := range healthReadings {
		r.send(to, *health)
	}
	if health.External {
		natsReading.send(to, health.Connected)
	}
	for key, messages := range health.Encrypted {
		encryptedReading.send(to, messages, key)
	}
}
