// SPDX-License-Identifier: Apache-2.0

// Package metrics exports the events and the state of routes, pools and storage as Prometheus
// metrics. No label contains a target, text of a notification or a secret.
package metrics

import (
	"log/slog"
	"net/http"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/sluice-push/sluice/internal/buildinfo"
	"github.com/sluice-push/sluice/internal/panics"
)

// Metrics are the metrics of one gateway. docs/metrics.md describes each of them.
type Metrics struct {
	registry   *prometheus.Registry
	routes     routeMetrics
	events     eventMetrics
	requests   *prometheus.CounterVec
	refusals   *prometheus.CounterVec
	services   serviceCollector
	storage    storageCollector
	broadcasts broadcastCollector
	reloads    reloadMetrics
	// droppedLog returns the number of dropped log records; nil if nothing counts them.
	droppedLog atomic.Pointer[func() int]
}

// New returns Metrics with the build and process metrics only. Route, Observe and the Watch methods
// add the metrics of a gateway. Panics while the state of the gateway is read are logged to log; nil
// discards them.
func New(log *slog.Logger) *Metrics {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m := &Metrics{registry: prometheus.NewRegistry(), routes: newRouteMetrics(), events: newEventMetrics(), requests: newRequests(), refusals: newRefusals(), reloads: newReloadMetrics()}
	m.registry.MustRegister(buildInfo(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.routes.all()...)
	m.registry.MustRegister(m.requests, m.refusals)
	m.services.events = &m.events
	m.registry.MustRegister(guarded{&m.services, log}, guarded{&m.storage, log}, guarded{&m.broadcasts, log})
	m.registry.MustRegister(m.reloads.count, m.reloads.last, m.logCounter())
	return m
}

// guarded is a collector whose panics do not end the process: the registry runs collectors in goroutines
// of its own. After a panic, metrics are missing in the scrape.
type guarded struct {
	prometheus.Collector
	log *slog.Logger
}

// Collect implements prometheus.Collector.
func (g guarded) Collect(to chan<- prometheus.Metric) {
	_ = panics.Recover(g.log, "metrics", func() error {
		g.Collector.Collect(to)
		return nil
	})
}

// WatchLog sets the function that returns the number of dropped log records.
func (m *Metrics) WatchLog(dropped func() int) { m.droppedLog.Store(&dropped) }

func (m *Metrics) logCounter() prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sluice_log_dropped_total",
		Help: "Log records dropped because the reader of standard error stalled or ended."}, func() float64 {
		if dropped := m.droppedLog.Load(); dropped != nil {
			return float64((*dropped)())
		}
		return 0
	})
}

// Handler serves GET /metrics. It requires no API key: serve it on a private listener only.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, EnableOpenMetrics: true})
}

// Gatherer returns the metrics for use without HTTP.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// buildInfo returns a metric with the version information of the binary as labels.
func buildInfo() prometheus.Collector {
	info := buildinfo.Read()
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sluice_build_info", Help: "Always 1. The labels identify the build.",
		ConstLabels: prometheus.Labels{"version": info.Version, "revision": info.Commit, "go_version": info.GoVersion},
	})
	g.Set(1)
	return g
}
