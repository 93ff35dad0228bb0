// SPDX-License-Identifier: Apache-2.0

// Package quota says how much may be sent and in which scope, and learns from
// refusals. It never sleeps and sends nothing: who is told to wait, waits.
package quota

import (
	"time"

	"github.com/sluice-push/sluice/push"
)

// Config is what is known of a provider's quotas beforehand. The zero value
// knows nothing: nothing is paced, and scopes close when the provider says so.
type Config struct {
	// Total is the limit of everything that goes through the gate. FCM's
	// default for a project is 600,000 a minute: {Rate: 10000}.
	Total Limit
	// Device is the limit of each single device; FCM's for Android is 240 a
	// minute: {Rate: 4, Burst: 240}.
	Device Limit
	// Topic is the limit of each single topic, condition or channel.
	Topic Limit
	// Remember is how many devices and topics the gate can tell apart at a
	// time; default 65536, about 200 bytes each. Beyond it the longest unused
	// is forgotten, and with it that it was closed.
	Remember int
}

// Limit is a bucket: so many at once, refilled at so many a second. Over any
// span of time it lets through at most Rate × seconds + Burst.
type Limit struct {
	// Rate is in notifications a second; 0 means no limit.
	Rate float64
	// Burst is how many may go at once; default a tenth of a second's worth,
	// and at least 1.
	Burst int
}

// Gate guards the quotas of one credential. A scope that the provider refuses
// closes for as long as it says, and no other with it. Several routes may
// share a gate; a nil one admits everything.
type Gate struct {
	total   governor
	targets table
}

// New returns an open gate.
func New(cfg Config) *Gate {
	return &Gate{
		total:   governor{limit: cfg.Total},
		targets: newTable(cfg),
	}
}

// Admit asks to make one attempt at n. If ok, a place is taken and the attempt
// may be made after wait, which is at most patience; whoever waited asks
// Closed before sending. Otherwise nothing is taken, and wait says how long to
// stay away. There is waiting for the total only, be it closed or full: a
// place kept for one device would pass the others by, so who asks for a device
// or a topic that is closed or has had its share is refused at once.
func (g *Gate) Admit(n *push.Notification, patience time.Duration) (wait time.Duration, ok bool) {
	if g == nil {
		return 0, true
	}
	now := time.Now()
	held, wait, ok := g.targets.find(n).take(now, 0)
	if !ok {
		return max(wait, g.total.closed(now)), false
	}
	if _, wait, ok = g.total.take(now, patience); !ok {
		held.giveBack()
	}
	return wait, ok
}

// Closed returns how long a scope of n stays closed, and 0 if none is.
func (g *Gate) Closed(n *push.Notification) time.Duration {
	if g == nil {
		return 0
	}
	now := time.Now()
	return max(g.total.closed(now), g.targets.find(n).closed(now))
}

// Learn takes note of an attempt's outcome. A Throttled one closes its scope:
// project and credential are everything behind the gate, any narrower scope is
// the notification's own target. All other outcomes teach nothing here.
func (g *Gate) Learn(n *push.Notification, o push.Outcome) {
	if g == nil || o.Verdict != push.Throttled {
		return
	}
	switch o.Scope {
	case push.ScopeProject, push.ScopeCredential:
		g.total.refused(time.Now(), o.RetryAfter)
	case push.ScopeDevice, push.ScopeTopic, push.ScopeNone:
		g.targets.remember(n).refused(time.Now(), o.RetryAfter)
	}
}

// Status is a gate's state at a moment. It names no device and no topic.
type Status struct {
	// Limit is the configured rate a second, and Rate the one that the gate
	// allows now; 0 where none is configured.
	Limit float64 `json:"limit"`
	Rate  float64 `json:"rate"`
	// ClosedFor is how many seconds everything behind the gate still has to wait.
	ClosedFor float64 `json:"closed_for"`
	// Targets is how many devices and topics the gate remembers, and
	// ClosedTargets how many of them are closed.
	Targets       int `json:"targets"`
	ClosedTargets int `json:"closed_targets"`
}

// Status returns the gate's state now.
func (g *Gate) Status() Status {
	if g == nil {
		return Status{}
	}
	now := time.Now()
	s := Status{Limit: g.total.limit.Rate, Rate: g.total.speed(now), ClosedFor: g.total.closed(now).Seconds()}
	s.Targets, s.ClosedTargets = g.targets.count(now)
	return s
}
