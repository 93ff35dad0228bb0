// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/pool"
)

// eventCounters says what counts the events of a kind. Ejections are counted by their cause, beside it, and the end of a panic
// is not counted: sluice_pool_panic tells it.
var eventCounters = []struct {
	kind       pool.EventKind
	name, help string
}{
	{pool.EventResolved, "sluice_pool_resolve_changes_total", "Answers of the resolver that differed from the last one."},
	{pool.EventResolveFailed, "sluice_pool_resolve_failures_total", "Times that the resolver gave no address, so that its last answer stands."},
	{pool.EventConnected, "sluice_pool_connections_opened_total", "Connections that were made, TLS and SETTINGS included."},
	{pool.EventDialFailed, "sluice_pool_dial_failures_total", "Dials that ended without a connection."},
	{pool.EventJoined, "sluice_pool_joined_total", "Endpoints that took a place in the pool."},
	{pool.EventLeft, "sluice_pool_left_total", "Endpoints that lost their place in the pool."},
	{pool.EventGoAway, "sluice_pool_goaways_total", "Connections that took nothing new any more at the provider's word: GOAWAY, or a close in good order."},
	{pool.EventConnLost, "sluice_pool_connections_lost_total", "Connections that ended in an error that was not ours."},
	{pool.EventConnClosed, "sluice_pool_connections_closed_total", "Connections that the pool itself closed."},
	{pool.EventProbing, "sluice_pool_probes_total", "Requests that were sent to tell whether an ejected endpoint has healed."},
	{pool.EventRecovered, "sluice_pool_recoveries_total", "Ejected endpoints that a probe found healed."},
	{pool.EventPanicStarted, "sluice_pool_panics_total", "Times that so many endpoints were ejected that all were used again."},
}

var causes = []pool.EjectionCause{pool.CauseConsecutiveFailures, pool.CauseFailureRate, pool.CauseSuccessRate, pool.CauseLatency, pool.CauseProbe}

// eventMetrics count the events of pools, by pool.
type eventMetrics struct {
	ejections *prometheus.CounterVec
	kinds     map[pool.EventKind]*prometheus.CounterVec
}

func newEventMetrics() eventMetrics {
	m := eventMetrics{
		ejections: counter("sluice_pool_ejections_total",
			"Times that the breaker of an endpoint opened, by cause: consecutive_failures, failure_rate, success_rate, latency or probe.", "pool", "cause"),
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

// initPool lets the counters of a pool begin at zero, so that the first event already shows as a rate.
func (m *eventMetrics) initPool(name string) {
	for _, cause := range causes {
		m.ejections.WithLabelValues(name, string(cause))
	}
	for _, vec := range m.kinds {
		vec.WithLabelValues(name)
	}
}

// Observe counts an event; it is a pool.Config's Observe.
func (m *Metrics) Observe(e pool.Event) {
	if e.Kind == pool.EventEjected {
		m.events.ejections.WithLabelValues(e.Pool, string(e.Cause)).Inc()
	}
	if vec, ok := m.events.kinds[e.Kind]; ok {
		vec.WithLabelValues(e.Pool).Inc()
	}
}
