// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// EventKind is the kind of an Event.
type EventKind string

// Kinds of events.
const (
	EventResolved      EventKind = "resolved"       // the resolver's answer changed
	EventResolveFailed EventKind = "resolve_failed" // the last good answer stays in use
	EventConnected     EventKind = "connected"      // a connection was established
	EventDialFailed    EventKind = "dial_failed"
	EventJoined        EventKind = "joined"  // an endpoint became a member
	EventLeft          EventKind = "left"    // an endpoint stopped being a member
	EventGoAway        EventKind = "go_away" // a connection accepts no new requests
	EventConnLost      EventKind = "lost"    // a connection ended with an error
	EventConnClosed    EventKind = "closed"  // the pool drains a connection
	EventEjected       EventKind = "ejected" // a breaker opened
	EventProbing       EventKind = "probing" // the probe after an ejection was sent
	EventRecovered     EventKind = "recovered"
	EventPanicStarted  EventKind = "panic_started" // too many endpoints are ejected; all are used
	EventPanicEnded    EventKind = "panic_ended"   // the pool uses only healthy endpoints again
	EventUnreachable   EventKind = "unreachable"   // no endpoint can be reached, so Pick fails
	EventReachable     EventKind = "reachable"     // one can be reached again
)

// EjectionCause is the category of an ejection.
type EjectionCause string

// Causes of ejections.
const (
	CauseConsecutiveFailures EjectionCause = "consecutive_failures" // too many consecutive failures
	CauseFailureRate         EjectionCause = "failure_rate"         // too many of its recent outcomes failed
	CauseSuccessRate         EjectionCause = "success_rate"         // its success rate is far below that of its peers
	CauseLatency             EjectionCause = "latency"              // its latency is far above that of its peers
	CauseProbe               EjectionCause = "probe"                // its probe failed, so the ejection is extended
)

// Event is a change in the pool.
type Event struct {
	Time     time.Time     `json:"time"`
	Pool     string        `json:"pool"`
	Kind     EventKind     `json:"kind"`
	Endpoint string        `json:"endpoint,omitempty"` // "ip:port", or empty for the whole pool
	Reason   string        `json:"reason"`             // explanation in words
	Cause    EjectionCause `json:"cause,omitempty"`    // set for ejections

	repeated bool // another event warns about the same problem
}

func ejectedEvent(e *Endpoint) Event {
	cause, reason := e.breaker.ejectionReason()
	return Event{Kind: EventEjected, Endpoint: e.name, Reason: reason, Cause: cause}
}

// maxRecentEvents is the number of events in Status.
const maxRecentEvents = 50

// addEvent records an event; the maintainer delivers it.
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

// deliverEvents logs the pending events and passes them to Config.Observe. It is called without the
// lock.
func (p *Pool) deliverEvents() {
	p.mu.Lock()
	events := p.pendingEvents
	p.pendingEvents = nil
	p.mu.Unlock()
	for _, e := range events {
		p.cfg.Logger.Log(context.Background(), e.logLevel(), messages[e.Kind],
			"event", string(e.Kind), "pool", e.Pool, "endpoint", e.Endpoint, "reason", e.Reason)
		p.cfg.Observe(e)
	}
}

// logLevel returns the level of the event in the log. A failed dial is no warning: it concerns one
// endpoint of several. If it concerns all, EventUnreachable warns once.
func (e *Event) logLevel() slog.Level {
	switch e.Kind {
	case EventResolveFailed, EventConnLost, EventEjected, EventPanicStarted, EventUnreachable:
		if !e.repeated {
			return slog.LevelWarn
		}
	}
	return slog.LevelInfo
}

// messages are the log messages of the kinds.
var messages = map[EventKind]string{
	EventResolved:      "addresses resolved",
	EventResolveFailed: "resolve failed",
	EventConnected:     "connection established",
	EventDialFailed:    "dial failed",
	EventJoined:        "endpoint joined",
	EventLeft:          "endpoint left",
	EventGoAway:        "connection draining",
	EventConnLost:      "connection lost",
	EventConnClosed:    "connection closed",
	EventEjected:       "endpoint ejected",
	EventProbing:       "endpoint probed",
	EventRecovered:     "endpoint recovered",
	EventPanicStarted:  "panic mode started",
	EventPanicEnded:    "panic mode ended",
	EventUnreachable:   "no endpoint can be reached",
	EventReachable:     "endpoints can be reached again",
}
