// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/internal/broadcast"
)

var appLabels = []string{"app"}

var broadcastReadings = []reading[broadcast.Status]{
	gauge("sluice_broadcast_pending", "Lines that are not enqueued yet, of broadcasts that are running, paused or recalling.", appLabels,
		func(s broadcast.Status) float64 { return float64(s.Pending) }),
	gauge("sluice_broadcast_due", "Lines that could be enqueued now, of the broadcasts that this gateway works on.", appLabels,
		func(s broadcast.Status) float64 { return float64(s.Due) }),
	gauge("sluice_broadcasts_delayed", "Broadcasts that this gateway works on and whose last step has failed. It is repeated; the log has the reason.", appLabels,
		func(s broadcast.Status) float64 { return float64(s.Delayed) }),
	{prometheus.NewDesc("sluice_broadcast_enqueued_total", "Notifications of broadcasts enqueued by this gateway.", appLabels, nil),
		prometheus.CounterValue, func(s broadcast.Status) float64 { return float64(s.Enqueued) }},
}

var (
	broadcastStates = gauge("sluice_broadcasts", "Stored broadcasts by state.", []string{"app", "state"}, func(n uint64) float64 { return float64(n) })
	autoPaused      = gauge("sluice_broadcasts_auto_paused", "Broadcasts that are paused because a limit of pause_if was exceeded: refused or unregistered.",
		[]string{"app", "reason"}, func(n uint64) float64 { return float64(n) })
)

// WatchBroadcasts sets the function that returns the state of the broadcasts of each app; nothing while
// they are not open.
func (m *Metrics) WatchBroadcasts(status func() []broadcast.Status) {
	m.broadcasts.status.Store(&status)
}

// broadcastCollector reads the state of the broadcasts on collection.
type broadcastCollector struct {
	status atomic.Pointer[func() []broadcast.Status]
}

// Describe implements prometheus.Collector.
func (c *broadcastCollector) Describe(to chan<- *prometheus.Desc) {
	for _, r := range broadcastReadings {
		to <- r.desc
	}
	to <- broadcastStates.desc
	to <- autoPaused.desc
}

// Collect implements prometheus.Collector. An app has all series or none, so that rate() sees the first
// change.
func (c *broadcastCollector) Collect(to chan<- prometheus.Metric) {
	status := c.status.Load()
	if status == nil {
		return
	}
	for _, s := range (*status)() {
		for _, r := range broadcastReadings {
			r.send(to, s, s.App)
		}
		for _, state := range broadcast.States {
			broadcastStates.send(to, s.States[state], s.App, string(state))
		}
		for _, reason := range broadcast.AutoPauseReasons {
			autoPaused.send(to, s.AutoPaused[reason], s.App, reason)
		}
	}
}
