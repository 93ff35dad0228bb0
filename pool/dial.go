// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/sleep"
	"github.com/sluice-push/sluice/wire"
)

const (
	dialTimeout    = 15 * time.Second // an upper bound; Dial should have a shorter timeout of its own
	minRedialDelay = 5 * time.Second  // doubles with each failed dial up to Config.MaxRedialDelay
)

// dialTask is one dial that the maintainer has decided on.
type dialTask struct {
	endpoint *Endpoint
	join     bool // the endpoint becomes a member; otherwise it is one that lacks a connection
	delay    time.Duration
}

// dialBudget limits dials, because Apple treats many rapid connects and disconnects as an attack.
// It allows the dials that fill the pool, one for each lost connection or member, and one per slot
// of the pool every ten seconds.
type dialBudget struct {
	tokens, maxTokens, perPeriod int
	refilled                     time.Time
}

const budgetPeriod = 10 * time.Second

func newBudget(size, conns int) dialBudget {
	maxTokens := size*conns + size
	return dialBudget{tokens: maxTokens, maxTokens: maxTokens, perPeriod: size, refilled: time.Now()}
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

// grant allows one more dial, to replace something that was lost.
func (b *dialBudget) grant() { b.tokens++ }

func (p *Pool) newDial(d dialTask) dialTask {
	d.endpoint.dialing = true
	p.dials++
	if d.join {
		p.joining++
	}
	return d
}

// dialAndRun dials and then runs the connection until it ends. The dial uses ctx, and
// the connection uses connCtx.
func (p *Pool) dialAndRun(ctx, connCtx context.Context, d dialTask) {
	conn, err := p.connect(ctx, d)
	if err != nil {
		p.dialFailed(ctx, d, err)
		return
	}
	c, toDrain := p.connected(d, conn)
	drainConns(toDrain)
	p.wakeMaintainer()
	p.connEnded(c, p.recovered(func() error { return conn.Run(connCtx) }))
}

func (p *Pool) connect(ctx context.Context, d dialTask) (conn Conn, err error) {
	if !sleep.For(ctx, d.delay) {
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	err = p.recovered(func() error {
		conn, err = p.cfg.Dial(ctx, d.endpoint.addr)
		return err
	})
	return conn, err
}

// recovered calls work and returns an error if it panics: a failed dial, a lost connection or a
// failed resolve, after which the pool tries again.
func (p *Pool) recovered(work func() error) error {
	return panics.Recover(p.cfg.Logger, "pool "+p.cfg.Name, work)
}

// dialFailed schedules the next dial with a growing delay. While no endpoint is live, the delay stays
// short, so that the pool recovers soon after the service, unless waiting does not help.
func (p *Pool) dialFailed(ctx context.Context, d dialTask, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialEnded(d)
	if ctx.Err() != nil {
		return
	}
	e := d.endpoint
	e.redialDelay = min(max(minRedialDelay, 2*e.redialDelay), p.cfg.MaxRedialDelay)
	if !p.anyLive() && !isConfigurationError(err) {
		e.redialDelay = min(e.redialDelay, replaceInterval)
	}
	e.redialAt, e.dialErr = time.Now().Add(e.redialDelay), err
	p.lastError = "dialing " + e.name + ": " + err.Error()
	p.addEventLocked(Event{Kind: EventDialFailed, Endpoint: e.name, Reason: err.Error() + "; next dial after " + e.redialDelay.String()})
	p.wakeMaintainer()
}

func (p *Pool) dialEnded(d dialTask) {
	d.endpoint.dialing = false
	if d.join {
		p.joining--
	}
}

// connected adds a new connection to its endpoint. It returns the connections to drain: those of a
// replaced member, or the new connection if it is no longer needed.
func (p *Pool) connected(d dialTask, conn Conn) (c *endpointConn, toDrain []*endpointConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dialEnded(d)
	now, e := time.Now(), d.endpoint
	c = &endpointConn{endpoint: e, conn: conn, connectedAt: now}
	p.openConns++
	e.redialDelay, e.dialErr = 0, nil
	p.addEventLocked(Event{Kind: EventConnected, Endpoint: e.name, Reason: "handshake completed"})
	ending := p.closing.Load() || p.stopping
	if !ending && !e.member {
		toDrain = p.addMember(e, now)
	}
	if ending || !e.member {
		p.addEventLocked(Event{Kind: EventConnClosed, Endpoint: e.name, Reason: "no longer needed"})
		return c, []*endpointConn{c}
	}
	e.addConn(c)
	return c, toDrain
}

// retire stops using a connection. Requests in flight on it may finish.
func (p *Pool) retire(c *endpointConn, kind EventKind, reason string) {
	if !c.retired.CompareAndSwap(false, true) {
		return
	}
	p.mu.Lock()
	p.removeConn(c)
	p.addEventLocked(Event{Kind: kind, Endpoint: c.endpoint.name, Reason: reason})
	p.mu.Unlock()
	c.conn.Drain()
	p.wakeMaintainer()
}

// connEnded is called when the Run of a connection has returned.
func (p *Pool) connEnded(c *endpointConn, err error) {
	if panicked, ok := errors.AsType[*wire.PanicError](err); ok {
		p.cfg.Logger.Error("connection panicked, please report this bug", "pool", p.cfg.Name, "endpoint", c.endpoint.name, "err", panicked, "stack", panicked.Stack)
	}
	p.mu.Lock()
	p.openConns--
	if !c.retired.Swap(true) {
		p.removeConn(c)
		if err == nil {
			p.addEventLocked(Event{Kind: EventGoAway, Endpoint: c.endpoint.name, Reason: "drained"})
		}
	}
	if err != nil && !p.closing.Load() {
		p.addEventLocked(Event{Kind: EventConnLost, Endpoint: c.endpoint.name, Reason: err.Error()})
	}
	p.mu.Unlock()
	p.wakeMaintainer()
}

// removeConn removes a connection from its endpoint and schedules a replacement: immediately, unless
// the connection died young and the endpoint's last connection was replaced less than
// replaceInterval ago.
func (p *Pool) removeConn(c *endpointConn) {
	e := c.endpoint
	e.removeConn(c)
	if !e.member || p.closing.Load() {
		return
	}
	p.budget.grant()
	now := time.Now()
	redialAt := now
	if next := e.replacedAt.Add(replaceInterval); !e.replacedAt.IsZero() && next.After(now) && c.diedYoung(now) {
		redialAt = next
	}
	e.replacedAt = redialAt
	if redialAt.After(e.redialAt) {
		e.redialAt = redialAt
	}
}

// ensureEndpoint returns the endpoint of an address and creates it if needed.
func (p *Pool) ensureEndpoint(addr netip.AddrPort) *Endpoint {
	e := p.endpoints[addr]
	if e == nil {
		e = newEndpoint(p, addr)
		p.endpoints[addr] = e
	}
	return e
}
