// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// Buckets of the histograms in seconds. They are finer at typical response times. The histograms
// are classic: an observation in a native histogram costs three times as much.
var (
	attemptBuckets      = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	notificationBuckets = append(attemptBuckets[:len(attemptBuckets):len(attemptBuckets)], 30, 60)
	waitBuckets         = []float64{.01, .1, 1, 10, 60}
)

// routeMetrics are the metrics of all routes, with the labels app and platform.
type routeMetrics struct {
	notifications, replaced, warnings, attempts, retries, retriesDenied, throttled, rateLimited, shed *prometheus.CounterVec
	duration, attemptDuration, rateLimitWait                                                          *prometheus.HistogramVec
}

func newRouteMetrics() routeMetrics {
	return routeMetrics{
		notifications: counter("sluice_notifications_total",
			"Completed notifications by status and reason of the receipt.", "app", "platform", "status", "reason"),
		replaced: counter("sluice_notifications_replaced_total",
			"Notifications that were sent to the target that has replaced their own. Their receipts have it as replaced.", "app", "platform"),
		warnings: counter("sluice_notification_warnings_total",
			"Warnings about fields in a provider-specific block that the gateway does not recognize. The receipts list them.", "app", "platform"),
		attempts: counter("sluice_attempts_total",
			"Completed attempts by verdict and reason.", "app", "platform", "verdict", "reason"),
		retries: counter("sluice_retries_total", "Attempts after the first one of a notification.", "app", "platform"),
		retriesDenied: counter("sluice_retries_denied_total",
			"Retries allowed by the policy and denied by the retry budget or the throttler.", "app", "platform"),
		throttled: counter("sluice_throttle_rejections_total",
			"Notifications rejected by the throttler because the provider is down.", "app", "platform"),
		rateLimited: counter("sluice_ratelimit_rejections_total",
			"Attempts rejected because the wait for the rate limit would have been too long.", "app", "platform"),
		shed: counter("sluice_shed_total",
			"Notifications shed because of overload, by lane and reason: OVERLOADED, APP_OVER_SHARE or GATEWAY_FULL.",
			"app", "platform", "lane", "reason"),
		duration: histogram("sluice_notification_duration_seconds",
			"Duration of a notification on its route, including waits and retries. Notifications without an attempt do not count.", notificationBuckets),
		attemptDuration: histogram("sluice_attempt_duration_seconds",
			"Duration of an attempt, from its lease to its outcome.", attemptBuckets),
		rateLimitWait: histogram("sluice_ratelimit_wait_seconds",
			"Time that attempts waited for the rate limit. Attempts that are allowed immediately do not count.", waitBuckets),
	}
}

func (m *routeMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.notifications, m.replaced, m.warnings, m.attempts, m.retries, m.retriesDenied, m.throttled, m.rateLimited, m.shed, m.duration, m.attemptDuration, m.rateLimitWait}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"app", "platform"})
}

// route holds the metrics of one route.
type route struct {
	notifications, attempts                                  reasonCounter
	warnings, retries, retriesDenied, throttled, rateLimited prometheus.Counter
	replaced                                                 *prometheus.CounterVec // without labels; few routes have a series
	shed                                                     *prometheus.CounterVec // by lane and reason
	duration, attemptDuration, rateLimitWait                 prometheus.Observer
}

// Route returns the observer of the route of an app on a platform. It takes about 0.2 µs per
// notification. The series of the route exist from its first notification on: an app that sends
// nothing has none.
func (m *Metrics) Route(app string, platform push.Platform) delivery.Observer {
	get := sync.OnceValue(func() *route { return m.newRoute(app, platform) })
	return delivery.Observer{
		Attempted:   func(n *push.Notification, number int, a *push.Attempt, _ pool.Conn) { get().onAttempt(n, number, a) },
		Ended:       func(n *push.Notification, r *push.Receipt, took time.Duration) { get().onEnd(n, r, took) },
		RateLimited: func(n *push.Notification, wait time.Duration, admitted bool) { get().onRateLimited(n, wait, admitted) },
		Throttled:   func(n *push.Notification) { get().onThrottled(n) },
		Shed:        func(n *push.Notification, cause push.Outcome) { get().onShed(n, cause) },
		RetryDenied: func(n *push.Notification, o push.Outcome) { get().onRetryDenied(n, o) },
	}
}

func (m *Metrics) newRoute(app string, platform push.Platform) *route {
	p, from := string(platform), &m.routes
	labels := prometheus.Labels{"app": app, "platform": p}
	r := &route{
		warnings: from.warnings.WithLabelValues(app, p),
		retries:  from.retries.WithLabelValues(app, p), retriesDenied: from.retriesDenied.WithLabelValues(app, p),
		throttled: from.throttled.WithLabelValues(app, p), rateLimited: from.rateLimited.WithLabelValues(app, p), rateLimitWait: from.rateLimitWait.WithLabelValues(app, p),
		replaced: from.replaced.MustCurryWith(labels),
		shed:     from.shed.MustCurryWith(labels),
		duration: from.duration.WithLabelValues(app, p), attemptDuration: from.attemptDuration.WithLabelValues(app, p),
	}
	r.shed.WithLabelValues(string(push.LaneNormal), "OVERLOADED") // so that rate() sees the first one
	r.notifications.init(from.notifications.MustCurryWith(labels), string(push.StatusAccepted))
	r.attempts.init(from.attempts.MustCurryWith(labels), push.Accepted.String())
	return r
}

// observe adds a value to a histogram, with the trace of the notification as its exemplar if the trace
// is sampled.
func observe(histogram prometheus.Observer, value time.Duration, n *push.Notification) {
	if n.Trace.Sampled() {
		histogram.(prometheus.ExemplarObserver).ObserveWithExemplar(value.Seconds(), prometheus.Labels{"trace_id": n.Trace.TraceID()})
		return
	}
	histogram.Observe(value.Seconds())
}

func (r *route) onAttempt(n *push.Notification, number int, a *push.Attempt) {
	r.attempts.add(a.Verdict.String(), a.Reason)
	observe(r.attemptDuration, a.Took, n)
	if number > 1 {
		r.retries.Inc()
	}
}

func (r *route) onEnd(n *push.Notification, receipt *push.Receipt, took time.Duration) {
	r.notifications.add(string(receipt.Status()), receipt.Reason)
	if receipt.Replaced != nil {
		r.replaced.WithLabelValues().Inc()
	}
	if len(receipt.Warnings) > 0 {
		r.warnings.Add(float64(len(receipt.Warnings)))
	}
	if len(receipt.Attempts) > 0 { // invalid notifications must not lower the measured duration
		observe(r.duration, took, n)
	}
}

func (r *route) onRateLimited(n *push.Notification, wait time.Duration, admitted bool) {
	if !admitted {
		r.rateLimited.Inc()
		return
	}
	observe(r.rateLimitWait, wait, n)
}

func (r *route) onThrottled(*push.Notification) { r.throttled.Inc() }

func (r *route) onShed(n *push.Notification, cause push.Outcome) {
	r.shed.WithLabelValues(string(n.EffectiveLane()), cause.Reason).Inc()
}

func (r *route) onRetryDenied(*push.Notification, push.Outcome) { r.retriesDenied.Inc() }
