// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"
)

const (
	dialLimit = 15 * time.Second // beyond what any Dial should allow itself
	redialMin = 5 * time.Second  // an address that did not answer is left alone that long, doubling up to Config.Redial
)

// dial is one dial that the keeper has decided on.
type dial struct {
	endpoint *Endpoint
	join     bool // for a place in the pool; else for a member that lacks a connection
	delay    time.Duration
}

// budget bounds the dials, for Apple takes rapid connects and disconnects for
// an attack. There are never more than fill the pool, one for each connection
// or member that was lost, and one for each place in every ten seconds.
type budget struct {
	tokens, most, places int
	refilled             time.Time
}

const budgetPeriod = 10 * time.Second

func newBudget(size, conns int) budget {
	most := size*conns + size
	return budget{tokens: most, most: most, places: size, refilled: time.Now()}
}

func (b *budget) take(now time.Time) bool {
	if periods := now.Sub(b.refilled) / budgetPeriod; periods > 0 {
		b.refilled = b.refilled.Add(periods * budgetPeriod)
		b.tokens = max(b.tokens, min(b.most, b.tokens+int(min(periods, 100))*b.places))
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// grant allows one dial more, for what was lost.
func (b *budget) grant() { b.tokens++ }

func (p *Pool) dialTo(e *Endpoint, delay time.Duration) dial {
	e.dialling = true
	p.dials++
	return dial{endpoint: e, delay: delay}
}

func (p *Pool) join(e *Endpoint, late bool) dial {
	var delay time.Duration
	if late {
		delay = rand.N(spread)
	}
	d := p.dialTo(e, delay)
	d.join = true
	p.joining++
	return d
}

// carry dials, and carries the connection to its end: ctx is for the dial,
// conns for the connection.
func (p *Pool) carry(ctx, conns context.Context, d dial) {
	conn, err := p.connect(ctx, d)
	if err != nil {
		p.unanswered(ctx, d, err)
		return
	}
	l, spent := p.answeredDial(d, conn)
	drainLinks(spent)
	p.poke()
	p.ended(l, conn.Run(conns))
}

func (p *Pool) connect(ctx context.Context, d dial) (Conn, error) {
	select {
	case <-time.After(d.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	return p.cfg.Dial(ctx, d.endpoint.addr)
}

// unanswered leaves the address alone for a while, and longer each time.
func (p *Pool) unanswered(ctx context.Context, d dial, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.landed(d)
	if ctx.Err() != nil {
		return
	}
	e := d.endpoint
	e.redialWait = min(max(redialMin, 2*e.redialWait), p.cfg.Redial)
	e.redialAt = time.Now().Add(e.redialWait)
	p.trouble = "dialling " + e.name + ": " + err.Error()
	p.noteLocked(Event{Kind: DialFailed, Endpoint: e.name, Reason: err.Error() + "; left alone for " + e.redialWait.String()})
	p.poke()
}

func (p *Pool) landed(d dial) {
	d.endpoint.dialling = false
	if d.join {
		p.joining--
	}
}

// answeredDial puts the connection where it is wanted. It returns those that
// have to be drained for it, or itself if it is wanted no more.
func (p *Pool) answeredDial(d dial, conn Conn) (l *link, spent []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.landed(d)
	now, e := time.Now(), d.endpoint
	l = &link{endpoint: e, conn: conn}
	p.links++
	e.redialWait = 0
	p.noteLocked(Event{Kind: Dialled, Endpoint: e.name, Reason: "the connection stands"})
	if !p.closing.Load() && !e.member {
		spent = p.admit(e, now)
	}
	if p.closing.Load() || !e.member {
		p.noteLocked(Event{Kind: Closed, Endpoint: e.name, Reason: "it is not needed any more"})
		return l, []*link{l}
	}
	e.addLink(l)
	return l, spent
}

// retire takes a connection out of use; what is in flight on it may end.
func (p *Pool) retire(l *link, kind Kind, why string) {
	if !l.retired.CompareAndSwap(false, true) {
		return
	}
	p.mu.Lock()
	p.lose(l)
	p.noteLocked(Event{Kind: kind, Endpoint: l.endpoint.name, Reason: why})
	p.mu.Unlock()
	l.conn.Drain()
	p.poke()
}

// ended is told when a connection's Run has returned.
func (p *Pool) ended(l *link, err error) {
	p.mu.Lock()
	p.links--
	if !l.retired.Swap(true) {
		p.lose(l)
		if err == nil {
			p.noteLocked(Event{Kind: GoAway, Endpoint: l.endpoint.name, Reason: "the connection ended in good order"})
		}
	}
	if err != nil && !p.closing.Load() {
		p.noteLocked(Event{Kind: Lost, Endpoint: l.endpoint.name, Reason: err.Error()})
	}
	p.mu.Unlock()
	p.poke()
}

// lose forgets a connection and asks for another: at once, but for an endpoint
// whose last one was replaced just now.
func (p *Pool) lose(l *link) {
	e := l.endpoint
	e.dropLink(l)
	if !e.member || p.closing.Load() {
		return
	}
	p.budget.grant()
	at := time.Now()
	if again := e.replacedAt.Add(replaceOnce); !e.replacedAt.IsZero() && again.After(at) {
		at = again
	}
	e.replacedAt = at
	if at.After(e.redialAt) {
		e.redialAt = at
	}
}

// endpoint returns the endpoint of an address, making it if it is new.
func (p *Pool) endpoint(addr netip.AddrPort) *Endpoint {
	e := p.known[addr]
	if e == nil {
		e = newEndpoint(addr, &p.turns, &p.cfg)
		p.known[addr] = e
	}
	return e
}
