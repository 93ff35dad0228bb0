// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"maps"
	"slices"
	"time"
)

// Summary counts everything since the start or the last Clear, including entries that are no longer
// stored.
type Summary struct {
	Entries  uint64                    `json:"entries"`
	Kept     int                       `json:"kept"` // entries that are stored
	Services map[string]ServiceSummary `json:"services"`
}

// ServiceSummary is the sum over the endpoints of a service.
type ServiceSummary struct {
	Counts
	Endpoints map[string]EndpointSummary `json:"endpoints"`        // by address
	Scopes    map[string]ScopeSummary    `json:"scopes,omitempty"` // by quota scope, if the script has quotas
}

// EndpointSummary counts for one address.
type EndpointSummary struct {
	Counts
	PerSecond []Second `json:"per_second,omitempty"` // up to 3600 seconds with requests, oldest first
}

// Counts are exact.
type Counts struct {
	Requests    uint64            `json:"requests"`
	Accepted    uint64            `json:"accepted"`
	Unanswered  uint64            `json:"unanswered"`    // requests without a response, processed or not
	Unprocessed uint64            `json:"unprocessed"`   // requests that did not reach the service, a part of Unanswered
	Reasons     map[string]uint64 `json:"reasons"`       // rejected requests by reason
	Dials       uint64            `json:"dials"`         // TCP connections accepted
	Open        int               `json:"open"`          // connections open now
	Refused     uint64            `json:"refused"`       // streams refused because they exceeded the stream limit
	Violations  uint64            `json:"violations"`    // refused streams that exceeded a limit known to the client
	MaxInFlight int               `json:"max_in_flight"` // maximum number of concurrent streams of a connection
}

// Second counts the requests of one second.
type Second struct {
	Unix     int64  `json:"unix"`
	Requests uint64 `json:"requests"`
	Accepted uint64 `json:"accepted"`
	// Throttled is the number of requests answered with 429.
	Throttled uint64 `json:"throttled,omitempty"`
}

// ScopeSummary is the sum over the quotas of a service that have the same scope.
type ScopeSummary struct {
	Admitted  uint64   `json:"admitted"`
	Refused   uint64   `json:"refused"`
	Early     uint64   `json:"early"`      // requests sent before the Retry-After of an earlier response had passed
	PerSecond []Second `json:"per_second"` // up to 3600 seconds with requests, oldest first
}

type scopeName struct{ service, scope string }

type scopeTally struct {
	admitted, refused, early uint64
	seconds                  seconds
}

// AddQuotaCheck counts one request that was checked against a quota. early is true if the client sent
// the request before the Retry-After of an earlier response had passed.
func (l *Ledger) AddQuotaCheck(service, scope string, admitted, early bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := scopeName{service, scope}
	t := l.scopes[name]
	if t == nil {
		t = &scopeTally{}
		l.scopes[name] = t
	}
	now := t.seconds.at(time.Now().Unix())
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

// seconds holds the newest seconds that had requests, oldest first.
type seconds []Second

// maxSeconds limits the length of seconds.
const maxSeconds = 3600

// at returns the last second, after appending unix if the last second is another one.
func (s *seconds) at(unix int64) *Second {
	if n := len(*s); n == 0 || (*s)[n-1].Unix != unix {
		if n == maxSeconds {
			*s = slices.Delete(*s, 0, maxSeconds/10)
		}
		*s = append(*s, Second{Unix: unix})
	}
	return &(*s)[len(*s)-1]
}

// tally counts for one endpoint. It is guarded by the ledger's mu.
type tally struct {
	requests, accepted, unanswered, unprocessed uint64
	dials, refused, violations                  uint64
	open, maxInFlight                           int
	reasons                                     map[string]uint64
	seconds                                     seconds
}

// tally returns the tally of an endpoint, after creating it if necessary. mu is held.
func (l *Ledger) tally(e *Endpoint) *tally {
	t := l.counts[e]
	if t == nil {
		t = &tally{reasons: map[string]uint64{}}
		l.counts[e] = t
	}
	return t
}

// count adds one record.
func (t *tally) count(r *Record, second int64) {
	now := t.seconds.at(second)
	t.requests++
	now.Requests++
	if r.Accepted {
		t.accepted++
		now.Accepted++
	} else if r.Reason != "" {
		t.reasons[r.Reason]++
	}
	if r.Status == 429 {
		now.Throttled++
	}
	if !r.Answered {
		t.unanswered++
	}
	if r.Status == 0 {
		t.unprocessed++
	}
}

// ConnOpened counts a new connection.
func (l *Ledger) ConnOpened(e *Endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally(e)
	t.dials++
	t.open++
}

// ConnClosed counts the end of a connection.
func (l *Ledger) ConnClosed(e *Endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally(e).open--
}

// StreamsInFlight records that a connection has n concurrent streams, for MaxInFlight.
func (l *Ledger) StreamsInFlight(e *Endpoint, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally(e)
	t.maxInFlight = max(t.maxInFlight, n)
}

// StreamRefused counts a stream that exceeded the stream limit. violation is true if the client knew
// the limit.
func (l *Ledger) StreamRefused(e *Endpoint, violation bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally(e)
	t.refused++
	if violation {
		t.violations++
	}
}

// Summary returns all counts. It omits endpoints that never had a connection.
func (l *Ledger) Summary() Summary {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Summary{Entries: l.total, Kept: len(l.ring), Services: map[string]ServiceSummary{}}
	for e, t := range l.counts {
		service, ok := s.Services[e.Service]
		if !ok {
			service = ServiceSummary{Counts: Counts{Reasons: map[string]uint64{}}, Endpoints: map[string]EndpointSummary{}}
		}
		one := EndpointSummary{Counts: t.counts(), PerSecond: slices.Clone(t.seconds)}
		service.add(one.Counts)
		service.Endpoints[e.Addr] = one
		s.Services[e.Service] = service
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
