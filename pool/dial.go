// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"
)

const (
	dialTimeout    = 15 * time.Second // beyond what any Dial should allow itself
	minRedialDelay = 5 * time.Second  // an address that did not answer is left alone that long, doubling up to Config.Redial
)

// dialTask is one dial that the keeper has decided on.
type dialTask struct {
	endpoint *Endpoint
	join     bool // for a place in the pool; else for a member that lacks a connection
	delay    time.Duration
}

// dialBudget bounds the dials, for Apple takes rapid connects and disconnects for
// an attack. There are never more than fill the pool, one for each connection
// or member that was lost, and one for each place in every ten seconds.
type dialBudget struct {
	tokens, maxTokens, perPeriod int
	refilled                     time.Time
}

const budgetPeriod = 10 * time.Second

func newBudget(size, conns int) dialBudget {
	most := size*conns + size
	return dialBudget{tokens: most, maxTokens: most, perPeriod: size, refilled: time.Now()}
}

func (b *dialBudget) take(now time.Time) bool {
	if periods := now.Sub(b.refilled) / budgetPeriod; periods > 0 {
		b.refilled = b.refilled.Add(periods * budgetPeriod)
		b.tokens = max(b.tokens, min(b.maxTokens, b.tokens+int(min(periods, 100))*b.perPeriod))
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// grant allows one dial more, for what was lost.
func (b *dialBudget) grant() { b.tokens++ }

func (p *Pool) newDial(e *Endpoint, delay time.Duration) dialTask {
	e.dialling = true
	p.dials++
	return dialTask{endpoint: e, delay: delay}
}

func (p *Pool) newJoinDial(e *Endpoint, late bool) dialTask {
	var delay time.Duration
	if late {
		delay = rand.N(dialJitter)
	}
	d := p.newDial(e, delay)
	d.join = true
	p.joining++
	return d
}

// dialAndRun dials, and carries the connection to its end: ctx is for the dial,
// conns for the connection.
func (p *Pool) dialAndRun(ctx, conns context.Context, d dialTask) {
	conn, err := p.connect(ctx, d)
	if err != nil {
		p.dialFailed(ctx, d, err)
		return
	}
	l, spent := p.connected(d, conn)
	drainConns(spent)
	p.wakeMaintainer()
	p.connEnded(l, conn.Run(conns))
}

func (p *Pool) connect(ctx context.Context, d dialTask) (Conn, error) {
	select {
	case <-time.After(d.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return p.cfg.Dial(ctx, d.endpoint.addr)
}

// dialFailed leaves the address alone for a while, and longer each time.
func (p *Pool) dialFailed(ctx context.Context, d dialTask, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialEnded(d)
	if ctx.Err() != nil {
		return
	}
	e := d.endpoint
	e.redialDelay = min(max(minRedialDelay, 2*e.redialDelay), p.cfg.MaxRedialDelay)
	e.redialAt = time.Now().Add(e.redialDelay)
	p.lastError = "dialling " + e.name + ": " + err.Error()
	p.addEventLocked(Event{Kind: EventDialFailed, Endpoint: e.name, Reason: err.Error() + "; left alone for " + e.redialDelay.String()})
	p.wakeMaintainer()
}

func (p *Pool) dialEnded(d dialTask) {
	d.endpoint.dialling = false
	if d.join {
		p.joining--
	}
}

// connected puts the connection where it is wanted. It returns those that
// have to be drained for it, or itself if it is wanted no more.
func (p *Pool) connected(d dialTask, conn Conn) (l *endpointConn, spent []*endpointConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialEnded(d)
	now, e := time.Now(), d.endpoint
	l = &endpointConn{endpoint: e, conn: conn}
	p.openConns++
	e.redialDelay = 0
	p.addEventLocked(Event{Kind: EventConnected, Endpoint: e.name, Reason: "the connection stands"})
	if !p.closing.Load() && !e.member {
		spent = p.addMember(e, now)
	}
	if p.closing.Load() || !e.member {
		p.addEventLocked(Event{Kind: EventConnClosed, Endpoint: e.name, Reason: "it is not needed any more"})
		return l, []*endpointConn{l}
	}
	e.addConn(l)
	return l, spent
}

// retire takes a connection out of use; what is in flight on it may end.
func (p *Pool) retire(l *endpointConn, kind EventKind, why string) {
	if !l.retired.CompareAndSwap(false, true) {
		return
	}
	p.mu.Lock()
	p.removeConn(l)
	p.addEventLocked(Event{Kind: kind, Endpoint: l.endpoint.name, Reason: why})
	p.mu.Unlock()
	l.conn.Drain()
	p.wakeMaintainer()
}

// connEnded is told when a connection's Run has returned.
func (p *Pool) connEnded(l *endpointConn, err error) {
	p.mu.Lock()
	p.openConns--
	if !l.retired.Swap(true) {
		p.removeConn(l)
		if err == nil {
			p.addEventLocked(Event{Kind: EventGoAway, Endpoint: l.endpoint.name, Reason: "the connection ended in good order"})
		}
	}
	if err != nil && !p.closing.Load() {
		p.addEventLocked(Event{Kind: EventConnLost, Endpoint: l.endpoint.name, Reason: err.Error()})
	}
	p.mu.Unlock()
	p.wakeMaintainer()
}

// removeConn forgets a connection and asks for another: at once, but for an endpoint
// whose last one was replaced just now.
func (p *Pool) removeConn(l *endpointConn) {
	e := l.endpoint
	e.removeConn(l)
	if !e.member || p.closing.Load() {
		return
	}
	p.budget.grant()
	at := time.Now()
	if again := e.replacedAt.Add(replaceInterval); !e.replacedAt.IsZero() && again.After(at) {
		at = again
	}
	e.replacedAt = at
	if at.After(e.redialAt) {
		e.redialAt = at
	}
}

// ensureEndpoint returns the endpoint of an address, making it if it is new.
func (p *Pool) ensureEndpoint(addr netip.AddrPort) *Endpoint {
	e := p.endpoints[addr]
	if e == nil {
		e = newEndpoint(addr, &p.turns, &p.cfg)
		p.endpoints[addr] = e
	}
	return e
}
