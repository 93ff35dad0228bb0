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
			Help: "Reloads of the configuration, by result: ok or refused."}, []string{"result"}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{Name: "sluice_config_last_reload_successful",
			Help: "0 while the configuration in force is an older one, for the last was refused; else 1."}),
	}
	m.last.Set(1)
	return m
}

// Reloaded counts a reload of the configuration.
func (m *Metrics) Reloaded(ok bool) {
	result := "refused"
	if ok {
		result = "ok"
	}
	m.reloads.count.WithLabelValues(result).Inc()
	m.reloads.last.Set(boolValue(ok))
}
