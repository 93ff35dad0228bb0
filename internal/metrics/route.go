// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/push"
)

// Bounds of the histograms in seconds: finer where providers answer, and up to what an attempt and a notification may take.
// They are classic histograms: native buckets cost three times as much for each observation.
var (
	attemptBuckets      = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	notificationBuckets = append(attemptBuckets[:len(attemptBuckets):len(attemptBuckets)], 30, 60)
	waitBuckets         = []float64{.01, .1, 1, 10, 60}
)

// routeMetrics are what routes tell, each by app and platform.
type routeMetrics struct {
	notifications, attempts, retries, retriesDenied, throttled, rateLimited, shed *prometheus.CounterVec
	duration, attemptDuration, rateLimitWait                                      *prometheus.HistogramVec
}

func newRouteMetrics() routeMetrics {
	return routeMetrics{
		notifications: counter("sluice_notifications_total",
			"Notifications that have ended, by the status and the reason of their receipt.", "app", "platform", "status", "reason"),
		attempts: counter("sluice_attempts_total",
			"Attempts that have ended, by their verdict and its reason.", "app", "platform", "verdict", "reason"),
		retries: counter("sluice_retries_total", "Attempts after the first of their notification.", "app", "platform"),
		retriesDenied: counter("sluice_retries_denied_total",
			"Retries that the policy wanted, and the budget or the brake did not grant.", "app", "platform"),
		throttled: counter("sluice_brake_held_total",
			"Notifications that the brake held back from a provider that is down.", "app", "platform"),
		rateLimited: counter("sluice_gate_refusals_total",
			"Times that the gate let an attempt pass neither at once nor in time.", "app", "platform"),
		shed: counter("sluice_shed_total",
			"Notifications that were turned away for too much being under way, by lane and reason: OVERLOADED, APP_OVER_SHARE or GATEWAY_FULL.",
			"app", "platform", "lane", "reason"),
		duration: histogram("sluice_notification_duration_seconds",
			"Time from a notification's arrival at its route to its end, waits and retries included; those without an attempt are left out.", notificationBuckets),
		attemptDuration: histogram("sluice_attempt_duration_seconds",
			"Time of an attempt, from its lease to its outcome.", attemptBuckets),
		rateLimitWait: histogram("sluice_gate_wait_seconds",
			"Time that the gate told an attempt to wait before it passes; those that pass at once are left out.", waitBuckets),
	}
}

func (m *routeMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.notifications, m.attempts, m.retries, m.retriesDenied, m.throttled, m.rateLimited, m.shed, m.duration, m.attemptDuration, m.rateLimitWait}
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"app", "platform"})
}

// route is the metrics of one route, looked up once.
type route struct {
	notifications, attempts                        reasonCounter
	retries, retriesDenied, throttled, rateLimited prometheus.Counter
	shed                                           *prometheus.CounterVec // by lane and reason
	duration, attemptDuration, rateLimitWait       prometheus.Observer
}

// Route returns the observer of the route of an app to a platform. It costs about a fifth of a microsecond for each
// notification.
func (m *Metrics) Route(app string, platform push.Platform) delivery.Observer {
	p, from := string(platform), &m.routes
	labels := prometheus.Labels{"app": app, "platform": p}
	r := &route{
		retries: from.retries.WithLabelValues(app, p), retriesDenied: from.retriesDenied.WithLabelValues(app, p),
		throttled: from.throttled.WithLabelValues(app, p), rateLimited: from.rateLimited.WithLabelValues(app, p), rateLimitWait: from.rateLimitWait.WithLabelValues(app, p),
		shed:     from.shed.MustCurryWith(labels),
		duration: from.duration.WithLabelValues(app, p), attemptDuration: from.attemptDuration.WithLabelValues(app, p),
	}
	r.shed.WithLabelValues(string(push.LaneNormal), "OVERLOADED") // so that the first one already shows as a rate
	r.notifications.init(from.notifications.MustCurryWith(labels), string(push.StatusAccepted))
	r.attempts.init(from.attempts.MustCurryWith(labels), push.Accepted.String())
	return delivery.Observer{Attempted: r.onAttempt, Ended: r.onEnd, RateLimited: r.onRateLimited, Throttled: r.onThrottled, Shed: r.onShed, RetryDenied: r.onRetryDenied}
}

func (r *route) onAttempt(_ *push.Notification, number int, a push.Attempt) {
	r.attempts.add(a.Verdict.String(), a.Reason)
	r.attemptDuration.Observe(a.Took.Seconds())
	if number > 1 {
		r.retries.Inc()
	}
}

func (r *route) onEnd(_ *push.Notification, receipt push.Receipt, took time.Duration) {
	r.notifications.add(string(receipt.Status()), receipt.Reason)
	if len(receipt.Attempts) > 0 { // a flood of misfits must not make the gateway look fast
		r.duration.Observe(took.Seconds())
	}
}

func (r *route) onRateLimited(_ *push.Notification, wait time.Duration, admitted bool) {
	if !admitted {
		r.rateLimited.Inc()
		return
	}
	r.rateLimitWait.Observe(wait.Seconds())
}

func (r *route) onThrottled(*push.Notification) { r.throttled.Inc() }

func (r *route) onShed(n *push.Notification, cause push.Outcome) {
	r.shed.WithLabelValues(string(n.EffectiveLane()), cause.Reason).Inc()
}

func (r *route) onRetryDenied(*push.Notification, push.Outcome) { r.retriesDenied.Inc() }
