// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

func newRequests() *prometheus.CounterVec {
	return counter("sluice_http_requests_total",
		"Completed API requests by route pattern and status class: 2xx to 5xx, or none if the client disconnected.",
		"route", "class")
}

// Request counts an API request. route is the pattern that matched, or empty. It must not be a
// path: clients could create any number of series.
func (m *Metrics) Request(route string, status int) {
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(route, class(status)).Inc()
}

func class(status int) string {
	if status == 0 {
		return "none"
	}
	return strconv.Itoa(status/100) + "xx"
}
