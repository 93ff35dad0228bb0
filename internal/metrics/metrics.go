// SPDX-License-Identifier: Apache-2.0

// Package metrics turns what routes and pools tell, and how they stand, into Prometheus metrics. It changes nothing that
// it watches, and no label of its holds a target, a text or a secret.
package metrics

import (
	"net/http"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics are the metrics of one gateway; docs/metrics.md explains each. Make them with New.
type Metrics struct {
	registry *prometheus.Registry
	routes   routeMetrics
	events   eventMetrics
	requests *prometheus.CounterVec
	services serviceCollector
	storage  storageCollector
	reloads  reloadMetrics
}

// New returns metrics of nothing yet, besides those of the process. Route, Observe and Watch connect them to a gateway.
func New() *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), routes: newRouteMetrics(), events: newEventMetrics(), requests: newRequests(), reloads: newReloadMetrics()}
	m.registry.MustRegister(buildInfo(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(m.routes.all()...)
	m.registry.MustRegister(m.events.all()...)
	m.registry.MustRegister(m.requests)
	m.registry.MustRegister(&m.services, &m.storage)
	m.registry.MustRegister(m.reloads.count, m.reloads.last)
	return m
}

// Handler answers GET /metrics. It asks for no key, so it belongs on a listener that is kept private.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Gatherer gives the same to those who do not ask over HTTP.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }

// buildInfo says what Go's own build stamped into the binary.
func buildInfo() prometheus.Collector {
	version, revision, compiler := "unknown", "unknown", "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		version, compiler = info.Main.Version, info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = s.Value
			}
		}
	}
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "sluice_build_info", Help: "Always 1; its labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "go_version": compiler},
	})
	g.Set(1)
	return g
}
