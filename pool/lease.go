// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Lease is one endpoint for one attempt, with one of its connections.
type Lease struct {
	pool     *Pool
	endpoint *Endpoint
	link     *link
	ticket   ticket
	took     time.Duration
	ended    atomic.Bool
}

var _ wire.Doer = (*Lease)(nil)

// Endpoint returns the endpoint, to be appended to Tried.
func (l *Lease) Endpoint() *Endpoint { return l.endpoint }

// Conn returns the leased connection, for those who know more of it than the
// pool does.
func (l *Lease) Conn() Conn { return l.link.conn }

// Do makes the attempt on the leased connection.
func (l *Lease) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	began := time.Now()
	answer, err := l.link.conn.Do(ctx, r)
	l.took = time.Since(began)
	return answer, err
}

// Done gives the endpoint back with what came of the attempt, exactly once,
// also when nothing was sent; later calls do nothing. The outcome alone feeds
// the breaker: EndpointFault is a failure, EndpointProven a success, and the
// rest says nothing about the endpoint.
func (l *Lease) Done(o push.Outcome) {
	if l.ended.Swap(true) {
		return
	}
	p, e := l.pool, l.endpoint
	ejected := p.settle(l, o)
	switch {
	case o.CloseConnection && (ejected || !o.EndpointFault()):
		p.retire(l.link, Closed, "the provider's answer spoils the connection: "+o.Reason)
	case o.HTTP == 0 && l.link.conn.State().Draining:
		p.retire(l.link, GoAway, "the connection takes nothing new")
	}
	e.leave()
	p.serve(max(1, e.room(p.cfg.InFlight))) // the answer may have raised the connection's stream limit
	if p.closing.Load() {
		p.poke()
	}
}

// settle tells the endpoint's statistics and its breaker, and the keeper if
// that changed anything. It reports whether the endpoint was ejected just now.
func (p *Pool) settle(l *Lease, o push.Outcome) (ejected bool) {
	outcome, why := errExcluded, o.Reason
	switch {
	case o.EndpointFault():
		outcome = errFailed
		if o.HTTP == 0 {
			outcome = errSilent
		}
		l.endpoint.tally.failed.Add(1)
	case o.EndpointProven():
		outcome = nil
		l.endpoint.tally.answered(l.took)
	}
	if limit := time.Duration(p.slowProbe.Load()); l.ticket.trial && outcome == nil && limit > 0 && l.took > limit {
		outcome, why = errFailed, fmt.Sprintf("it answered after %s, its peers do within %s", l.took, limit)
	}
	switch l.endpoint.circuit.settle(l.ticket, outcome, why) {
	case opened:
		p.ejected(l.endpoint)
		return true
	case reopened:
		p.note(ejection(l.endpoint))
		p.retire(l.link, Closed, "the probe failed on it")
	case healed:
		p.note(Event{Kind: Recovered, Endpoint: l.endpoint.name, Reason: "the probe succeeded"})
	}
	return false
}
