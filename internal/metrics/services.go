// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// reading is one value of something that stands in some way when Prometheus asks.
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
	gauge("sluice_pool_ready", "1 if the pool has a live endpoint.", poolLabels, func(s pool.Status) float64 { return boolValue(s.Ready) }),
	gauge("sluice_pool_panic", "1 while so many endpoints are ejected that all are used.", poolLabels, func(s pool.Status) float64 { return boolValue(s.Panic) }),
	gauge("sluice_pool_size", "Places for endpoints that the pool has.", poolLabels, func(s pool.Status) float64 { return float64(s.Size) }),
	gauge("sluice_pool_in_flight", "Attempts that hold a lease.", poolLabels, func(s pool.Status) float64 { return float64(s.InFlight) }),
	gauge("sluice_pool_waiting", "Notifications that wait for an endpoint.", poolLabels, func(s pool.Status) float64 { return float64(s.Waiting) }),
	{prometheus.NewDesc("sluice_pool_dials_total", "Dials that were begun.", poolLabels, nil),
		prometheus.CounterValue, func(s pool.Status) float64 { return float64(s.Dials) }},
}

var endpointReadings = []reading[pool.EndpointStatus]{
	gauge("sluice_endpoint_ejected", "1 while the endpoint is ejected and keeps its place for want of another.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return boolValue(e.State == "open") }),
	gauge("sluice_endpoint_connections", "Connections to the endpoint.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return float64(e.Connections) }),
	gauge("sluice_endpoint_in_flight", "Attempts that hold a lease of the endpoint.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return float64(e.InFlight) }),
	gauge("sluice_endpoint_failures", "Failures of the endpoint within its breaker's window.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return float64(e.Failures) }),
	gauge("sluice_endpoint_median_seconds", "Median time of the endpoint's answers, lately; 0 while it has given too few.", endpointLabels,
		func(e pool.EndpointStatus) float64 { return e.LatencyMS / 1000 }),
}

var rateLimitReadings = []reading[quota.Status]{
	gauge("sluice_gate_limit", "Configured rate in notifications a second; 0 where none is.", poolLabels, func(s quota.Status) float64 { return s.Limit }),
	gauge("sluice_gate_rate", "Rate that the gate allows now, in notifications a second; 0 where no limit is configured.", poolLabels,
		func(s quota.Status) float64 { return s.Rate }),
	gauge("sluice_gate_closed_seconds", "Time until the gate opens again for everything behind it; 0 while it is open.", poolLabels,
		func(s quota.Status) float64 { return s.ClosedFor }),
	gauge("sluice_gate_targets", "Devices and topics that the gate remembers.", poolLabels, func(s quota.Status) float64 { return float64(s.Targets) }),
	gauge("sluice_gate_targets_closed", "Devices and topics that the gate lets nothing pass to now.", poolLabels,
		func(s quota.Status) float64 { return float64(s.ClosedTargets) }),
}

var adaptiveLimitReadings = []reading[delivery.LimitStatus]{
	gauge("sluice_admission_limit", "Notifications that may wait for an endpoint or be on one.", poolLabels,
		func(s delivery.LimitStatus) float64 { return float64(s.Limit) }),
	gauge("sluice_admission_in_flight", "Notifications that wait for an endpoint or are on one.", poolLabels,
		func(s delivery.LimitStatus) float64 { return float64(s.InFlight) }),
	gauge("sluice_admission_waiting", "Notifications of batches that wait until there are fewer of those.", poolLabels,
		func(s delivery.LimitStatus) float64 { return float64(s.Waiting) }),
}

var concurrencyReadings = []reading[delivery.LimitStatus]{
	gauge("sluice_ceiling_limit", "Notifications that the whole gateway may carry.", nil,
		func(s delivery.LimitStatus) float64 { return float64(s.Limit) }),
	gauge("sluice_ceiling_in_flight", "Notifications that the whole gateway carries, whatever they wait for.", nil,
		func(s delivery.LimitStatus) float64 { return float64(s.InFlight) }),
	gauge("sluice_ceiling_waiting", "Notifications of batches that wait until it carries fewer.", nil,
		func(s delivery.LimitStatus) float64 { return float64(s.Waiting) }),
}

var throttleReading = gauge("sluice_brake_held_share", "Share of notifications that the brake holds back now, 0 to 1; 0 while the provider answers.",
	poolLabels, func(share float64) float64 { return share })

var expiryReading = gauge("sluice_certificate_expires_timestamp_seconds", "When the client certificate expires, in Unix time; keys do not expire.",
	poolLabels, func(at time.Time) float64 { return float64(at.Unix()) })

var rateLimitWaitingReading = gauge("sluice_gate_waiting", "Notifications in line before a quota, by lane; scope is total, topics or the name of one of quota.scopes.",
	scopeLaneLabels, func(count int) float64 { return float64(count) })

var rateLimitShareReading = gauge("sluice_gate_share", "Part of a quota that is this gateway's to spend, 0 to 1; 1 where no cluster shares it. Scopes as in sluice_gate_waiting.",
	scopeLabels, func(share float64) float64 { return share })

var (
	endpointsDesc = prometheus.NewDesc("sluice_pool_endpoints",
		"Endpoints with a place in the pool, by the state of their breaker: closed, half-open or open.", stateLabels, nil)
	sparesDesc = prometheus.NewDesc("sluice_pool_spares",
		"Known endpoints without a place, by the state of their breaker: closed, half-open or open.", stateLabels, nil)
)

// Service is what one credential has at one provider. Only Pool is required; its name must be its own, for it is the label
// pool of all.
type Service struct {
	Pool            *pool.Pool
	RateLimiter     *quota.RateLimiter
	AdaptiveLimiter *delivery.AdaptiveLimiter
	// HeldBack returns the share of notifications that the brake holds back.
	RejectionRate func() float64
	// Expires is when its certificate does; zero where it has none.
	CertificateExpires time.Time
}

// serviceCollector shows services as they stand when Prometheus asks.
type serviceCollector struct {
	mu          sync.Mutex // guards all below
	services    []Service
	concurrency *delivery.ConcurrencyLimit
}

// Watch adds a service.
func (m *Metrics) Watch(s Service) {
	m.events.initPool(s.Pool.Status().Name)
	m.services.mu.Lock()
	defer m.services.mu.Unlock()
	m.services.services = append(m.services.services, s)
}

// WatchConcurrencyLimit sets the one ceiling that is over all services.
func (m *Metrics) WatchConcurrencyLimit(c *delivery.ConcurrencyLimit) {
	m.services.mu.Lock()
	defer m.services.mu.Unlock()
	m.services.concurrency = c
}

// Unwatch shows a pool and its gate no more. What was counted of them stays counted.
func (m *Metrics) Unwatch(p *pool.Pool) {
	m.services.mu.Lock()
	defer m.services.mu.Unlock()
	m.services.services = slices.DeleteFunc(slices.Clone(m.services.services), func(w Service) bool { return w.Pool == p })
}

// Describe names the metrics.
func (s *serviceCollector) Describe(to chan<- *prometheus.Desc) {
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
	to <- expiryReading.desc
	to <- rateLimitWaitingReading.desc
	to <- rateLimitShareReading.desc
}

// Collect gives their values.
func (s *serviceCollector) Collect(to chan<- prometheus.Metric) {
	s.mu.Lock()
	all, ceiling := s.services, s.concurrency.Status()
	s.mu.Unlock()
	for _, r := range concurrencyReadings {
		r.send(to, ceiling)
	}
	for _, w := range all {
		if !w.Pool.Idle() { // or it would look like a pool that has lost all
			w.collect(to)
		}
	}
}

func (w Service) collect(to chan<- prometheus.Metric) {
	status := w.Pool.Status()
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
	admission := w.AdaptiveLimiter.Status()
	for _, r := range adaptiveLimitReadings {
		r.send(to, admission, status.Name)
	}
	if w.RejectionRate != nil {
		throttleReading.send(to, w.RejectionRate(), status.Name)
	}
	if !w.CertificateExpires.IsZero() {
		expiryReading.send(to, w.CertificateExpires, status.Name)
	}
	w.collectRateLimit(to, status.Name)
}

func (w Service) collectRateLimit(to chan<- prometheus.Metric, name string) {
	gate := w.RateLimiter.Status()
	for _, r := range rateLimitReadings {
		r.send(to, gate, name)
	}
	sendWaiting(to, name, "total", gate.Waiting)
	rateLimitShareReading.send(to, gate.Share, name, "total")
	for _, scope := range gate.Scopes {
		sendWaiting(to, name, scope.Name, scope.Waiting)
		rateLimitShareReading.send(to, scope.Share, name, scope.Name)
	}
}

// sendWaiting tells who waits before a scope, lane by lane.
func sendWaiting(to chan<- prometheus.Metric, pool, scope string, w quota.Waiting) {
	rateLimitWaitingReading.send(to, w.Critical, pool, scope, string(push.LaneCritical))
	rateLimitWaitingReading.send(to, w.Normal, pool, scope, string(push.LaneNormal))
	rateLimitWaitingReading.send(to, w.Bulk, pool, scope, string(push.LaneBulk))
}

// sendByState counts endpoints by the state of their breaker.
func sendByState(to chan<- prometheus.Metric, desc *prometheus.Desc, name string, endpoints []pool.EndpointStatus) {
	states := map[string]int{"closed": 0, "half-open": 0, "open": 0}
	for _, e := range endpoints {
		states[e.State]++
	}
	for state, n := range states {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), name, state)
	}
}

func boolValue(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
