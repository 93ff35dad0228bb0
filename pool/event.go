// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// EventKind says what happened, in one word.
type EventKind string

// The kinds of events.
const (
	EventResolved      EventKind = "resolved"       // the resolver's answer differs from the last one
	EventResolveFailed EventKind = "resolve_failed" // no answer, or an empty one: the last one stands
	EventConnected     EventKind = "dialled"        // a connection stands
	EventDialFailed    EventKind = "dial_failed"
	EventJoined        EventKind = "joined"  // an endpoint took a place in the pool
	EventLeft          EventKind = "left"    // an endpoint lost its place
	EventGoAway        EventKind = "go_away" // a connection takes nothing new: GOAWAY, or about to be lost
	EventConnLost      EventKind = "lost"    // a connection ended that we did not end
	EventConnClosed    EventKind = "closed"  // we drain a connection
	EventEjected       EventKind = "ejected" // a breaker opened
	EventProbing       EventKind = "probing" // one request tells whether an ejected endpoint has healed
	EventRecovered     EventKind = "recovered"
	EventPanicStarted  EventKind = "panicked" // too many are ejected: all are used
	EventPanicEnded    EventKind = "calmed"   // panic is over
)

// EjectionCause sorts ejections, in one word.
type EjectionCause string

// The causes of ejections.
const (
	CauseConsecutiveFailures EjectionCause = "streak"       // so many failures in a row
	CauseFailureRate         EjectionCause = "failure_rate" // too large a share of its outcomes failed
	CauseSuccessRate         EjectionCause = "peers"        // it succeeds less often than its peers
	CauseLatency             EjectionCause = "slowness"     // it answers more slowly than its peers
	CauseProbe               EjectionCause = "probe"        // its probe failed, and it stays out for longer
)

// Event is something that happened to the pool.
type Event struct {
	Time     time.Time     `json:"time"`
	Pool     string        `json:"pool"`
	Kind     EventKind     `json:"kind"`
	Endpoint string        `json:"endpoint,omitempty"` // "ip:port", or empty for the whole pool
	Reason   string        `json:"reason"`             // why, in words
	Cause    EjectionCause `json:"cause,omitempty"`    // of an ejection, for those who count
}

func ejectedEvent(e *Endpoint) Event {
	cause, words := e.breaker.ejectionReason()
	return Event{Kind: EventEjected, Endpoint: e.name, Reason: words, Cause: cause}
}

// maxRecentEvents is how many events Status shows.
const maxRecentEvents = 50

// addEvent writes an event down; the keeper tells it.
func (p *Pool) addEvent(e Event) {
	p.mu.Lock()
	p.addEventLocked(e)
	p.mu.Unlock()
	p.wakeMaintainer()
}

func (p *Pool) addEventLocked(e Event) {
	e.Time, e.Pool = time.Now(), p.cfg.Name
	p.pendingEvents = append(p.pendingEvents, e)
	if len(p.recentEvents) == maxRecentEvents {
		p.recentEvents = slices.Delete(p.recentEvents, 0, 1)
	}
	p.recentEvents = append(p.recentEvents, e)
}

// deliverEvents passes the events on, without a lock.
func (p *Pool) deliverEvents() {
	p.mu.Lock()
	events := p.pendingEvents
	p.pendingEvents = nil
	p.mu.Unlock()
	for _, e := range events {
		p.cfg.Logger.Log(context.Background(), e.Kind.logLevel(), "endpoint pool: "+string(e.Kind),
			"pool", e.Pool, "endpoint", e.Endpoint, "reason", e.Reason)
		p.cfg.Observe(e)
	}
}

func (k EventKind) logLevel() slog.Level {
	switch k {
	case EventResolveFailed, EventDialFailed, EventConnLost, EventEjected, EventPanicStarted:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
