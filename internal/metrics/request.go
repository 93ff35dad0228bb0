// SPDX-License-Identifier: Apache-2.0

package metrics

import (
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
