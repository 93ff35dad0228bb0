// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"time"
)

// Names of the scopes in Demand and Spend. An operator's own is "own/" and its name.
const (
	Total          = "total"
	Topics         = "topics"
	operatorPrefix = "own/"
)

// shareConfig is what Spend said last.
type shareConfig struct {
	fractions map[string]float64
	until     time.Time
	fallback  float64
}

// fraction is what of a limit may be spent. The zero value is all of it.
type fraction struct {
	shared            bool
	current, fallback float64
	until             time.Time // when rest takes the place of now; zero once it has
}

// expire tells that the part has ended by then, once, and when it did.
func (p *fraction) expire(at time.Time) (until time.Time, ended bool) {
	if p.until.IsZero() || at.Before(p.until) {
		return time.Time{}, false
	}
	until = p.until
	p.current, p.until = p.fallback, time.Time{}
	return until, true
}

// Reconfigure puts cfg in force at once, also for those who wait. What the buckets hold stays, as far as they have room
// for it, and so does what was learned from refusals: over any time no more passes than the limits before and after allowed
// in their parts of it, and one burst. Who waits for a scope that is gone goes on.
func (g *RateLimiter) Reconfigure(cfg Config) {
	g.configMu.Lock()
	defer g.configMu.Unlock()
	g.weights = cfg.Weights
	g.targets.cfg.Store(&cfg)
	g.total.reconfigure(cfg.Total, cfg.Weights)
	before, next := g.scopes.Load(), &scopeSet{}
	if cfg.Topics.Rate > 0 {
		next.topics = g.reuseOrNew(before.topics, Topics)
		next.topics.reconfigure(cfg.Topics, cfg.Weights)
	}
	for _, s := range cfg.Scopes {
		l := g.reuseOrNew(before.find(s.Name, next), operatorPrefix+s.Name)
		l.reconfigure(s.Limit, cfg.Weights)
		next.operator = append(next.operator, operatorScope{s, l})
	}
	g.scopes.Store(next)
	for _, l := range before.notIn(next) {
		l.reconfigure(Limit{}, cfg.Weights)
	}
}

// reuseOrNew returns l, or a new line with the gate's share of it. g.changing is held.
func (g *RateLimiter) reuseOrNew(l *scopeLimiter, name string) *scopeLimiter {
	if l == nil {
		l = &scopeLimiter{}
		if g.share != nil {
			l.setShare(g.share, name)
		}
	}
	return l
}

// find returns the line of that name that others has not taken yet, or nil.
func (n *scopeSet) find(name string, others *scopeSet) *scopeLimiter {
	for _, o := range n.operator {
		if o.Name == name && !others.contains(o.limiter) {
			return o.limiter
		}
	}
	return nil
}

func (n *scopeSet) contains(l *scopeLimiter) bool {
	for _, o := range n.operator {
		if o.limiter == l {
			return true
		}
	}
	return n.topics == l
}

// notIn returns the lines that next has not.
func (n *scopeSet) notIn(next *scopeSet) (gone []*scopeLimiter) {
	for _, l := range n.limiters() {
		if !next.contains(l) {
			gone = append(gone, l)
		}
	}
	return gone
}

func (n *scopeSet) limiters() (all []*scopeLimiter) {
	if n.topics != nil {
		all = append(all, n.topics)
	}
	for _, o := range n.operator {
		all = append(all, o.limiter)
	}
	return all
}

// SetShare lets the gate spend only a part of each limit that many share, from 0 to 1, at once and also for those who wait.
// From until on, and where a scope is not named, that is rest: by the gate's own clock, whoever has died meanwhile. Parts
// are of the rate and of the burst alike, though a burst is never below one. Before the first call it is the whole. Limits
// of single devices and topics are not shared.
func (g *RateLimiter) SetShare(parts map[string]float64, until time.Time, rest float64) {
	g.configMu.Lock()
	defer g.configMu.Unlock()
	g.share = &shareConfig{parts, until, rest}
	g.total.setShare(g.share, Total)
	within := g.scopes.Load()
	if within.topics != nil {
		within.topics.setShare(g.share, Topics)
	}
	for _, o := range within.operator {
		o.limiter.setShare(g.share, operatorPrefix+o.Name)
	}
}

// Demand returns how much of each limit that many share is wanted now, in parts of it: what passed in a second, what was
// turned away in one, and what waits. It can be more than 1.
func (g *RateLimiter) Demand() map[string]float64 {
	within := g.scopes.Load()
	wanted := make(map[string]float64)
	g.total.addDemand(wanted, Total)
	if within.topics != nil {
		within.topics.addDemand(wanted, Topics)
	}
	for _, o := range within.operator {
		o.limiter.addDemand(wanted, operatorPrefix+o.Name)
	}
	return wanted
}

// reconfigure puts another limit and other weights in place.
func (l *scopeLimiter) reconfigure(limit Limit, weights map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.aimd.setLimit(now, limit)
	l.weights = weights
	for i := range l.lanes {
		for app, s := range l.lanes[i].apps {
			s.stride = appStride(weights, app)
		}
	}
	l.resetTimer(now)
}

func (l *scopeLimiter) setShare(s *shareConfig, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.aimd.bucketAt(now, now)
	p := fraction{shared: true, current: s.fallback, fallback: s.fallback}
	if amount, named := s.fractions[name]; named && s.until.After(now) {
		p.current, p.until = amount, s.until
	}
	l.aimd.fraction = p
	l.aimd.bucketAt(now, now)
	l.resetTimer(now)
}

// resetTimer sets the timer anew, for those who wait may be served sooner. l.mu is held.
func (l *scopeLimiter) resetTimer(now time.Time) {
	l.armed = false
	l.armTimer(now)
}

func (l *scopeLimiter) addDemand(into map[string]float64, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.aimd.limit.Rate == 0 {
		return
	}
	now := time.Now()
	wanted := l.aimd.passed.perSecond(now) + l.rejected.perSecond(now) + float64(l.waiting)
	into[name] = max(into[name], wanted/l.aimd.limit.Rate)
}

// scaledBurst returns the part of a burst: at least one where there is any.
func scaledBurst(part float64, burst int) int {
	if part == 0 {
		return 0
	}
	return max(1, int(part*float64(burst)))
}
