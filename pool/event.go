// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// Kind says what happened, in one word.
type Kind string

// The kinds of events.
const (
	Resolved      Kind = "resolved"       // the resolver's answer differs from the last one
	ResolveFailed Kind = "resolve_failed" // no answer, or an empty one: the last one stands
	Dialled       Kind = "dialled"        // a connection stands
	DialFailed    Kind = "dial_failed"
	Joined        Kind = "joined"  // an endpoint took a place in the pool
	Left          Kind = "left"    // an endpoint lost its place
	GoAway        Kind = "go_away" // a connection takes nothing new: GOAWAY, or about to be lost
	Lost          Kind = "lost"    // a connection ended that we did not end
	Closed        Kind = "closed"  // we drain a connection
	Ejected       Kind = "ejected" // a breaker opened
	Probing       Kind = "probing" // one request tells whether an ejected endpoint has healed
	Recovered     Kind = "recovered"
	Panicked      Kind = "panicked" // too many are ejected: all are used
	Calmed        Kind = "calmed"   // panic is over
)

// Cause sorts ejections, in one word.
type Cause string

// The causes of ejections.
const (
	ByStreak      Cause = "streak"       // so many failures in a row
	ByFailureRate Cause = "failure_rate" // too large a share of its outcomes failed
	ByPeers       Cause = "peers"        // it succeeds less often than its peers
	BySlowness    Cause = "slowness"     // it answers more slowly than its peers
	ByProbe       Cause = "probe"        // its probe failed, and it stays out for longer
)

// Event is something that happened to the pool.
type Event struct {
	Time     time.Time `json:"time"`
	Pool     string    `json:"pool"`
	Kind     Kind      `json:"kind"`
	Endpoint string    `json:"endpoint,omitempty"` // "ip:port", or empty for the whole pool
	Reason   string    `json:"reason"`             // why, in words
	Cause    Cause     `json:"cause,omitempty"`    // of an ejection, for those who count
}

func ejection(e *Endpoint) Event {
	cause, words := e.circuit.why()
	return Event{Kind: Ejected, Endpoint: e.name, Reason: words, Cause: cause}
}

// remembered is how many events Status shows.
const remembered = 50

// note writes an event down; the keeper tells it.
func (p *Pool) note(e Event) {
	p.mu.Lock()
	p.noteLocked(e)
	p.mu.Unlock()
	p.poke()
}

func (p *Pool) noteLocked(e Event) {
	e.Time, e.Pool = time.Now(), p.cfg.Name
	p.events = append(p.events, e)
	if len(p.recent) == remembered {
		p.recent = slices.Delete(p.recent, 0, 1)
	}
	p.recent = append(p.recent, e)
}

// tell passes the events on, without a lock.
func (p *Pool) tell() {
	p.mu.Lock()
	events := p.events
	p.events = nil
	p.mu.Unlock()
	for _, e := range events {
		p.cfg.Logger.Log(context.Background(), e.Kind.level(), "endpoint pool: "+string(e.Kind),
			"pool", e.Pool, "endpoint", e.Endpoint, "reason", e.Reason)
		p.cfg.Observe(e)
	}
}

func (k Kind) level() slog.Level {
	switch k {
	case ResolveFailed, DialFailed, Lost, Ejected, Panicked:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
