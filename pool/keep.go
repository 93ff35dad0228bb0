// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	beat        = time.Second            // how often the keeper looks at what only time changes
	spread      = 200 * time.Millisecond // the first dials of many gateways do not come in one blow
	memory      = 10 * time.Minute       // how long an address that is named no more is remembered
	replaceOnce = 10 * time.Second       // an endpoint's lost connection is replaced at once only so often
	hurryOnce   = time.Second            // but sooner if nothing is live, one endpoint at a time
)

// keep is the one goroutine that decides who is in the pool, until ctx ends. It
// decides under the lock and acts without it.
func (p *Pool) keep(ctx context.Context, start func(dial)) {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	for {
		for _, d := range p.tend(time.Now()) {
			start(d)
		}
		p.survey()
		p.tell()
		p.serve(math.MaxInt)
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case now := <-ticker.C:
			p.warm.Store(true) // a dead address among the first must not keep retries waiting for long
			p.beat(now)
		}
	}
}

// survey shows the pool to a picker that wants to see it.
func (p *Pool) survey() {
	s, ok := p.cfg.Picker.(Surveyor)
	if !ok {
		return
	}
	p.mu.Lock()
	all := slices.Clone(*p.members.Load())
	for _, e := range p.answer {
		if !e.member {
			all = append(all, e)
		}
	}
	p.mu.Unlock()
	s.Survey(all)
}

// tend brings the pool nearer to what it should be, and returns the dials that
// this takes.
func (p *Pool) tend(now time.Time) []dial {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchPanic()
	p.rescue(now)
	p.dropDead(now)
	dials := p.renew(now)
	dials = append(dials, p.fill(now)...)
	if p.joining == 0 && len(*p.members.Load()) > 0 {
		p.warm.Store(true)
	}
	return append(dials, p.rejuvenate(now)...)
}

// rescue brings one replacement forward when every connection has been lost twice within ten seconds, rather than leave
// the pool with nothing until they are over. An endpoint has no more than its next one brought forward, so that it is
// never dialled more than once beyond its rate.
func (p *Pool) rescue(now time.Time) {
	if now.Sub(p.rescued) < hurryOnce {
		return
	}
	var next *Endpoint
	for _, e := range p.known {
		if e.live() || e.dialling {
			return
		}
		due := e.redialAt.Sub(now)
		if (!e.member && !e.listed) || e.redialWait > 0 || e.circuit.ejected() || due <= 0 || due > replaceOnce {
			continue
		}
		if next == nil || e.redialAt.Before(next.redialAt) {
			next = e
		}
	}
	if next != nil {
		next.redialAt, p.rescued = now, now
	}
}

// watchPanic tells when panic begins and ends; Pick decides it each time anew.
func (p *Pool) watchPanic() {
	live, healthy := 0, 0
	for _, e := range *p.members.Load() {
		if e.live() {
			live++
			if e.circuit.healthy() {
				healthy++
			}
		}
	}
	if panics := p.panics(live, healthy); panics != p.panicked {
		p.panicked = panics
		e := Event{Kind: Calmed, Reason: fmt.Sprintf("%d of %d endpoints are healthy", healthy, live)}
		if panics {
			e.Kind, e.Reason = Panicked, e.Reason+": all are used"
		}
		p.noteLocked(e)
	}
}

// dropDead frees the places of those that lost their last connection and may
// not be dialled again yet, or are named no more while others are.
func (p *Pool) dropDead(now time.Time) {
	for _, e := range *p.members.Load() {
		if e.live() || e.dialling {
			continue
		}
		if e.redialAt.After(now) || !e.listed && len(p.candidates(now, fresh)) > 0 {
			p.evict(e, "it has no connection")
		}
	}
}

// renew dials for the members that lack a connection, one at a time for each.
func (p *Pool) renew(now time.Time) (dials []dial) {
	for _, e := range *p.members.Load() {
		if len(*e.links.Load()) >= p.cfg.Conns || e.dialling || e.redialAt.After(now) {
			continue
		}
		if p.budget.take(now) {
			dials = append(dials, p.dialTo(e, 0))
		}
	}
	return dials
}

// fill dials for the places that are free or held by the ejected. Nobody gets
// a place before it is connected.
func (p *Pool) fill(now time.Time) (dials []dial) {
	members := *p.members.Load()
	want := p.cfg.Size - len(members) - p.joining
	for _, e := range members {
		if e.circuit.ejected() {
			want++
		}
	}
	if want <= 0 {
		return nil
	}
	candidates := append(p.candidates(now, fresh), p.candidates(now, convalescent)...)
	for _, e := range candidates[:min(want, len(candidates))] {
		if !p.budget.take(now) {
			break
		}
		dials = append(dials, p.join(e, len(members) == 0 && len(dials) > 0))
	}
	if want > len(dials) {
		p.hurry()
	}
	return dials
}

// rejuvenate lets one aged member at a time make room for a new address. New
// addresses are for the members that are named no more; one that still is
// yields only to what is left over, and else begins a new age.
func (p *Pool) rejuvenate(now time.Time) []dial {
	aged := p.aged(now)
	if aged == nil || p.joining > 0 {
		return nil
	}
	candidates := p.candidates(now, fresh)
	switch {
	case aged.listed && len(candidates) <= p.departed():
		aged.due = now.Add(p.age())
	case len(candidates) > 0 && p.budget.take(now):
		return []dial{p.join(candidates[0], false)}
	}
	return nil
}

// departed counts the members that the resolver names no more.
func (p *Pool) departed() (n int) {
	for _, e := range *p.members.Load() {
		if !e.listed {
			n++
		}
	}
	return n
}

// aged returns the member whose age is up, if any: first one that is named no
// more, then the oldest.
func (p *Pool) aged(now time.Time) (oldest *Endpoint) {
	for _, e := range *p.members.Load() {
		switch {
		case e.due.After(now):
		case oldest == nil, oldest.listed && !e.listed, oldest.listed == e.listed && e.due.Before(oldest.due):
			oldest = e
		}
	}
	return oldest
}

// age draws how long a place is held: MaxAge and up to a fifth more, so that
// those who came together do not go together.
func (p *Pool) age() time.Duration {
	return p.cfg.MaxAge + rand.N(p.cfg.MaxAge/5+1)
}

// fresh and convalescent are the two sorts of candidates: never ejected, or
// well again; and those whose ejection is over, who come back on probation.
func fresh(e *Endpoint) bool        { return e.circuit.healthy() }
func convalescent(e *Endpoint) bool { return !e.circuit.healthy() && !e.circuit.ejected() }

// candidates are the addresses that the resolver names and that could join now.
func (p *Pool) candidates(now time.Time, sort func(*Endpoint) bool) (found []*Endpoint) {
	for _, e := range p.answer {
		if !e.member && !e.dialling && !e.redialAt.After(now) && sort(e) {
			found = append(found, e)
		}
	}
	return found
}

// admit gives e a place: a free one, that of an ejected or dead member, or
// that of an aged one. It returns the connections of the one that had to go.
func (p *Pool) admit(e *Endpoint, now time.Time) (left []*link) {
	members := *p.members.Load()
	if e.circuit.ejected() {
		return nil
	}
	why := "a place was free"
	if len(members) >= p.cfg.Size {
		victim, fault := p.replaceable(e, now)
		if victim == nil {
			return nil
		}
		left, why = p.evict(victim, fmt.Sprintf("%s; %s takes its place", fault, e)), "in place of "+victim.name
	}
	members = append(slices.Clone(*p.members.Load()), e)
	p.members.Store(&members)
	e.member, e.since, e.due = true, now, now.Add(p.age())
	p.noteLocked(Event{Kind: Joined, Endpoint: e.name, Reason: why})
	return left
}

// replaceable returns the member that must make room for e, and why.
func (p *Pool) replaceable(e *Endpoint, now time.Time) (victim *Endpoint, fault string) {
	for _, m := range *p.members.Load() {
		switch {
		case !m.live():
			return m, "it has no connection"
		case m.circuit.ejected() && victim == nil:
			victim = m
		}
	}
	if victim != nil {
		return victim, "it is ejected"
	}
	if aged := p.aged(now); aged != nil && fresh(e) {
		return aged, "it has been here for " + now.Sub(aged.since).Round(time.Second).String()
	}
	return nil, ""
}

// evict takes e's place away. Its breaker stays what it is.
func (p *Pool) evict(e *Endpoint, why string) []*link {
	members := slices.DeleteFunc(slices.Clone(*p.members.Load()), func(m *Endpoint) bool { return m == e })
	p.members.Store(&members)
	e.member = false
	p.noteLocked(Event{Kind: Left, Endpoint: e.name, Reason: why})
	return e.takeLinks()
}

// ejected is told when a breaker has opened.
func (p *Pool) ejected(e *Endpoint) {
	p.mu.Lock()
	if e.member {
		p.budget.grant()
	}
	p.noteLocked(ejection(e))
	p.mu.Unlock()
	p.poke()
}

// beat does what only time does, for all that are known.
func (p *Pool) beat(now time.Time) {
	p.mu.Lock()
	var spent []*link
	for _, e := range p.known {
		if e.circuit.beat(now) == reopened {
			p.noteLocked(ejection(e))
		}
		if _, gone := e.link(); gone != nil {
			spent = append(spent, gone)
		}
	}
	outliers := p.sweep(now)
	p.mu.Unlock()
	for _, l := range spent {
		p.retire(l, GoAway, "the connection takes nothing new")
	}
	for _, e := range outliers {
		p.ejected(e)
	}
}
