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
	conn     *endpointConn
	ticket   ticket
	latency  time.Duration
	done     atomic.Bool
}

var _ wire.Doer = (*Lease)(nil)

// Endpoint returns the endpoint, to be appended to Tried.
func (l *Lease) Endpoint() *Endpoint { return l.endpoint }

// Conn returns the leased connection, for those who know more of it than the
// pool does.
func (l *Lease) Conn() Conn { return l.conn.conn }

// Do makes the attempt on the leased connection.
func (l *Lease) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	began := time.Now()
	answer, err := l.conn.conn.Do(ctx, r)
	l.latency = time.Since(began)
	return answer, err
}

// Done gives the endpoint back with what came of the attempt, exactly once,
// also when nothing was sent; later calls do nothing. The outcome alone feeds
// the breaker: EndpointFault is a failure, EndpointProven a success, and the
// rest says nothing about the endpoint.
func (l *Lease) Done(o push.Outcome) {
	if l.done.Swap(true) {
		return
	}
	p, e := l.pool, l.endpoint
	ejected := p.recordOutcome(l, o)
	switch {
	case o.CloseConnection && (ejected || !o.EndpointFault()):
		p.retire(l.conn, EventConnClosed, "the provider's answer spoils the connection: "+o.Reason)
	case o.HTTP == 0 && l.conn.conn.State().Draining:
		p.retire(l.conn, EventGoAway, "the connection takes nothing new")
	}
	e.release()
	p.serveWaiters(max(1, e.freeSlots(p.cfg.MaxInFlight))) // the answer may have raised the connection's stream limit
	if p.closing.Load() {
		p.wakeMaintainer()
	}
}

// recordOutcome tells the endpoint's statistics and its breaker, and the keeper if
// that changed anything. It reports whether the endpoint was ejected just now.
func (p *Pool) recordOutcome(l *Lease, o push.Outcome) (ejected bool) {
	outcome, why := errExcluded, o.Reason
	switch {
	case o.EndpointFault():
		outcome = errFailed
		if o.HTTP == 0 {
			outcome = errNoAnswer
		}
		l.endpoint.outcomes.failed.Add(1)
	case o.EndpointOK():
		outcome = nil
		l.endpoint.outcomes.addSuccess(l.latency)
	}
	if limit := time.Duration(p.probeLatencyLimit.Load()); l.ticket.probe && outcome == nil && limit > 0 && l.latency > limit {
		outcome, why = errFailed, fmt.Sprintf("it answered after %s, its peers do within %s", l.latency, limit)
	}
	switch l.endpoint.breaker.record(l.ticket, outcome, why) {
	case opened:
		p.onEjected(l.endpoint)
		return true
	case reopened:
		p.addEvent(ejectedEvent(l.endpoint))
		p.retire(l.conn, EventConnClosed, "the probe failed on it")
	case recovered:
		p.addEvent(Event{Kind: EventRecovered, Endpoint: l.endpoint.name, Reason: "the probe succeeded"})
	}
	return false
}
