// SPDX-License-Identifier: Apache-2.0

package quota

// Status is the state of a RateLimiter. It contains no device and no topic.
type Status struct {
	// Limit is the configured rate per second and Rate the current one, including that of the
	// service; 0 means no limit.
	Limit float64 `json:"limit"`
	Rate  float64 `json:"rate"`
	// Share is the fraction of the limit that this gateway may use; 1 if the limit is not shared.
	Share float64 `json:"share"`
	// ClosedFor is the number of seconds until the total and the service reopen; 0 if they are open.
	ClosedFor float64 `json:"closed_for"`
	// Waiting counts the queued notifications.
	Waiting Waiting `json:"waiting"`
	// Targets is the number of devices and topics in the table, and ClosedTargets the number of
	// those that are closed.
	Targets       int `json:"targets"`
	ClosedTargets int `json:"closed_targets"`
	// Scopes are the topics together, the operator's scopes, and the service if it has refused the
	// sender.
	Scopes []ScopeStatus `json:"scopes,omitempty"`
}

// ScopeStatus is the state of one scope.
type ScopeStatus struct {
	Name      string  `json:"name"`
	Limit     float64 `json:"limit"`
	Rate      float64 `json:"rate"`
	Share     float64 `json:"share"`
	ClosedFor float64 `json:"closed_for"`
	Waiting   Waiting `json:"waiting"`
}

// Waiting counts queued notifications by lane.
type Waiting struct {
	Critical int `json:"critical"`
	Normal   int `json:"normal"`
	Bulk     int `json:"bulk"`
}

// Status returns the current state.
func (l *RateLimiter) Status() Status {
	if l == nil {
		return Status{}
	}
	total := l.total.status("")
	s := Status{Limit: total.Limit, Rate: total.Rate, Share: total.Share, ClosedFor: total.ClosedFor, Waiting: total.Waiting}
	s.Targets, s.ClosedTargets = l.targets.count()
	for _, scope := range l.scopes() {
		s.Scopes = append(s.Scopes, scope.limiter.status(scope.Name))
	}
	if limiter := l.service.activeLimiter(); limiter != nil {
		service := limiter.status("service")
		s.Scopes = append(s.Scopes, service)
		s.ClosedFor = max(s.ClosedFor, service.ClosedFor)
		if s.Rate == 0 || service.Rate > 0 && service.Rate < s.Rate {
			s.Rate = service.Rate
		}
	}
	return s
}
