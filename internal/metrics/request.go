// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

func newRequests() *prometheus.CounterVec {
	return counter("sluice_http_requests_total",
		"Requests to the API that have ended, by the pattern of their route and the class of their status: 2xx to 5xx, or none where the caller left.",
		"route", "class")
}

// Request counts a request to the API. A route is the pattern that matched, never a path, for a stranger can make up any
// number of those; without one it is "none".
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
