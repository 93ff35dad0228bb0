// SPDX-License-Identifier: Apache-2.0

// Package quota says how much may be sent and in which scope, whose turn it is,
// and learns from refusals. It never sleeps and sends nothing: who is told to
// wait, waits.
package quota

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Config is what is known of a provider's quotas beforehand. The zero value
// knows nothing: nothing is paced, and scopes close when the provider says so.
type Config struct {
	// Total is the limit of everything that goes through the gate. FCM's
	// default for a project is 600,000 a minute: {Rate: 10000}.
	Total Limit
	// Topics is the limit of everything that goes to topics, conditions and
	// channels together. Google limits how many fan-outs run at a time, which
	// nobody outside can see; how many are begun a second can be held.
	Topics Limit
	// Scopes are limits of the operator's own.
	Scopes []Scope
	// Device is the limit of each single device; FCM's for Android is 240 a
	// minute: {Rate: 4, Burst: 240}.
	Device Limit
	// Sustained is the limit of each single device over a longer time; FCM's
	// for Android is 5,000 an hour: {Rate: 5000. / 3600, Burst: 5000}.
	Sustained Limit
	// Collapsible is the limit of what may replace an earlier notification on
	// one device; FCM's is 20 at once and one in three minutes:
	// {Rate: 1. / 180, Burst: 20}.
	Collapsible Limit
	// Topic is the limit of each single topic, condition or channel.
	Topic Limit
	// Weights are the shares of apps that wait at the same time, by name;
	// default 1 each.
	Weights map[string]int
	// Remember is how many devices and topics the gate can tell apart at a
	// time; default 65536, about 300 bytes each with one limit and 500 with
	// three. Beyond it the longest unused is forgotten, and with it that it was
	// closed.
	MaxTargets int
}

// Limit is a bucket: so many at once, refilled at so many a second. Over any
// span of time it lets through at most Rate × seconds + Burst.
type Limit struct {
	// Rate is in notifications a second; 0 means no limit.
	Rate float64
	// Per is a time in which no more than Rate × Per may pass, the burst among
	// them; 0 means that the burst comes on top. With it the bucket is refilled
	// more slowly than Rate, by what a burst is in that time: by 0.07 % for a
	// minute, by 4 % for a second.
	Per time.Duration
	// Burst is how many may go at once; default a twenty-fifth of a second's
	// worth, and at least 1.
	Burst int
}

// Scope is a limit of the operator's own, for a part of what goes through the
// gate.
type Scope struct {
	// Name is what Status calls it.
	Name string
	// Apps and Lanes say what it is for; empty means all.
	Apps  []string
	Lanes []push.Lane
	Limit
}

func (s *Scope) matches(n *push.Notification) bool {
	return (len(s.Apps) == 0 || slices.Contains(s.Apps, n.App)) &&
		(len(s.Lanes) == 0 || slices.Contains(s.Lanes, n.EffectiveLane()))
}

// RateLimiter guards the quotas of one credential. A scope that the provider refuses
// closes for as long as it says, and no other with it. Several routes may
// share a gate; a nil one admits everything.
type RateLimiter struct {
	total     *scopeLimiter
	totalOnly []*scopeLimiter // total alone: the way of most
	scopes    atomic.Pointer[scopeSet]
	targets   targetTable

	configMu sync.Mutex // guards what follows, and who replaces narrow
	weights  map[string]int
	share    *shareConfig // nil: the whole
}

// scopeSet are the scopes within the total. It is replaced, never changed.
type scopeSet struct {
	topics   *scopeLimiter // nil where there is no such limit
	operator []operatorScope
}

// operatorScope is a scope of the operator's.
type operatorScope struct {
	Scope
	limiter *scopeLimiter
}

// New returns an open gate.
func New(cfg Config) *RateLimiter {
	g := &RateLimiter{total: &scopeLimiter{}, weights: cfg.Weights}
	g.total.aimd.learnsRate = true
	g.totalOnly = []*scopeLimiter{g.total}
	g.scopes.Store(&scopeSet{})
	g.targets.init()
	g.Reconfigure(cfg)
	return g
}

// Reserve asks to make one attempt at n. If ok and there is no turn, a place is
// taken and the attempt may be made at once. If there is a turn, it stands in
// line and is likely to come after wait, which is at most patience. Otherwise
// nothing is taken, and wait says how long to stay away.
//
// There is a line for the scopes that many share: the total, the topics and
// the operator's own. A place kept for one device would pass the others by, so
// who asks for a device or a topic that is closed or has had its share is
// refused at once.
func (g *RateLimiter) Reserve(n *push.Notification, patience time.Duration) (turn *Reservation, wait time.Duration, ok bool) {
	if g == nil {
		return nil, 0, true
	}
	held, wait, ok := g.targets.reserve(n)
	if !ok {
		return nil, max(wait, g.total.closedFor()), false
	}
	lines := g.limitersFor(n)
	for len(lines) > 0 && lines[0].tryAcquire(n) {
		lines = lines[1:]
	}
	if len(lines) == 0 {
		held.finish(true)
		return nil, 0, true
	}
	turn = newReservation(n, lines, patience)
	turn.mu.Lock()
	defer turn.mu.Unlock()
	wait, queued, ok := turn.acquireNext()
	held.finish(ok)
	if !queued {
		return nil, wait, ok
	}
	return turn, wait, true
}

// limitersFor returns the lines that n has to pass, the narrowest first.
func (g *RateLimiter) limitersFor(n *push.Notification) []*scopeLimiter {
	within := g.scopes.Load()
	topics := within.topics != nil && isTopic(n)
	if !topics && len(within.operator) == 0 {
		return g.totalOnly
	}
	lines := make([]*scopeLimiter, 0, len(within.operator)+2)
	for i := range within.operator {
		if s := &within.operator[i]; s.matches(n) {
			lines = append(lines, s.limiter)
		}
	}
	if topics {
		lines = append(lines, within.topics)
	}
	return append(lines, g.total)
}

// RetryAfter returns how long a scope of n stays closed, and 0 if none is.
func (g *RateLimiter) RetryAfter(n *push.Notification) time.Duration {
	if g == nil {
		return 0
	}
	return max(g.total.closedFor(), g.targets.lookup(n).closedFor())
}

// Record takes note of an attempt's outcome. A Throttled one closes its scope:
// project and credential are everything behind the gate, any narrower scope is
// the notification's own target. A credential that is not taken, such as by
// Apple's TooManyProviderTokenUpdates, says nothing of the rate. All other
// outcomes teach nothing here.
func (g *RateLimiter) Record(n *push.Notification, o push.Outcome) {
	if g == nil || o.Verdict != push.Throttled {
		return
	}
	switch o.Scope {
	case push.ScopeProject:
		g.total.applyRefusal((*aimdLimiter).recordRefusal, o.RetryAfter)
	case push.ScopeCredential:
		g.total.applyRefusal((*aimdLimiter).recordCredentialRefusal, o.RetryAfter)
	case push.ScopeDevice, push.ScopeTopic, push.ScopeNone:
		g.targets.getOrCreate(n).recordRefusal(o.RetryAfter)
	}
}
