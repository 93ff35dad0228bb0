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

// Lease is the right to send one request to one endpoint, over one of its connections.
type Lease struct {
	pool     *Pool
	endpoint *Endpoint
	conn     *endpointConn
	ticket   ticket
	latency  time.Duration
	done     atomic.Bool
}

var _ wire.Doer = (*Lease)(nil)

// Endpoint returns the endpoint, for appending to Tried.
func (l *Lease) Endpoint() *Endpoint { return l.endpoint }

// Conn returns the leased connection, for callers that need its concrete type.
func (l *Lease) Conn() Conn { return l.conn.conn }

// Do sends the request on the leased connection.
func (l *Lease) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	start := time.Now()
	res, err := l.conn.conn.Do(ctx, r)
	l.latency = time.Since(start)
	return res, err
}

// Done releases the lease and records the outcome. Every lease must be released, even if nothing
// was sent; only the first call has an effect. The outcome feeds the breaker and outlier detection:
// EndpointFault counts as a failure, EndpointOK as a success, and any other outcome says
// nothing about the endpoint.
func (l *Lease) Done(o push.Outcome) {
	if l.done.Swap(true) {
		return
	}
	p, e := l.pool, l.endpoint
	ejected := p.recordOutcome(l, o)
	switch {
	case o.CloseConnection && (ejected || !o.EndpointFault()):
		p.retire(l.conn, EventConnClosed, "the response requires a new connection: "+o.Reason)
	case o.HTTP == 0 && l.conn.conn.State().Draining:
		p.retire(l.conn, EventGoAway, "connection is draining")
	}
	e.release()
	// More than one slot may be free, because the response may have raised the stream limit.
	p.serveWaiters(max(1, e.freeSlots(p.cfg.MaxInFlight)))
	if p.closing.Load() {
		p.wakeMaintainer()
	}
}

// recordOutcome updates the statistics and the breaker of the endpoint. It reports whether this
// outcome ejected the endpoint.
func (p *Pool) recordOutcome(l *Lease, o push.Outcome) (ejected bool) {
	outcome, reason := errExcluded, o.Reason
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
		l.conn.responses.Add(1)
	}
	if limit := time.Duration(p.probeLatencyLimit.Load()); l.ticket.probe && outcome == nil && limit > 0 && l.latency > limit {
		outcome, reason = errFailed, fmt.Sprintf("response took %s, the limit by its peers is %s", l.latency, limit)
	}
	switch l.endpoint.breaker.record(l.ticket, outcome, reason) {
	case opened:
		p.onEjected(l.endpoint)
		return true
	case reopened:
		p.addEvent(ejectedEvent(l.endpoint))
		p.retire(l.conn, EventConnClosed, "probe failed")
	case recovered:
		p.addEvent(Event{Kind: EventRecovered, Endpoint: l.endpoint.name, Reason: "probe succeeded"})
	}
	return false
}
