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
	tickInterval    = time.Second            // how often time-dependent state is checked
	dialJitter      = 200 * time.Millisecond // spreads the first dials of many gateways over time
	forgetAfter     = 10 * time.Minute       // how long an unlisted address is remembered
	replaceInterval = 10 * time.Second       // minimum time between replacements of connections that died young
	usefulResponses = 10                     // a connection with fewer responses was not worth its handshake
	rescueInterval  = time.Second            // minimum time between dials that rescue moves forward
)

// maintain decides which endpoints are members. It runs in one goroutine until ctx ends or the pool
// is idle. It makes decisions under the lock and acts without it.
func (p *Pool) maintain(ctx context.Context, start func(dialTask)) (idle bool) {
	ticker := time.NewTicker(tickInterval)
	defer ticker.Stop()
	step := func() error {
		for _, d := range p.reconcile(time.Now()) {
			start(d)
		}
		p.updatePicker()
		p.deliverEvents()
		p.serveWaiters(math.MaxInt)
		return nil
	}
	for {
		_ = p.recovered(step) // logs a panic; the next event or tick calls it again
		select {
		case <-ctx.Done():
			return false
		case <-p.wake:
		case now := <-ticker.C:
			p.warmedUp.Store(true) // one hanging dial must not delay retries for long
			p.tick(now)
			if p.expireIdle(now) {
				return true
			}
		}
	}
}

// updatePicker passes the endpoints to a SnapshotPicker.
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

// reconcile compares the pool with its desired state and returns the dials that are needed.
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
	dials = append(dials, p.rotate(now)...)
	p.updateUnreachable(now)
	return dials
}

// rescue starts one scheduled dial early if all connections died young twice within ten seconds, so
// that the pool does not stay empty until replaceInterval has passed. It adds no dial: the endpoint is
// dialed once, earlier than planned.
func (p *Pool) rescue(now time.Time) {
	if now.Sub(p.lastRescue) < rescueInterval {
		return
	}
	var next *Endpoint
	for _, e := range p.endpoints {
		if e.live() || e.dialing {
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

// updatePanic records when panic mode begins and ends. Pick evaluates the condition itself.
func (p *Pool) updatePanic() {
	live, healthy := p.liveMembers()
	if panicMode := p.exceedsPanicThreshold(len(live), len(healthy)); panicMode != p.inPanic {
		p.inPanic = panicMode
		e := Event{Kind: EventPanicEnded, Reason: fmt.Sprintf("%d of %d endpoints are healthy", len(healthy), len(live))}
		if panicMode {
			e.Kind, e.Reason = EventPanicStarted, e.Reason+"; all are used"
		}
		p.addEventLocked(e)
	}
}

// evictDead evicts members without a connection that may not be redialed yet, or that the resolver
// no longer returns while new addresses are available.
func (p *Pool) evictDead(now time.Time) {
	p.evictIf(func(e *Endpoint) bool {
		return !e.live() && !e.dialing && (e.redialAt.After(now) || !e.listed && len(p.joinCandidates(now, breakerClosed)) > 0)
	}, "no connection")
}

// redialMembers returns dials for members that lack a connection, at most one per member.
func (p *Pool) redialMembers(now time.Time) (dials []dialTask) {
	for _, e := range *p.members.Load() {
		if len(*e.conns.Load()) >= p.cfg.ConnsPerEndpoint || e.dialing || e.redialAt.After(now) {
			continue
		}
		if p.budget.take(now) {
			dials = append(dials, p.newDial(dialTask{endpoint: e}))
		}
	}
	return dials
}

// fillSlots returns dials for slots that are free or held by ejected members. An endpoint becomes a
// member only once it is connected.
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
		d := dialTask{endpoint: e, join: true}
		if len(members) == 0 && len(dials) > 0 {
			d.delay = rand.N(dialJitter)
		}
		dials = append(dials, p.newDial(d))
	}
	if want > len(dials) {
		p.requestResolve()
	}
	return dials
}

// rotate replaces one member whose age has expired with a new address. Unlisted members go first. A
// listed member is replaced only if new addresses remain after that; otherwise its age starts
// again.
func (p *Pool) rotate(now time.Time) []dialTask {
	expired := p.expiredMember(now)
	if expired == nil || p.joining > 0 {
		return nil
	}
	candidates := p.joinCandidates(now, breakerClosed)
	switch {
	case expired.listed && len(candidates) <= p.countUnlisted():
		expired.expiresAt = now.Add(p.drawAge())
	case len(candidates) > 0 && p.budget.take(now):
		return []dialTask{p.newDial(dialTask{endpoint: candidates[0], join: true})}
	}
	return nil
}

// countUnlisted counts the members that the resolver no longer returns.
func (p *Pool) countUnlisted() (n int) {
	for _, e := range *p.members.Load() {
		if !e.listed {
			n++
		}
	}
	return n
}

// expiredMember returns the member to rotate out, or nil: an unlisted one if possible, otherwise
// the one that expired first.
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

// drawAge returns MaxAge plus up to a fifth at random, so that members that joined together do not
// leave together.
func (p *Pool) drawAge() time.Duration {
	return p.cfg.MaxAge + rand.N(p.cfg.MaxAge/5+1)
}

// breakerClosed and breakerHalfOpen select candidates for membership: healthy ones, and those whose
// ejection has expired and that need a probe.
func breakerClosed(e *Endpoint) bool   { return e.breaker.healthy() }
func breakerHalfOpen(e *Endpoint) bool { return !e.breaker.healthy() && !e.breaker.ejected() }

// joinCandidates returns the listed addresses that match and could become members now.
func (p *Pool) joinCandidates(now time.Time, match func(*Endpoint) bool) (found []*Endpoint) {
	for _, e := range p.listed {
		if !e.member && !e.dialing && !e.redialAt.After(now) && match(e) {
			found = append(found, e)
		}
	}
	return found
}

// addMember makes e a member. It takes a free slot or replaces a dead, ejected or expired member.
// It returns the connections of the replaced member.
func (p *Pool) addMember(e *Endpoint, now time.Time) (toDrain []*endpointConn) {
	members := *p.members.Load()
	if e.breaker.ejected() {
		return nil
	}
	reason := "free slot"
	if len(members) >= p.cfg.Size {
		old, oldReason := p.findReplaceable(e, now)
		if old == nil {
			return nil
		}
		toDrain, reason = p.evict(old, fmt.Sprintf("%s; replaced by %s", oldReason, e)), "replaces "+old.name
	}
	members = append(slices.Clone(*p.members.Load()), e)
	p.members.Store(&members)
	e.member, e.joinedAt, e.expiresAt = true, now, now.Add(p.drawAge())
	p.addEventLocked(Event{Kind: EventJoined, Endpoint: e.name, Reason: reason})
	return toDrain
}

// findReplaceable returns the member that e may replace, and why.
func (p *Pool) findReplaceable(e *Endpoint, now time.Time) (old *Endpoint, reason string) {
	for _, m := range *p.members.Load() {
		switch {
		case !m.live():
			return m, "no connection"
		case m.breaker.ejected() && old == nil:
			old = m
		}
	}
	if old != nil {
		return old, "ejected"
	}
	if expired := p.expiredMember(now); expired != nil && breakerClosed(e) {
		return expired, "member for " + now.Sub(expired.joinedAt).Round(time.Second).String()
	}
	return nil, ""
}

// evictIf evicts the members that match, and returns their connections.
func (p *Pool) evictIf(match func(*Endpoint) bool, reason string) (toDrain []*endpointConn) {
	for _, e := range *p.members.Load() {
		if match(e) {
			toDrain = append(toDrain, p.evict(e, reason)...)
		}
	}
	return toDrain
}

// evict removes e from the members and returns its connections. The breaker keeps its state.
func (p *Pool) evict(e *Endpoint, reason string) []*endpointConn {
	members := slices.DeleteFunc(slices.Clone(*p.members.Load()), func(m *Endpoint) bool { return m == e })
	p.members.Store(&members)
	e.member = false
	p.addEventLocked(Event{Kind: EventLeft, Endpoint: e.name, Reason: reason})
	return e.takeConns()
}

// onEjected is called when a breaker has opened.
func (p *Pool) onEjected(e *Endpoint) {
	p.mu.Lock()
	if e.member {
		p.budget.grant()
	}
	p.addEventLocked(ejectedEvent(e))
	p.mu.Unlock()
	p.wakeMaintainer()
}

// tick handles what depends only on time, for all endpoints.
func (p *Pool) tick(now time.Time) {
	p.mu.Lock()
	var toRetire []*endpointConn
	for _, e := range p.endpoints {
		if e.breaker.tick(now) == reopened {
			p.addEventLocked(ejectedEvent(e))
		}
		if _, draining := e.bestConn(); draining != nil {
			toRetire = append(toRetire, draining)
		}
	}
	outliers := p.detectOutliers(now)
	p.mu.Unlock()
	for _, c := range toRetire {
		p.retire(c, EventGoAway, "connection is draining")
	}
	for _, e := range outliers {
		p.onEjected(e)
	}
}
