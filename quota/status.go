// SPDX-License-Identifier: Apache-2.0

package quota

// Status is a gate's state at a moment. It names no device and no topic.
type Status struct {
	// Limit is the configured rate a second, and Rate the one that the gate
	// allows now; 0 where there is none.
	Limit float64 `json:"limit"`
	Rate  float64 `json:"rate"`
	// Share is the part of the limit that the gate may spend, where several share it; 1 is all of it.
	Share float64 `json:"share"`
	// ClosedFor is how many seconds everything behind the gate still has to wait.
	ClosedFor float64 `json:"closed_for"`
	// Waiting is who stands in line.
	Waiting Waiting `json:"waiting"`
	// Targets is how many devices and topics the gate remembers, and
	// ClosedTargets how many of them are closed.
	Targets       int `json:"targets"`
	ClosedTargets int `json:"closed_targets"`
	// Scopes are the topics together and those of the operator.
	Scopes []ScopeStatus `json:"scopes,omitempty"`
}

// ScopeStatus is one scope's part of a Status.
type ScopeStatus struct {
	Name      string  `json:"name"`
	Limit     float64 `json:"limit"`
	Rate      float64 `json:"rate"`
	Share     float64 `json:"share"`
	ClosedFor float64 `json:"closed_for"`
	Waiting   Waiting `json:"waiting"`
}

// Waiting counts notifications in line, by lane.
type Waiting struct {
	Critical int `json:"critical"`
	Normal   int `json:"normal"`
	Bulk     int `json:"bulk"`
}

// Status returns the gate's state now.
func (g *RateLimiter) Status() Status {
	if g == nil {
		return Status{}
	}
	total := g.total.status("")
	s := Status{Limit: total.Limit, Rate: total.Rate, Share: total.Share, ClosedFor: total.ClosedFor, Waiting: total.Waiting}
	s.Targets, s.ClosedTargets = g.targets.count()
	within := g.scopes.Load()
	if within.topics != nil {
		s.Scopes = append(s.Scopes, within.topics.status("topics"))
	}
	for _, o := range within.operator {
		s.Scopes = append(s.Scopes, o.limiter.status(o.Name))
	}
	return s
}
