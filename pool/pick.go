// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Tried holds the endpoints that one notification has already been sent to. A nil Tried is empty.
// Append Lease.Endpoint after each attempt.
type Tried []*Endpoint

// Has reports whether t contains the address of e.
func (t Tried) Has(e *Endpoint) bool {
	return slices.ContainsFunc(t, func(other *Endpoint) bool { return other == e || other.addr == e.addr })
}

// Request says for what a caller of PickN needs a lease.
type Request struct {
	// Tried are the endpoints that must not be used while others are live.
	Tried Tried
	// N is the number of requests that are sent together; a number below 1 counts as 1.
	N int
	// Lane is the priority among callers that wait.
	Lane push.Lane
	// Flow names the app that sends. Callers that wait in one lane are served in turn by flow, and
	// Config.Limiter divides leases among flows. The number of names must be bounded.
	Flow string
	// CanQueue makes the request wait where Config.Limiter would reject it, at most for MaxWait. Others
	// in its lane go first. Without Config.Limiter, both have no effect.
	CanQueue bool
	MaxWait  time.Duration
}

// Pick is PickN for one request of a caller that needs no priority.
func (p *Pool) Pick(ctx context.Context, tried Tried) (*Lease, error) {
	return p.PickN(ctx, Request{Tried: tried})
}

// PickN leases an endpoint for one attempt of each of r.N requests. It prefers a healthy untried
// endpoint, then any live untried endpoint even if it is ejected, then any live endpoint.
//
// PickN never returns a tried endpoint while an untried one is live. If all eligible endpoints are at
// their limit, it waits for free slots: higher lanes are served first, and within a lane first retries,
// then requests without CanQueue, then those with it, each by flow in turn. It also waits while no
// endpoint is live, unless the dials to all of them have failed: then it fails immediately with the
// cause (see Config.WaitForReady). Just after the pool has started, it waits while all live endpoints
// are tried and others are still being dialed.
//
// The lease is for at least one and at most N requests: as many as have a free slot at the chosen
// endpoint and a stream on its connection. A caller that waits has one place in the queue. It is served
// when a quarter of what it can get at most is free. An endpoint whose ejection has expired gets one
// first attempt as its probe, with a lease for one; retries are not used as probes while a healthy
// endpoint is left.
//
// An error is a *push.RejectedError of Config.Limiter or an *Error, and means that nothing was sent.
func (p *Pool) PickN(ctx context.Context, r Request) (*Lease, error) {
	r.N, r.CanQueue = max(r.N, 1), r.CanQueue && p.cfg.Limiter != nil
	if !p.picked.Load() { // a store would contend with concurrent calls
		p.picked.Store(true)
	}
	counted := 0
	if !r.CanQueue {
		var rejected *push.RejectedError
		if counted, rejected = p.cfg.Limiter.admit(&r, r.N); rejected != nil {
			return nil, rejected
		}
	}
	if p.queue.empty() {
		if lease, cost, err := p.take(&r, counted); cost > 0 {
			return lease, err
		}
	}
	return p.wait(ctx, r, counted)
}

// noPlace is the cost of take if no endpoint has enough free places.
const noPlace = -1

// take leases places for r without waiting. The limiter has counted so many of the requests as in flight,
// or none of those with CanQueue. The cost is the size of the lease, 1 for an error, 0 if the flow of
// requests with CanQueue exceeds its share, or noPlace.
func (p *Pool) take(r *Request, counted int) (lease *Lease, cost int, err error) {
	limiter, admitted := p.cfg.Limiter, counted
	if r.CanQueue {
		if admitted, _ = limiter.admit(r, r.N); admitted == 0 {
			return nil, 0, nil
		}
	}
	lease, err = p.tryPick(r.Tried, admitted)
	switch {
	case lease != nil:
		lease.flow, lease.canQueue = r.Flow, r.CanQueue
		limiter.add(r.Flow, lease.Size()-admitted)
		return lease, lease.Size(), nil
	case err != nil:
		limiter.add(r.Flow, -admitted)
		return nil, 1, err
	default:
		limiter.add(r.Flow, counted-admitted)
		return nil, noPlace, nil
	}
}

// tryPick is PickN without waiting. If it returns neither a lease nor an error, the caller must
// wait.
func (p *Pool) tryPick(tried Tried, n int) (*Lease, error) {
	s := candidateSets.Get().(*candidateSet)
	defer s.release()
	s.sampleHealthy(p, tried)
	if lease, _ := p.leaseFrom(s.eligible, n); lease != nil {
		return lease, nil
	}
	for {
		s.count(p, tried)
		if s.probeTarget != nil {
			if lease := p.leaseProbe(s.probeTarget); lease != nil {
				return lease, nil
			}
		}
		if err := s.selectEligible(p, tried); err != nil {
			return nil, err
		}
		lease, retry := p.leaseFrom(s.eligible, n)
		if !retry {
			return lease, nil
		}
	}
}

// leaseFrom leases one of the candidates that the picker chooses. It returns retry if a
// connection turned out to be draining; the caller must then rebuild the candidates.
func (p *Pool) leaseFrom(candidates []*Endpoint, n int) (lease *Lease, retry bool) {
	for len(candidates) > 0 {
		e := p.cfg.Picker.Pick(candidates)
		i := slices.Index(candidates, e)
		if i < 0 { // no Picker can bypass the filter
			i, e = 0, candidates[0]
		}
		if lease, retry := p.leaseEndpoint(e, n); lease != nil || retry {
			return lease, retry
		}
		candidates = slices.Delete(candidates, i, i+1)
	}
	return nil, false
}

// leaseProbe leases e if the lease becomes its probe.
func (p *Pool) leaseProbe(e *Endpoint) *Lease {
	lease, _ := p.leaseEndpoint(e, 1)
	if lease == nil || lease.ticket.probe {
		return lease
	}
	e.release(1)
	return nil
}

// minShare is the part of n that PickN waits for, as a divisor. If a caller got whatever is free, the
// leases of a saturated pool would become ever smaller: the places of a lease come back together.
const minShare = 4

// leaseEndpoint takes up to n in-flight slots of e and its best connection. It returns retry if all
// connections turned out to be draining.
func (p *Pool) leaseEndpoint(e *Endpoint, n int) (lease *Lease, retry bool) {
	conn, draining := e.bestConn()
	if draining != nil {
		p.retire(draining, EventGoAway, "connection is draining")
	}
	if conn == nil {
		return nil, true
	}
	if n > 1 {
		free := min(conn.freeStreams(), e.freeSlots(p.cfg.MaxInFlight))
		if free < min(n, e.capacity(p.cfg.MaxInFlight))/minShare {
			return nil, false
		}
		n = max(1, min(n, free))
	}
	if n = e.acquire(n, p.cfg.MaxInFlight); n == 0 {
		return nil, false
	}
	lease = &Lease{pool: p, endpoint: e, conn: conn, ticket: e.breaker.admit(), size: int32(n)}
	if lease.ticket.probe {
		lease.size = 1
		e.release(n - 1)
		p.addEvent(Event{Kind: EventProbing, Endpoint: e.name, Reason: "probing after the ejection"})
	}
	return lease, false
}

// candidateSet is the view of the members for one Pick. It is reused.
type candidateSet struct {
	live, healthy           int // members with a connection; those of them with a closed breaker
	untried, healthyUntried int // live and untried; healthy and untried
	probeTarget             *Endpoint
	eligible                []*Endpoint
}

var candidateSets = sync.Pool{New: func() any { return new(candidateSet) }}

func (s *candidateSet) release() {
	clear(s.eligible)
	candidateSets.Put(s)
}

// healthySet is the healthy members. It is empty if one of them may need a probe, or in panic mode.
type healthySet struct {
	changes uint64 // value of Pool.changes before the members were examined
	members []*Endpoint
}

// healthyMembers examines the members only after a change. A member joins and leaves with its
// connections, so Pool.changes covers that too.
func (p *Pool) healthyMembers() []*Endpoint {
	changes := p.changes.Load()
	if h := p.healthySet.Load(); h.changes == changes {
		return h.members
	}
	live, healthy := p.liveMembers()
	if slices.ContainsFunc(live, func(e *Endpoint) bool { return e.breaker.halfOpen() }) || p.exceedsPanicThreshold(len(live), len(healthy)) {
		healthy = nil
	}
	p.healthySet.Store(&healthySet{changes, healthy})
	return healthy
}

// liveMembers returns the members with a connection, and those of them with a closed breaker.
func (p *Pool) liveMembers() (live, healthy []*Endpoint) {
	for _, e := range *p.members.Load() {
		if e.live() {
			live = append(live, e)
			if e.breaker.healthy() {
				healthy = append(healthy, e)
			}
		}
	}
	return live, healthy
}

// sampleHealthy fills eligible in the common case: no endpoint needs a probe, and there is no panic
// mode. If the picker allows it, it looks only at a few members, each time at others. eligible stays
// empty if these are not enough to decide.
func (s *candidateSet) sampleHealthy(p *Pool, tried Tried) {
	s.eligible = s.eligible[:0]
	members := p.healthyMembers()
	first, n := 0, len(members)
	if p.sampled && n > maxSample {
		first, n = int(p.samples.Add(1)%uint64(n)), maxSample
	}
	for i := range n {
		e := members[(first+i)%len(members)]
		if !tried.Has(e) && e.freeSlots(p.cfg.MaxInFlight) > 0 && !e.suspect() {
			s.eligible = append(s.eligible, e)
		}
	}
}

// count counts the members. It reads a snapshot and atomics and takes no lock.
func (s *candidateSet) count(p *Pool, tried Tried) {
	*s = candidateSet{eligible: s.eligible[:0]}
	for _, e := range *p.members.Load() {
		if !e.live() {
			continue
		}
		healthy, untried := e.breaker.healthy(), !tried.Has(e)
		s.live++
		if healthy {
			s.healthy++
		}
		if untried {
			s.untried++
		}
		if healthy && untried {
			s.healthyUntried++
		}
		if len(tried) == 0 && !healthy && e.breaker.needsProbe() && e.freeSlots(p.cfg.MaxInFlight) > 0 {
			s.probeTarget = e
		}
	}
}

var errAllEjected = errors.New("all remaining endpoints are ejected, and FailFast is set")

// selectEligible fills eligible. It first decides which kind of endpoint is required, and only then
// which of these have free slots. A full pool therefore makes a retry wait and never sends it back
// to an endpoint that failed.
func (s *candidateSet) selectEligible(p *Pool, tried Tried) error {
	panicMode := p.exceedsPanicThreshold(s.live, s.healthy)
	needHealthy, needUntried := false, false
	switch {
	case s.live == 0:
		if err := p.unreachable.Load(); err != nil && (!p.cfg.WaitForReady || err.permanent) {
			return err
		}
		return nil
	case s.untried == 0 && len(tried) > 0 && !p.warmedUp.Load():
		return nil // others are still being dialed
	case s.healthyUntried > 0 && !panicMode:
		needHealthy, needUntried = true, true
	case p.cfg.FailFast && (s.untried > 0 || s.healthy == 0):
		return p.errorf(BreakerOpen, errAllEjected)
	case s.untried > 0:
		needUntried = true
	default:
		needHealthy = s.healthy > 0 && !panicMode
	}
	var suspects []*Endpoint // used only if no other endpoint remains
	for _, e := range *p.members.Load() {
		switch {
		case !e.live(), needHealthy && !e.breaker.healthy(), needUntried && tried.Has(e), e.freeSlots(p.cfg.MaxInFlight) <= 0:
		case e.suspect():
			suspects = append(suspects, e)
		default:
			s.eligible = append(s.eligible, e)
		}
	}
	if len(s.eligible) == 0 {
		s.eligible = append(s.eligible, suspects...)
	}
	return nil
}

// exceedsPanicThreshold reports whether so many live endpoints are ejected that the cause is
// probably not the endpoints (Envoy's panic threshold). With FailFast there is no panic mode.
func (p *Pool) exceedsPanicThreshold(live, healthy int) bool {
	return !p.cfg.FailFast && float64(live-healthy) > p.cfg.MaxEjected*float64(live)
}
