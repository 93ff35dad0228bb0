// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// reading is a metric whose value is read from a status on collection.
type reading[S any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(S) float64
}

func gauge[S any](name, help string, labels []string, of func(S) float64) reading[S] {
	return reading[S]{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue, of}
}

func (r reading[S]) send(to chan<- prometheus.Metric, s S, labels ...string) {
	to <- prometheus.MustNewConstMetric(r.desc, r.kind, r.of(s), labels...)
}

var (
	poolLabels      = []string{"pool"}
	stateLabels     = []string{"pool", "state"}
	endpointLabels  = []string{"pool", "endpoint"}
	scopeLaneLabels = []string{"pool", "scope", "lane"}
	scopeLabels     = []string{"pool", "scope"}
)

var poolReadings = []reading[pool.Status]{
	gauge("sluice_pool_ready", "1 if the pool has a connected endpoint.", poolLabels, func(s pool.Status) float64 { return boolValue(s.Ready) }),
	gauge("sluice_pool_panic", "1 while the pool is in panic mode: too many endpoints are ejected, and all are used.", poolLabels, func(s pool.Status) float64 { return boolValue(s.Panic) }),
	gauge("sluice_pool_size", "Maximum number of active endpoints.", poolLabels, func(s pool.Status) float64 { return float64(s.Size) }),
	gauge("sluice_pool_in_flight", "Attempts in flight.", poolLabels, func(s pool.Status) float64 { return float64(s.InFlight) }),
	gauge("sluice_pool_waiting", "Notifications waiting for an endpoint.", poolLabels, func(s pool.Status) float64 { return float64(s.Waiting) }),
	{prometheus.NewDesc("sluice_pool_dials_total", "Dials started.", poolLabels, nil),
		prometheus.CounterValue, func(s pool.Status) float64 { return float64(s.Dials) }},
}

var endpointReadings = []reading[pool.EndpointStatus]{
	gauge("sluice_endpoint_ejected", "1 while the endpoint is ejected but active because there is no replacement.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return boolValue(e.State == "open") }),
	gauge("sluice_endpoint_connections", "Connections to the endpoint.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return float64(e.Connections) }),
	gauge("sluice_endpoint_in_flight", "Attempts in flight on the endpoint.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return float64(e.InFlight) }),
	gauge("sluice_endpoint_failures", "Failures within the window of the endpoint's breaker.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return float64(e.Failures) }),
	gauge("sluice_endpoint_median_seconds", "Median of the endpoint's recent response times; 0 while there are too few.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return e.LatencyMS / 1000 }),
}

var rateLimitReadings = []reading[quota.Status]{
	gauge("sluice_ratelimit_limit", "Configured rate in notifications per second; 0: no limit.", poolLabels, func(s quota.Status) float64 { return s.Limit }),
	gauge("sluice_ratelimit_rate", "Current rate in notifications per second, also that of a push service which limits the sender; 0: no limit.", poolLabels,
		func(s quota.Status) float64 { return s.Rate }),
	gauge("sluice_ratelimit_closed_seconds", "Time until notifications are allowed again after a refusal by the provider; 0: open.", poolLabels,
		func(s quota.Status) float64 { return s.ClosedFor }),
	gauge("sluice_ratelimit_targets", "Devices and topics tracked by the rate limiter.", poolLabels, func(s quota.Status) float64 { return float64(s.Targets) }),
	gauge("sluice_ratelimit_targets_closed", "Devices and topics closed after a refusal by the provider.", poolLabels,
		func(s quota.Status) float64 { return float64(s.ClosedTargets) }),
}

var adaptiveLimitReadings = []reading[pool.LimitStatus]{
	gauge("sluice_adaptive_concurrency_limit", "Current limit of notifications that are being sent, and of single calls that wait for an endpoint.", poolLabels,
		func(s pool.LimitStatus) float64 { return float64(s.Limit) }),
	gauge("sluice_adaptive_concurrency_in_flight", "Notifications that are being sent, and other single calls that wait for an endpoint.", poolLabels,
		func(s pool.LimitStatus) float64 { return float64(s.InFlight) }),
	gauge("sluice_adaptive_concurrency_waiting", "Notifications of batches, of calls with several targets and of the queue that wait for an endpoint.", poolLabels,
		func(s pool.LimitStatus) float64 { return float64(s.Waiting) }),
}

var concurrencyReadings = []reading[pool.LimitStatus]{
	gauge("sluice_concurrency_limit", "Maximum number of notifications in the gateway.", nil,
		func(s pool.LimitStatus) float64 { return float64(s.Limit) }),
	gauge("sluice_concurrency_in_flight", "Notifications in the gateway, including those that wait.", nil,
		func(s pool.LimitStatus) float64 { return float64(s.InFlight) }),
	gauge("sluice_concurrency_waiting", "Notifications queued because the concurrency limit of the gateway is reached.", nil,
		func(s pool.LimitStatus) float64 { return float64(s.Waiting) }),
}

var throttleReading = gauge("sluice_throttle_rejection_ratio", "Fraction of notifications that the throttler rejects, 0 to 1; 0 while the provider answers.",
	poolLabels, func(share float64) float64 { return share })

var unavailableReading = gauge("sluice_pool_unavailable", "1 while the provider is unavailable: no endpoint can be used, or most recent notifications failed.",
	poolLabels, boolValue)

var expiryReading = gauge("sluice_certificate_expires_timestamp_seconds", "Expiry of the client certificate in Unix time. Keys do not expire.",
	poolLabels, func(at time.Time) float64 { return float64(at.Unix()) })

var rateLimitWaitingReading = gauge("sluice_ratelimit_waiting", "Notifications queued for a rate limit, by scope and lane. scope is total, topics, service or a name in quota.scopes.",
	scopeLaneLabels, func(count int) float64 { return float64(count) })

var rateLimitShareReading = gauge("sluice_ratelimit_share", "Fraction of the limit that this gateway may use, 0 to 1; 1: not shared. scope as in sluice_ratelimit_waiting.",
	scopeLabels, func(share float64) float64 { return share })

var (
	endpointsDesc = prometheus.NewDesc("sluice_pool_endpoints",
		"Active endpoints, by state of their breaker: closed, half-open or open.", stateLabels, nil)
	sparesDesc = prometheus.NewDesc("sluice_pool_spares",
		"Inactive known endpoints, by state of their breaker: closed, half-open or open.", stateLabels, nil)
)

// Service is one credential at one push service. Only Pool is required. The name of the pool must
// be unique: it is the label pool of all metrics of the service.
type Service struct {
	Pool        *pool.Pool
	RateLimiter *quota.RateLimiter
	// RejectionRate returns the fraction of notifications that the throttler rejects.
	RejectionRate func() float64
	// Unavailable reports whether the provider is unavailable.
	Unavailable func() bool
	// CertificateExpires is the expiry of the client certificate; zero if there is none.
	CertificateExpires time.Time
}

// serviceCollector reads the state of the services on collection. It also collects the counters of
// their events: these start at zero with the first collection that finds the pool active, so that
// rate() sees the first event.
type serviceCollector struct {
	services    atomic.Pointer[func() []Service]
	concurrency atomic.Pointer[delivery.ConcurrencyLimit]
	events      *eventMetrics
}

// WatchServices sets the function that returns the current services.
func (m *Metrics) WatchServices(services func() []Service) { m.services.services.Store(&services) }

// WatchConcurrencyLimit sets the concurrency limit of the gateway.
func (m *Metrics) WatchConcurrencyLimit(c *delivery.ConcurrencyLimit) {
	m.services.concurrency.Store(c)
}

// Describe implements prometheus.Collector.
func (s *serviceCollector) Describe(to chan<- *prometheus.Desc) {
	for _, counters := range s.events.all() {
		counters.Describe(to)
	}
	to <- endpointsDesc
	to <- sparesDesc
	for _, r := range poolReadings {
		to <- r.desc
	}
	for _, r := range endpointReadings {
		to <- r.desc
	}
	for _, r := range rateLimitReadings {
		to <- r.desc
	}
	for _, r := range append(adaptiveLimitReadings[:len(adaptiveLimitReadings):len(adaptiveLimitReadings)], concurrencyReadings...) {
		to <- r.desc
	}
	to <- throttleReading.desc
	to <- unavailableReading.desc
	to <- expiryReading.desc
	to <- rateLimitWaitingReading.desc
	to <- rateLimitShareReading.desc
}

// Collect implements prometheus.Collector.
func (s *serviceCollector) Collect(to chan<- prometheus.Metric) {
	concurrency := s.concurrency.Load().Status()
	for _, r := range concurrencyReadings {
		r.send(to, concurrency)
	}
	if services := s.services.Load(); services != nil {
		for _, w := range (*services)() {
			if !w.Pool.Idle() { // it would look like a pool without connected endpoints
				status := w.Pool.Status()
				s.events.initPool(status.Name)
				w.collect(to, status)
			}
		}
	}
	for _, counters := range s.events.all() {
		counters.Collect(to)
	}
}

func (w Service) collect(to chan<- prometheus.Metric, status pool.Status) {
	for _, r := range poolReadings {
		r.send(to, status, status.Name)
	}
	for _, e := range status.Endpoints {
		for _, r := range endpointReadings {
			r.send(to, e, status.Name, e.Address)
		}
	}
	sendByState(to, endpointsDesc, status.Name, status.Endpoints)
	sendByState(to, sparesDesc, status.Name, status.Spares)
	adaptive := w.Pool.LimitStatus()
	for _, r := range adaptiveLimitReadings {
		r.send(to, adaptive, status.Name)
	}
	if w.RejectionRate != nil {
		throttleReading.send(to, w.RejectionRate(), status.Name)
	}
	if w.Unavailable != nil {
		unavailableReading.send(to, w.Unavailable(), status.Name)
	}
	if !w.CertificateExpires.IsZero() {
		expiryReading.send(to, w.CertificateExpires, status.Name)
	}
	w.collectRateLimit(to, status.Name)
}

func (w Service) collectRateLimit(to chan<- prometheus.Metric, name string) {
	limits := w.RateLimiter.Status()
	for _, r := range rateLimitReadings {
		r.send(to, limits, name)
	}
	sendWaiting(to, name, "total", limits.Waiting)
	rateLimitShareReading.send(to, limits.Share, name, "total")
	for _, scope := range limits.Scopes {
		sendWaiting(to, name, scope.Name, scope.Waiting)
		rateLimitShareReading.send(to, scope.Share, name, scope.Name)
	}
}

// sendWaiting sends the number of queued notifications of a scope by lane.
func sendWaiting(to chan<- prometheus.Metric, pool, scope string, w quota.Waiting) {
	rateLimitWaitingReading.send(to, w.Critical, pool, scope, string(push.LaneCritical))
	rateLimitWaitingReading.send(to, w.Normal, pool, scope, string(push.LaneNormal))
	rateLimitWaitingReading.send(to, w.Bulk, pool, scope, string(push.LaneBulk))
}

// sendByState sends the number of endpoints by state of their breaker.
func sendByState(to chan<- prometheus.Metric, desc *prometheus.Desc, name string, endpoints []pool.EndpointStatus) {
	states := map[string]int{"closed": 0, "half-open": 0, "open": 0}
	for _, e := range endpoints {
		states[e.State]++
	}
	for state, n := range states {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), name, state)
	}
}

// boolValue returns 1 for true and 0 for false.
func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
