// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

type reloadMetrics struct {
	count *prometheus.CounterVec
	last  prometheus.Gauge
}

func newReloadMetrics() reloadMetrics {
	m := reloadMetrics{
		count: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "sluice_config_reloads_total",
			Help: "Configuration reloads by result: ok or refused."}, []string{"result"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_config_last_reload_successful",
			Help: "1 if the last configuration reload succeeded, 0 if it was refused and the previous configuration is in use."}),
	}
	m.last.Set(1)
	return m
}

// Reloaded counts a configuration reload.
func (m *Metrics) Reloaded(ok bool) {
	result := "refused"
	if ok {
		result = "ok"
	}
	m.reloads.count.WithLabelValues(result).Inc()
	m.reloads.last.Set(boolValue(ok))
}
