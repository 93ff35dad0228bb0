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
	tickInterval    = time.Second            // how often the keeper looks at what only time changes
	dialJitter      = 200 * time.Millisecond // the first dials of many gateways do not come in one blow
	forgetAfter     = 10 * time.Minute       // how long an address that is named no more is remembered
	replaceInterval = 10 * time.Second       // an endpoint's lost connection is replaced at once only so often
	rescueInterval  = time.Second            // but sooner if nothing is live, one endpoint at a time
)

// maintain is the one goroutine that decides who is in the pool, until ctx ends. It
// decides under the lock and acts without it.
func (p *Pool) maintain(ctx context.Context, start func(dialTask)) {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	for {
		for _, d := range p.reconcile(time.Now()) {
			start(d)
		}
		p.updatePicker()
		p.deliverEvents()
		p.serveWaiters(math.MaxInt)
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case now := <-ticker.C:
			p.warmedUp.Store(true) // a dead address among the first must not keep retries waiting for long
			p.tick(now)
		}
	}
}

// updatePicker shows the pool to a picker that wants to see it.
func (p *Pool) updatePicker() {
	s, ok := p.cfg.Picker.(SnapshotPicker)
	if !ok {
		return
	}
	p.mu.Lock()
	all := slices.Clone(*p.members.Load())
	for _, e := range p.listed {
		if !e.member {
			all = append(all, e)
		}
	}
	p.mu.Unlock()
	s.UpdateEndpoints(all)
}

// reconcile brings the pool nearer to what it should be, and returns the dials that
// this takes.
func (p *Pool) reconcile(now time.Time) []dialTask {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.updatePanic()
	p.rescue(now)
	p.evictDead(now)
	dials := p.redialMembers(now)
	dials = append(dials, p.fillSlots(now)...)
	if p.joining == 0 && len(*p.members.Load()) > 0 {
		p.warmedUp.Store(true)
	}
	return append(dials, p.rotate(now)...)
}

// rescue brings one replacement forward when every connection has been lost twice within ten seconds, rather than leave
// the pool with nothing until they are over. An endpoint has no more than its next one brought forward, so that it is
// never dialled more than once beyond its rate.
func (p *Pool) rescue(now time.Time) {
	if now.Sub(p.lastRescue) < rescueInterval {
		return
	}
	var next *Endpoint
	for _, e := range p.endpoints {
		if e.live() || e.dialling {
			return
		}
		due := e.redialAt.Sub(now)
		if (!e.member && !e.listed) || e.redialDelay > 0 || e.breaker.ejected() || due <= 0 || due > replaceInterval {
			continue
		}
		if next == nil || e.redialAt.Before(next.redialAt) {
			next = e
		}
	}
	if next != nil {
		next.redialAt, p.lastRescue = now, now
	}
}

// updatePanic tells when panic begins and ends; Pick decides it each time anew.
func (p *Pool) updatePanic() {
	live, healthy := 0, 0
	for _, e := range *p.members.Load() {
		if e.live() {
			live++
			if e.breaker.healthy() {
				healthy++
			}
		}
	}
	if panics := p.exceedsPanicThreshold(live, healthy); panics != p.inPanic {
		p.inPanic = panics
		e := Event{Kind: EventPanicEnded, Reason: fmt.Sprintf("%d of %d endpoints are healthy", healthy, live)}
		if panics {
			e.Kind, e.Reason = EventPanicStarted, e.Reason+": all are used"
		}
		p.addEventLocked(e)
	}
}

// evictDead frees the places of those that lost their last connection and may
// not be dialled again yet, or are named no more while others are.
func (p *Pool) evictDead(now time.Time) {
	for _, e := range *p.members.Load() {
		if e.live() || e.dialling {
			continue
		}
		if e.redialAt.After(now) || !e.listed && len(p.joinCandidates(now, breakerClosed)) > 0 {
			p.evict(e, "it has no connection")
		}
	}
}

// redialMembers dials for the members that lack a connection, one at a time for each.
func (p *Pool) redialMembers(now time.Time) (dials []dialTask) {
	for _, e := range *p.members.Load() {
		if len(*e.conns.Load()) >= p.cfg.ConnsPerEndpoint || e.dialling || e.redialAt.After(now) {
			continue
		}
		if p.budget.take(now) {
			dials = append(dials, p.newDial(e, 0))
		}
	}
	return dials
}

// fillSlots dials for the places that are free or held by the ejected. Nobody gets
// a place before it is connected.
func (p *Pool) fillSlots(now time.Time) (dials []dialTask) {
	members := *p.members.Load()
	want := p.cfg.Size - len(members) - p.joining
	for _, e := range members {
		if e.breaker.ejected() {
			want++
		}
	}
	if want <= 0 {
		return nil
	}
	candidates := append(p.joinCandidates(now, breakerClosed), p.joinCandidates(now, breakerHalfOpen)...)
	for _, e := range candidates[:min(want, len(candidates))] {
		if !p.budget.take(now) {
			break
		}
		dials = append(dials, p.newJoinDial(e, len(members) == 0 && len(dials) > 0))
	}
	if want > len(dials) {
		p.requestResolve()
	}
	return dials
}

// rotate lets one aged member at a time make room for a new address. New
// addresses are for the members that are named no more; one that still is
// yields only to what is left over, and else begins a new age.
func (p *Pool) rotate(now time.Time) []dialTask {
	aged := p.expiredMember(now)
	if aged == nil || p.joining > 0 {
		return nil
	}
	candidates := p.joinCandidates(now, breakerClosed)
	switch {
	case aged.listed && len(candidates) <= p.countUnlisted():
		aged.expiresAt = now.Add(p.drawAge())
	case len(candidates) > 0 && p.budget.take(now):
		return []dialTask{p.newJoinDial(candidates[0], false)}
	}
	return nil
}

// countUnlisted counts the members that the resolver names no more.
func (p *Pool) countUnlisted() (n int) {
	for _, e := range *p.members.Load() {
		if !e.listed {
			n++
		}
	}
	return n
}

// expiredMember returns the member whose age is up, if any: first one that is named no
// more, then the oldest.
func (p *Pool) expiredMember(now time.Time) (oldest *Endpoint) {
	for _, e := range *p.members.Load() {
		switch {
		case e.expiresAt.After(now):
		case oldest == nil, oldest.listed && !e.listed, oldest.listed == e.listed && e.expiresAt.Before(oldest.expiresAt):
			oldest = e
		}
	}
	return oldest
}

// drawAge draws how long a place is held: MaxAge and up to a fifth more, so that
// those who came together do not go together.
func (p *Pool) drawAge() time.Duration {
	return p.cfg.MaxAge + rand.N(p.cfg.MaxAge/5+1)
}

// breakerClosed and convalescent are the two sorts of candidates: never ejected, or
// well again; and those whose ejection is over, who come back on probation.
func breakerClosed(e *Endpoint) bool   { return e.breaker.healthy() }
func breakerHalfOpen(e *Endpoint) bool { return !e.breaker.healthy() && !e.breaker.ejected() }

// joinCandidates are the addresses that the resolver names and that could join now.
func (p *Pool) joinCandidates(now time.Time, sort func(*Endpoint) bool) (found []*Endpoint) {
	for _, e := range p.listed {
		if !e.member && !e.dialling && !e.redialAt.After(now) && sort(e) {
			found = append(found, e)
		}
	}
	return found
}

// addMember gives e a place: a free one, that of an ejected or dead member, or
// that of an aged one. It returns the connections of the one that had to go.
func (p *Pool) addMember(e *Endpoint, now time.Time) (left []*endpointConn) {
	members := *p.members.Load()
	if e.breaker.ejected() {
		return nil
	}
	why := "a place was free"
	if len(members) >= p.cfg.Size {
		victim, fault := p.findReplaceable(e, now)
		if victim == nil {
			return nil
		}
		left, why = p.evict(victim, fmt.Sprintf("%s; %s takes its place", fault, e)), "in place of "+victim.name
	}
	members = append(slices.Clone(*p.members.Load()), e)
	p.members.Store(&members)
	e.member, e.joinedAt, e.expiresAt = true, now, now.Add(p.drawAge())
	p.addEventLocked(Event{Kind: EventJoined, Endpoint: e.name, Reason: why})
	return left
}

// findReplaceable returns the member that must make room for e, and why.
func (p *Pool) findReplaceable(e *Endpoint, now time.Time) (victim *Endpoint, fault string) {
	for _, m := range *p.members.Load() {
		switch {
		case !m.live():
			return m, "it has no connection"
		case m.breaker.ejected() && victim == nil:
			victim = m
		}
	}
	if victim != nil {
		return victim, "it is ejected"
	}
	if aged := p.expiredMember(now); aged != nil && breakerClosed(e) {
		return aged, "it has been here for " + now.Sub(aged.joinedAt).Round(time.Second).String()
	}
	return nil, ""
}

// evict takes e's place away. Its breaker stays what it is.
func (p *Pool) evict(e *Endpoint, why string) []*endpointConn {
	members := slices.DeleteFunc(slices.Clone(*p.members.Load()), func(m *Endpoint) bool { return m == e })
	p.members.Store(&members)
	e.member = false
	p.addEventLocked(Event{Kind: EventLeft, Endpoint: e.name, Reason: why})
	return e.takeConns()
}

// onEjected is told when a breaker has opened.
func (p *Pool) onEjected(e *Endpoint) {
	p.mu.Lock()
	if e.member {
		p.budget.grant()
	}
	p.addEventLocked(ejectedEvent(e))
	p.mu.Unlock()
	p.wakeMaintainer()
}

// tick does what only time does, for all that are known.
func (p *Pool) tick(now time.Time) {
	p.mu.Lock()
	var spent []*endpointConn
	for _, e := range p.endpoints {
		if e.breaker.tick(now) == reopened {
			p.addEventLocked(ejectedEvent(e))
		}
		if _, gone := e.bestConn(); gone != nil {
			spent = append(spent, gone)
		}
	}
	outliers := p.detectOutliers(now)
	p.mu.Unlock()
	for _, l := range spent {
		p.retire(l, EventGoAway, "the connection takes nothing new")
	}
	for _, e := range outliers {
		p.onEjected(e)
	}
}
