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

// Issuer is the state of the keys of an issuer of tokens.
type Issuer struct {
	URL       string
	FetchedAt time.Time // zero before the first success
	Failures  int64
}

var issuerReadings = []reading[Issuer]{
	gauge("sluice_oidc_keys_fetched_timestamp_seconds", "When the keys of an issuer of tokens were last fetched, in Unix time; 0: not yet.", []string{"issuer"},
		func(i Issuer) float64 { return unixSeconds(i.FetchedAt) }),
	{prometheus.NewDesc("sluice_oidc_fetch_failures_total", "Failed attempts to fetch the keys of an issuer of tokens.", []string{"issuer"}, nil),
		prometheus.CounterValue, func(i Issuer) float64 { return float64(i.Failures) }},
}

var keyExpiry = gauge("sluice_key_expiry_timestamp_seconds",
	"When an API key expires, in Unix time. Keys without expires_at have none; app is empty for a key in auth.keys.", []string{"app", "key"},
	func(k KeyExpiry) float64 { return unixSeconds(k.ExpiresAt) })

// callerCollector exports the state of what identifies callers.
type callerCollector struct {
	keys    func() []KeyExpiry
	issuers func() []Issuer
}

// WatchCallers sets the functions that return the API keys that expire, and the issuers of tokens. It must
// be called at most once.
func (m *Metrics) WatchCallers(keys func() []KeyExpiry, issuers func() []Issuer) {
	m.registry.MustRegister(callerCollector{keys, issuers})
}

// Describe implements prometheus.Collector.
func (c callerCollector) Describe(to chan<- *prometheus.Desc) {
	to <- keyExpiry.desc
	for _, r := range issuerReadings {
		to <- r.desc
	}
}

// Collect implements prometheus.Collector.
func (c callerCollector) Collect(to chan<- prometheus.Metric) {
	for _, k := range c.keys() {
		keyExpiry.send(to, k, k.App, k.Key)
	}
	for _, issuer := range c.issuers() {
		for _, r := range issuerReadings {
			r.send(to, issuer, issuer.URL)
		}
	}
}

// WatchAudit sets the function that returns the number of records of the audit log that were lost. It must
// be called at most once.
func (m *Metrics) WatchAudit(lost func() int64) {
	m.registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "sluice_audit_lost_total",
		Help: "Records of the audit log that were lost, because too many waited or the queue did not store them."}, func() float64 { return float64(lost()) }))
}
