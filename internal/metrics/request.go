// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func newRequests() *prometheus.CounterVec {
	return counter("sluice_http_requests_total",
		"Completed API requests by route pattern and status class: 2xx to 5xx, or none if the client disconnected.",
		"route", "class")
}

// WatchConnections adds metrics for the connections of clients. It must be called at most once.
func (m *Metrics) WatchConnections(open func() int64, limit int, evicted func() uint64) {
	m.registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_http_connections", Help: "Open connections of clients to the API."},
			func() float64 { return float64(open()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "sluice_http_connections_limit", Help: "Maximum of sluice_http_connections."},
			func() float64 { return float64(limit) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sluice_http_connections_evicted_total",
			Help: "Connections without a request that were closed at the limit to make room for new ones."},
			func() float64 { return float64(evicted()) }),
	)
}

// Request counts an API request. route is the pattern that matched, or empty. It must not be a
// path: clients could create any number of series.
func (m *Metrics) Request(route string, status int) {
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(route, classes[status/100]).Inc()
}

// classes are the values of the label by the first digit of the status.
var classes = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

func newRefusals() *prometheus.CounterVec {
	return counter("sluice_callers_refused_total",
		"Requests, and items of batches, refused because of their caller, by the kind of its credential (key, token, certificate or none) and reason.",
		"kind", "reason")
}

// Refused counts a request that is refused because of its caller. kind and reason must be constants.
func (m *Metrics) Refused(kind, reason string) { m.refusals.WithLabelValues(kind, reason).Inc() }

// KeyExpiry is when an API key expires. App is empty for a key of several apps.
type KeyExpiry struct {
	App, Key  string
	ExpiresAt time.Time
}

// keyCollector exports when API keys expire.
type keyCollector struct {
	desc *prometheus.Desc
	keys func() []KeyExpiry
}

// WatchKeys sets the function that returns the API keys that expire. It must be called at most once.
func (m *Metrics) WatchKeys(keys func() []KeyExpiry) {
	desc := prometheus.NewDesc("sluice_key_expiry_timestamp_seconds",
		"When an API key expires, in Unix time. Keys without expires_at have none; app is empty for a key in auth.keys.", []string{"app", "key"}, nil)
	m.registry.MustRegister(keyCollector{desc, keys})
}

// Describe implements prometheus.Collector.
func (c keyCollector) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

// Collect implements prometheus.Collector.
func (c keyCollector) Collect(to chan<- prometheus.Metric) {
	for _, k := range c.keys() {
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(k.ExpiresAt.Unix()), k.App, k.Key)
	}
}
