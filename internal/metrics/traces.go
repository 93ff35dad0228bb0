// SPDX-License-Identifier: Apache-2.0

package metrics

import "github.com/prometheus/client_golang/prometheus"

// WatchTraces adds metrics for the export of traces: how many spans were exported, and how many were
// dropped because the buffer was full or their export failed. It must be called at most once.
func (m *Metrics) WatchTraces(exported, bufferFull, exportFailed func() uint64) {
	spans := func(result string, count func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "sluice_trace_spans_total", Help: "Spans by result: exported, or dropped because the buffer was full (buffer_full) or because the receiver did not take them (export_failed).",
			ConstLabels: prometheus.Labels{"result": result},
		}, func() float64 { return float64(count()) })
	}
	m.registry.MustRegister(spans("exported", exported), spans("buffer_full", bufferFull), spans("export_failed", exportFailed))
}
