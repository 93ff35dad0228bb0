// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"time"
)

// Names of the scopes in Demand and Spend. An operator's own is "own/" and its name.
const (
	Total  = "total"
	Topics = "topics"
	ownKey = "own/"
)

// share is what Spend said last.
type share struct {
	parts map[string]float64
	until time.Time
	rest  float64
}

// part is what of a limit may be spent. The zero value is all of it.
type part struct {
	shared    bool
	now, rest float64
	until     time.Time // when rest takes the place of now; zero once it has
}

// end tells that the part has ended by then, once, and when it did.
func (p *part) end(at time.Time) (until time.Time, ended bool) {
	if p.until.IsZero() || at.Before(p.until) {
		return time.Time{}, false
	}
	until = p.until
	p.now, p.until = p.rest, time.Time{}
	return until, true
}

// Reconfigure puts cfg in force at once, also for those who wait. What the buckets hold stays, as far as they have room
// for it, and so does what was learned from refusals: over any time no more passes than the limits before and after allowed
// in their parts of it, and one burst. Who waits for a scope that is gone goes on.
func (g *Gate) Reconfigure(cfg Config) {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.weights = cfg.Weights
	g.targets.cfg.Store(&cfg)
	g.total.change(cfg.Total, cfg.Weights)
	before, next := g.narrow.Load(), &narrow{}
	if cfg.Topics.Rate > 0 {
		next.topics = g.standing(before.topics, Topics)
		next.topics.change(cfg.Topics, cfg.Weights)
	}
	for _, s := range cfg.Scopes {
		l := g.standing(before.find(s.Name, next), ownKey+s.Name)
		l.change(s.Limit, cfg.Weights)
		next.scopes = append(next.scopes, own{s, l})
	}
	g.narrow.Store(next)
	for _, l := range before.without(next) {
		l.change(Limit{}, cfg.Weights)
	}
}

// standing returns l, or a new line with the gate's share of it. g.changing is held.
func (g *Gate) standing(l *line, name string) *line {
	if l == nil {
		l = &line{}
		if g.share != nil {
			l.spend(g.share, name)
		}
	}
	return l
}

// find returns the line of that name that others has not taken yet, or nil.
func (n *narrow) find(name string, others *narrow) *line {
	for _, o := range n.scopes {
		if o.Name == name && !others.has(o.line) {
			return o.line
		}
	}
	return nil
}

func (n *narrow) has(l *line) bool {
	for _, o := range n.scopes {
		if o.line == l {
			return true
		}
	}
	return n.topics == l
}

// without returns the lines that next has not.
func (n *narrow) without(next *narrow) (gone []*line) {
	for _, l := range n.lines() {
		if !next.has(l) {
			gone = append(gone, l)
		}
	}
	return gone
}

func (n *narrow) lines() (all []*line) {
	if n.topics != nil {
		all = append(all, n.topics)
	}
	for _, o := range n.scopes {
		all = append(all, o.line)
	}
	return all
}

// Spend lets the gate spend only a part of each limit that many share, from 0 to 1, at once and also for those who wait.
// From until on, and where a scope is not named, that is rest: by the gate's own clock, whoever has died meanwhile. Parts
// are of the rate and of the burst alike, though a burst is never below one. Before the first call it is the whole. Limits
// of single devices and topics are not shared.
func (g *Gate) Spend(parts map[string]float64, until time.Time, rest float64) {
	g.changing.Lock()
	defer g.changing.Unlock()
	g.share = &share{parts, until, rest}
	g.total.spend(g.share, Total)
	within := g.narrow.Load()
	if within.topics != nil {
		within.topics.spend(g.share, Topics)
	}
	for _, o := range within.scopes {
		o.line.spend(g.share, ownKey+o.Name)
	}
}

// Demand returns how much of each limit that many share is wanted now, in parts of it: what passed in a second, what was
// turned away in one, and what waits. It can be more than 1.
func (g *Gate) Demand() map[string]float64 {
	within := g.narrow.Load()
	wanted := make(map[string]float64)
	g.total.demand(wanted, Total)
	if within.topics != nil {
		within.topics.demand(wanted, Topics)
	}
	for _, o := range within.scopes {
		o.line.demand(wanted, ownKey+o.Name)
	}
	return wanted
}

// change puts another limit and other weights in place.
func (l *line) change(limit Limit, weights map[string]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.pace.change(now, limit)
	l.weights = weights
	for i := range l.lanes {
		for app, s := range l.lanes[i].apps {
			s.stride = stride(weights, app)
		}
	}
	l.rearm(now)
}

func (l *line) spend(s *share, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.pace.filled(now, now)
	p := part{shared: true, now: s.rest, rest: s.rest}
	if amount, named := s.parts[name]; named && s.until.After(now) {
		p.now, p.until = amount, s.until
	}
	l.pace.part = p
	l.pace.filled(now, now)
	l.rearm(now)
}

// rearm sets the timer anew, for those who wait may be served sooner. l.mu is held.
func (l *line) rearm(now time.Time) {
	l.armed = false
	l.arm(now)
}

func (l *line) demand(into map[string]float64, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pace.limit.Rate == 0 {
		return
	}
	now := time.Now()
	wanted := l.pace.seen.perSecond(now) + l.turned.perSecond(now) + float64(l.waiting)
	into[name] = max(into[name], wanted/l.pace.limit.Rate)
}

// partOf returns the part of a burst: at least one where there is any.
func partOf(part float64, burst int) int {
	if part == 0 {
		return 0
	}
	return max(1, int(part*float64(burst)))
}
