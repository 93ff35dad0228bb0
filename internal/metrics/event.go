// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/pool"
)

// eventCounters are the counters by kind of event. Ejections have their own counter with the label
// cause. The end of a panic mode has none: sluice_pool_panic shows it.
var eventCounters = []struct {
	kind       pool.EventKind
	name, help string
}{
	{pool.EventResolved, "sluice_pool_resolve_changes_total", "Resolver results that differed from the previous one."},
	{pool.EventResolveFailed, "sluice_pool_resolve_failures_total", "Resolutions without an address. The pool keeps the last result."},
	{pool.EventConnected, "sluice_pool_connections_opened_total", "Connections opened, including the TLS handshake and SETTINGS."},
	{pool.EventDialFailed, "sluice_pool_dial_failures_total", "Dials that failed."},
	{pool.EventJoined, "sluice_pool_joined_total", "Endpoints added to the active set of the pool."},
	{pool.EventLeft, "sluice_pool_left_total", "Endpoints removed from the active set of the pool."},
	{pool.EventGoAway, "sluice_pool_goaways_total", "Connections drained by the provider with GOAWAY or a clean close."},
	{pool.EventConnLost, "sluice_pool_connections_lost_total", "Connections that ended with an error not caused by the pool."},
	{pool.EventConnClosed, "sluice_pool_connections_closed_total", "Connections closed by the pool."},
	{pool.EventProbing, "sluice_pool_probes_total", "Probe requests to ejected endpoints."},
	{pool.EventRecovered, "sluice_pool_recoveries_total", "Ejected endpoints that recovered after a probe."},
	{pool.EventPanicStarted, "sluice_pool_panics_total", "Times that the pool entered panic mode."},
}

var causes = []pool.EjectionCause{pool.CauseConsecutiveFailures, pool.CauseFailureRate, pool.CauseSuccessRate, pool.CauseLatency, pool.CauseProbe}

// eventMetrics are the event counters of all pools.
type eventMetrics struct {
	ejections *prometheus.CounterVec
	kinds     map[pool.EventKind]*prometheus.CounterVec
}

func newEventMetrics() eventMetrics {
	m := eventMetrics{
		ejections: counter("sluice_pool_ejections_total",
			"Ejections of endpoints by cause: consecutive_failures, failure_rate, success_rate, latency or probe.", "pool", "cause"),
		kinds: make(map[pool.EventKind]*prometheus.CounterVec, len(eventCounters)),
	}
	for _, c := range eventCounters {
		m.kinds[c.kind] = counter(c.name, c.help, "pool")
	}
	return m
}

func (m *eventMetrics) all() []prometheus.Collector {
	all := []prometheus.Collector{m.ejections}
	for _, vec := range m.kinds {
		all = append(all, vec)
	}
	return all
}

// initPool creates the counters of a pool with the value zero, so that rate() sees the first event.
func (m *eventMetrics) initPool(name string) {
	for _, cause := range causes {
		m.ejections.WithLabelValues(name, string(cause))
	}
	for _, vec := range m.kinds {
		vec.WithLabelValues(name)
	}
}

// Observe counts an event. Use it as Observe in pool.Config.
func (m *Metrics) Observe(e pool.Event) {
	if e.Kind == pool.EventEjected {
		m.events.ejections.WithLabelValues(e.Pool, string(e.Cause)).Inc()
	}
	if vec, ok := m.events.kinds[e.Kind]; ok {
		vec.WithLabelValues(e.Pool).Inc()
	}
}
