// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"slices"
	"strings"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Status describes a pool for GET /v1/status and metrics.
type Status struct {
	Name     string `json:"name"`
	Ready    bool   `json:"ready"`
	Reason   string `json:"reason,omitempty"` // why the pool is not ready
	Idle     bool   `json:"idle,omitempty"`   // not connected, because nothing was sent for a while
	Panic    bool   `json:"panic"`            // panic mode: too many endpoints are ejected, so all are used
	Size     int    `json:"size"`             // maximum number of endpoints
	Waiting  int    `json:"waiting"`          // callers that wait in Pick
	Dials    int    `json:"dials"`            // since Run started
	InFlight int    `json:"in_flight"`
	// Endpoints are the members of the pool. Spares are other known addresses: candidates, and
	// ejected endpoints that were replaced.
	Endpoints []EndpointStatus `json:"endpoints"`
	Spares    []EndpointStatus `json:"spares"`
	// Events are the last 50 events, oldest first.
	Events []Event `json:"events"`
}

// EndpointStatus describes one endpoint.
type EndpointStatus struct {
	Address      string     `json:"address"`
	State        string     `json:"state"` // of the breaker: closed, open or half-open
	Connections  int        `json:"connections"`
	InFlight     int        `json:"in_flight"`
	AgeS         float64    `json:"age_s"`                   // time as a member, in seconds
	EjectedUntil *time.Time `json:"ejected_until,omitempty"` // when it may be probed
	Reason       string     `json:"reason,omitempty"`        // why it is ejected
	Successes    int        `json:"successes"`               // within the breaker's window
	Failures     int        `json:"failures"`
	LatencyMS    float64    `json:"latency_ms"`             // recent median latency
	RedialAt     *time.Time `json:"redial_after,omitempty"` // no new dial before this time
	DialError    string     `json:"dial_error,omitempty"`   // why the last dial failed
}

// Status returns the current state of the pool.
func (p *Pool) Status() Status {
	s := Status{
		Name: p.cfg.Name, Size: p.cfg.Size, Ready: true, Idle: p.Idle(),
		Endpoints: []EndpointStatus{}, Spares: []EndpointStatus{},
	}
	if err := p.Ready(); err != nil {
		s.Ready, s.Reason = false, err.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Panic, s.Dials, s.Waiting = p.inPanic, p.dials, p.queue.waiting()
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

// status is called under Pool.mu.
func (e *Endpoint) status() EndpointStatus {
	state, reason, ejectedUntil, counts := e.breaker.snapshot()
	s := EndpointStatus{
		Address: e.name, State: state.String(), Reason: reason,
		Connections: len(*e.conns.Load()), InFlight: e.InFlight(),
		Successes: int(counts.TotalSuccesses), Failures: int(counts.TotalFailures),
		LatencyMS: float64(e.window.median.Microseconds()) / 1000,
	}
	if e.member {
		s.AgeS = time.Since(e.joinedAt).Seconds()
	}
	if state == gobreaker.StateOpen {
		s.EjectedUntil = &ejectedUntil
	}
	if e.dialErr != nil {
		s.DialError = e.dialErr.Error()
	}
	if e.redialAt.After(time.Now()) {
		at := e.redialAt
		s.RedialAt = &at
	}
	return s
}
