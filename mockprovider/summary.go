// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"maps"
	"slices"
)

// Summary counts all since the start, or since Ledger.Clear, whether the entries are still kept or not.
type Summary struct {
	Entries  uint64                    `json:"entries"` // since then
	Kept     int                       `json:"kept"`
	Services map[string]ServiceSummary `json:"services"`
}

// ServiceSummary adds up a service's endpoints.
type ServiceSummary struct {
	Counts
	Endpoints map[string]EndpointSummary `json:"endpoints"`        // by address
	Scopes    map[string]ScopeSummary    `json:"scopes,omitempty"` // by the word of Quota.Scope, while quotas are played
}

// EndpointSummary is one address.
type EndpointSummary struct {
	Counts
	PerSecond []Second `json:"per_second,omitempty"` // the last hour's seconds with requests, oldest first
}

// Counts are exact.
type Counts struct {
	Requests    uint64            `json:"requests"`
	Accepted    uint64            `json:"accepted"`
	Unanswered  uint64            `json:"unanswered"`    // requests that got no answer, processed or not
	Unprocessed uint64            `json:"unprocessed"`   // of these, the ones that did not even reach the service
	Reasons     map[string]uint64 `json:"reasons"`       // refusals by the service's word
	Dials       uint64            `json:"dials"`         // TCP connections that were accepted
	Open        int               `json:"open"`          // connections now
	Refused     uint64            `json:"refused"`       // streams refused for being too many, with REFUSED_STREAM
	Violations  uint64            `json:"violations"`    // of these, the ones that the client must have known to be too many
	MaxInFlight int               `json:"max_in_flight"` // most streams at once on one connection
}

// Second is what came in one second.
type Second struct {
	Unix     int64  `json:"unix"`
	Requests uint64 `json:"requests"`
	Accepted uint64 `json:"accepted"`
	// Throttled were answered 429.
	Throttled uint64 `json:"throttled,omitempty"`
}

// ScopeSummary is what the quotas of one scope saw. Quotas of the same scope and service are added up.
type ScopeSummary struct {
	Admitted  uint64   `json:"admitted"`
	Refused   uint64   `json:"refused"`
	Early     uint64   `json:"early"`      // requests to a bucket whose Retry-After had not passed yet
	PerSecond []Second `json:"per_second"` // the last hour's seconds with requests, oldest first
}

type scopeName struct{ service, scope string }

type scopeTally struct {
	admitted, refused, early uint64
	seconds                  seconds
}

// drawn counts one request that a quota was asked about.
func (l *Ledger) drawn(name scopeName, admitted, early bool, second int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.scopes[name]
	if t == nil {
		t = &scopeTally{}
		l.scopes[name] = t
	}
	now := t.seconds.at(second)
	now.Requests++
	if admitted {
		t.admitted++
		now.Accepted++
	} else {
		t.refused++
		now.Throttled++
	}
	if early {
		t.early++
	}
}

// seconds are the newest ones with requests, oldest first.
type seconds []Second

// at is the last second, which it begins if need be.
func (s *seconds) at(unix int64) *Second {
	if n := len(*s); n == 0 || (*s)[n-1].Unix != unix {
		if n == perSecond {
			*s = slices.Delete(*s, 0, perSecond/10)
		}
		*s = append(*s, Second{Unix: unix})
	}
	return &(*s)[len(*s)-1]
}

// tally counts for one endpoint, under the ledger's lock.
type tally struct {
	requests, accepted, unanswered, unprocessed uint64
	dials, refused, violations                  uint64
	open, maxInFlight                           int
	reasons                                     map[string]uint64
	seconds                                     seconds
}

// perSecond is how many seconds are kept.
const perSecond = 3600

func (l *Ledger) tally(e *endpoint) *tally {
	t := l.counts[e]
	if t == nil {
		t = &tally{reasons: map[string]uint64{}}
		l.counts[e] = t
	}
	return t
}

// count adds one record.
func (t *tally) count(r *record, second int64) {
	now := t.seconds.at(second)
	t.requests++
	now.Requests++
	if r.accepted {
		t.accepted++
		now.Accepted++
	} else if r.reason != "" {
		t.reasons[r.reason]++
	}
	if r.status == 429 {
		now.Throttled++
	}
	if !r.answered {
		t.unanswered++
	}
	if r.status == 0 {
		t.unprocessed++
	}
}

// opened and closed count connections.
func (l *Ledger) opened(e *endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally(e)
	t.dials++
	t.open++
}

func (l *Ledger) closed(e *endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally(e).open--
}

// inFlight notes a connection's new record of streams at once.
func (l *Ledger) inFlight(e *endpoint, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally(e)
	t.maxInFlight = max(t.maxInFlight, n)
}

// refused counts a stream that was one too many.
func (l *Ledger) refused(e *endpoint, violation bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally(e)
	t.refused++
	if violation {
		t.violations++
	}
}

// Summary adds everything up. Endpoints that nobody ever dialled are left out.
func (l *Ledger) Summary() Summary {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Summary{Entries: l.total, Kept: len(l.ring), Services: map[string]ServiceSummary{}}
	for e, t := range l.counts {
		service, ok := s.Services[e.service]
		if !ok {
			service = ServiceSummary{Counts: Counts{Reasons: map[string]uint64{}}, Endpoints: map[string]EndpointSummary{}}
		}
		one := EndpointSummary{Counts: t.counts(), PerSecond: slices.Clone(t.seconds)}
		service.add(one.Counts)
		service.Endpoints[e.address()] = one
		s.Services[e.service] = service
	}
	for name, t := range l.scopes {
		service := s.Services[name.service]
		if service.Scopes == nil {
			service.Scopes = map[string]ScopeSummary{}
		}
		service.Scopes[name.scope] = ScopeSummary{
			Admitted: t.admitted, Refused: t.refused, Early: t.early, PerSecond: slices.Clone(t.seconds),
		}
		s.Services[name.service] = service
	}
	return s
}

func (t *tally) counts() Counts {
	return Counts{
		Requests: t.requests, Accepted: t.accepted, Unanswered: t.unanswered, Unprocessed: t.unprocessed,
		Reasons: maps.Clone(t.reasons), Dials: t.dials, Open: t.open, Refused: t.refused, Violations: t.violations,
		MaxInFlight: t.maxInFlight,
	}
}

func (c *Counts) add(o Counts) {
	c.Requests += o.Requests
	c.Accepted += o.Accepted
	c.Unanswered += o.Unanswered
	c.Unprocessed += o.Unprocessed
	c.Dials += o.Dials
	c.Open += o.Open
	c.Refused += o.Refused
	c.Violations += o.Violations
	c.MaxInFlight = max(c.MaxInFlight, o.MaxInFlight)
	for reason, n := range o.Reasons {
		c.Reasons[reason] += n
	}
}
