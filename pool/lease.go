// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Lease is the right to send up to Size requests to one endpoint, over one of its connections. Every
// request has a place, which Done or Succeeded must give back, even if nothing was sent. Giving back
// more places than Size has no effect.
type Lease struct {
	pool     *Pool
	endpoint *Endpoint
	conn     *endpointConn
	ticket   ticket
	size     int32
	flow     string                             // of the Request
	canQueue bool                               // of the Request
	waited   time.Duration                      // in the queue
	returned atomic.Int32                       // places that have been given back
	started  time.Time                          // when Do or Start was called last
	cancel   atomic.Pointer[context.CancelFunc] // of Start on a Conn that is no wire.Starter
}

var (
	_ wire.Doer    = (*Lease)(nil)
	_ wire.Starter = (*Lease)(nil)
)

// Endpoint returns the endpoint, for appending to Tried.
func (l *Lease) Endpoint() *Endpoint { return l.endpoint }

// Conn returns the leased connection, for callers that need its concrete type.
func (l *Lease) Conn() Conn { return l.conn.conn }

// Size returns for how many requests the lease was granted; at least 1.
func (l *Lease) Size() int { return int(l.size) }

// Waited returns how long PickN has waited for the lease.
func (l *Lease) Waited() time.Duration { return l.waited }

// Do sends the request on the leased connection.
func (l *Lease) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	l.started = time.Now()
	return l.conn.conn.Do(ctx, r)
}

// Start sends at most Size requests on the leased connection, with the contract of wire.Starter. It is
// called once. Complete calls Done or Succeeded for each result.
func (l *Lease) Start(rs []*wire.Request, h wire.Handler) {
	l.started = time.Now()
	if s, ok := l.Conn().(wire.Starter); ok {
		s.Start(rs, h)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel.Store(&cancel)
	var mu sync.Mutex // allows one Complete at a time
	for i, r := range rs {
		go func() {
			_ = l.pool.recovered(func() error {
				result := wire.Result{Index: i, Err: errPanicked, Started: l.started}
				defer func() {
					result.Ended = time.Now()
					mu.Lock()
					defer mu.Unlock()
					h.Complete([]wire.Result{result})
				}()
				result.Response, result.Err = l.Conn().Do(ctx, r)
				return nil
			})
		}()
	}
}

var errPanicked error = &wire.Error{Reason: wire.LostAfterWrite, Err: errors.New("the connection panicked")}

// Cancel ends the requests of Start that have not ended.
func (l *Lease) Cancel(h wire.Handler) {
	if s, ok := l.Conn().(wire.Starter); ok {
		s.Cancel(h)
	} else if cancel := l.cancel.Load(); cancel != nil {
		(*cancel)()
	}
}

// Done gives back one place and records the outcome of its request. The outcome feeds the breaker
// and outlier detection: EndpointFault counts as a failure, EndpointOK as a success, and any other
// outcome says nothing about the endpoint. The time since Do or Start counts as the latency.
func (l *Lease) Done(o push.Outcome) {
	if addUpTo(&l.returned, 1, l.Size()) == 0 {
		return
	}
	took := time.Duration(0)
	if !l.started.IsZero() {
		took = time.Since(l.started)
	}
	ejected := l.recordOutcome(o, took)
	switch {
	case o.CloseConnection && (ejected || !o.EndpointFault()):
		l.pool.retire(l.conn, EventConnClosed, "the response requires a new connection: "+o.Reason)
	case o.HTTP == 0 && l.conn.conn.State().Draining:
		l.pool.retire(l.conn, EventGoAway, "connection is draining")
	}
	l.release(1, took)
}

// Succeeded gives back n places whose requests were accepted, with a latency of took. It is Done for
// all of them at once: each counts as a success.
func (l *Lease) Succeeded(n int, took time.Duration) {
	if n = addUpTo(&l.returned, n, l.Size()); n > 0 {
		l.recordSuccesses(n, took)
		l.release(n, took)
	}
}

// release makes n places available to other callers.
func (l *Lease) release(n int, took time.Duration) {
	p, e := l.pool, l.endpoint
	p.cfg.Limiter.release(l, n, took)
	e.release(n)
	if !p.queue.empty() {
		// More than n slots may be free, because the response may have raised the stream limit.
		p.serveWaiters(max(n, e.freeSlots(p.cfg.MaxInFlight)))
	}
	if p.closing.Load() {
		p.wakeMaintainer()
	}
}

// recordOutcome updates the statistics and the breaker of the endpoint. It reports whether this
// outcome ejected the endpoint.
func (l *Lease) recordOutcome(o push.Outcome, took time.Duration) (ejected bool) {
	outcome := errExcluded
	switch {
	case o.EndpointFault():
		outcome = errFailed
		if o.HTTP == 0 {
			outcome = errNoAnswer
		}
		l.endpoint.outcomes.failed.Add(1)
	case o.EndpointOK():
		l.recordSuccesses(1, took)
		return false
	}
	return l.recordBreaker(1, outcome, o.Reason)
}

// recordSuccesses updates the statistics and the breaker after n responses that show that the
// endpoint works. A probe that is much slower than the peers of its endpoint has failed.
func (l *Lease) recordSuccesses(n int, took time.Duration) {
	l.endpoint.outcomes.addSuccesses(n, took)
	l.conn.responses.Add(int64(n))
	limit := time.Duration(l.pool.probeLatencyLimit.Load())
	if l.ticket.probe && limit > 0 && took > limit {
		l.recordBreaker(1, errFailed, fmt.Sprintf("response took %s, the limit by its peers is %s", took, limit))
		return
	}
	l.recordBreaker(n, nil, "")
}

// recordBreaker records n equal outcomes in the breaker. It reports whether they ejected the
// endpoint.
func (l *Lease) recordBreaker(n int, outcome error, reason string) (ejected bool) {
	p, e := l.pool, l.endpoint
	switch e.breaker.record(l.ticket, n, outcome, reason) {
	case opened:
		p.onEjected(e)
		return true
	case reopened:
		p.addEvent(ejectedEvent(e))
		p.retire(l.conn, EventConnClosed, "probe failed")
	case recovered:
		p.addEvent(Event{Kind: EventRecovered, Endpoint: e.name, Reason: "probe succeeded"})
	}
	return false
}
