// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"slices"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Status is how a pool stands.
type Status struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	Reason   string `json:"reason,omitempty"` // why it is not ready
	Panic    bool   `json:"panic"`            // so many are ejected that all are used
	Size     int    `json:"size"`             // the places that there are
	Waiting  int    `json:"waiting"`          // callers in Pick that have found no place
	Dials    int    `json:"dials"`            // since Run
	InFlight int    `json:"in_flight"`
	// Endpoints have a place in the pool; Spares are known and have none:
	// candidates, and the ejected whose place another has taken.
	Endpoints []EndpointStatus `json:"endpoints"`
	Spares    []EndpointStatus `json:"spares"`
	// Events are the last 50, the oldest first.
	Events []Event `json:"events"`
}

// EndpointStatus is how an endpoint stands.
type EndpointStatus struct {
	Address      string     `json:"address"`
	State        string     `json:"state"` // of the breaker: closed, open, half-open
	Connections  int        `json:"connections"`
	InFlight     int        `json:"in_flight"`
	AgeS         float64    `json:"age_s"`                   // how long it has had its place
	EjectedUntil *time.Time `json:"ejected_until,omitempty"` // when it may be probed
	Reason       string     `json:"reason,omitempty"`        // why it is ejected
	Successes    int        `json:"successes"`               // within the breaker's window
	Failures     int        `json:"failures"`
	LatencyMS    float64    `json:"latency_ms"`             // its median answer, lately
	RedialAt     *time.Time `json:"redial_after,omitempty"` // it did not answer a dial, and is left alone until then
}

// Status returns a picture of the pool for GET /v1/status and for metrics.
func (p *Pool) Status() Status {
	s := Status{
		Name: p.cfg.Name, Size: p.cfg.Size, Ready: true,
		Endpoints: []EndpointStatus{}, Spares: []EndpointStatus{},
	}
	if err := p.Ready(); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Panic, s.Dials, s.Waiting = p.inPanic, p.dials, p.waiters.waiting()
	s.Events = append([]Event{}, p.recentEvents...)
	for _, e := range *p.members.Load() {
		s.Endpoints = append(s.Endpoints, e.status())
	}
	for _, e := range p.endpoints {
		s.InFlight += e.InFlight()
		if !e.member {
			s.Spares = append(s.Spares, e.status())
		}
	}
	slices.SortFunc(s.Spares, func(a, b EndpointStatus) int { return strings.Compare(a.Address, b.Address) })
	return s
}

// status is called under the pool's mu.
func (e *Endpoint) status() EndpointStatus {
	state, why, until, counts := e.breaker.snapshot()
	s := EndpointStatus{
		Address: e.name, State: state.String(), Reason: why,
		Connections: len(*e.conns.Load()), InFlight: e.InFlight(),
		Successes: int(counts.TotalSuccesses), Failures: int(counts.TotalFailures),
		LatencyMS: float64(e.window.median.Microseconds()) / 1000,
	}
	if e.member {
		s.AgeS = time.Since(e.joinedAt).Seconds()
	}
	if state == gobreaker.StateOpen {
		s.EjectedUntil = &until
	}
	if e.redialAt.After(time.Now()) {
		at := e.redialAt
		s.RedialAt = &at
	}
	return s
}
