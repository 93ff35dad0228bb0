// SPDX-License-Identifier: Apache-2.0

package pool

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Tried is the endpoints that one notification has visited. nil is ready to
// use; append the lease's Endpoint after each attempt.
type Tried []*Endpoint

// Has reports whether e's address is among them.
func (t Tried) Has(e *Endpoint) bool {
	return slices.ContainsFunc(t, func(other *Endpoint) bool { return other == e || other.addr == e.addr })
}

// Pick leases an endpoint for one attempt: one that is healthy and untried;
// else one that is untried and live, though it is ejected; else any live one.
// It never returns a tried endpoint while an untried one is live: it waits for
// a free place instead, in turn with the others, and it waits while no
// endpoint is live, or while a pool that has just begun still dials and all
// that is live is tried. An endpoint whose ejection is over gets one first attempt
// as its probe, for a first attempt has others left. The error is an *Error,
// and nothing was sent.
func (p *Pool) Pick(ctx context.Context, tried Tried) (*Lease, error) {
	p.activate()
	if p.waiters.empty() {
		if lease, err := p.tryPick(tried); lease != nil || err != nil {
			return lease, err
		}
	}
	return p.wait(ctx, tried)
}

// tryPick is Pick without waiting: neither lease nor error means to wait.
func (p *Pool) tryPick(tried Tried) (*Lease, error) {
	f := candidateSets.Get().(*candidateSet)
	defer f.release()
	for {
		f.count(p, tried)
		if f.probeTarget != nil {
			if lease := p.leaseProbe(f.probeTarget); lease != nil {
				return lease, nil
			}
		}
		if err := f.selectEligible(p, tried); err != nil {
			return nil, err
		}
		lease, again := p.leaseFrom(f.eligible)
		if !again {
			return lease, nil
		}
	}
}

// leaseFrom leases one of the candidates as the picker likes. Where a connection
// turned out to be spent, the field has changed and has to be surveyed again.
func (p *Pool) leaseFrom(candidates []*Endpoint) (lease *Lease, again bool) {
	for len(candidates) > 0 {
		e := p.cfg.Picker.Pick(candidates)
		i := slices.Index(candidates, e)
		if i < 0 { // no strategy, ours or a stranger's, gets past the filter
			i, e = 0, candidates[0]
		}
		if lease, spent := p.leaseEndpoint(e); lease != nil || spent {
			return lease, spent
		}
		candidates = slices.Delete(candidates, i, i+1)
	}
	return nil, false
}

// leaseProbe leases e if the lease becomes its trial.
func (p *Pool) leaseProbe(e *Endpoint) *Lease {
	lease, _ := p.leaseEndpoint(e)
	if lease == nil || lease.ticket.probe {
		return lease
	}
	e.release()
	return nil
}

// leaseEndpoint takes a place of e and its best connection.
func (p *Pool) leaseEndpoint(e *Endpoint) (lease *Lease, spent bool) {
	if !e.acquire(p.cfg.MaxInFlight) {
		return nil, false
	}
	best, gone := e.bestConn()
	if gone != nil {
		p.retire(gone, EventGoAway, "the connection takes nothing new")
	}
	if best == nil {
		e.release()
		return nil, true
	}
	lease = &Lease{pool: p, endpoint: e, conn: best, ticket: e.breaker.admit()}
	if lease.ticket.probe {
		p.addEvent(Event{Kind: EventProbing, Endpoint: e.name, Reason: "one request tells whether it has healed"})
	}
	return lease, false
}

// candidateSet is the members as one Pick sees them. Its slice is used again.
type candidateSet struct {
	live, healthy            int // all with a connection; those whose breaker is closed
	untried, healthyUntried  int // live and untried; healthy and untried
	probeTarget              *Endpoint
	needHealthy, needUntried bool
	eligible                 []*Endpoint
}

var candidateSets = sync.Pool{New: func() any { return new(candidateSet) }}

func (f *candidateSet) release() {
	clear(f.eligible)
	candidateSets.Put(f)
}

// count counts. It reads a snapshot and atomics, and takes no lock.
func (f *candidateSet) count(p *Pool, tried Tried) {
	*f = candidateSet{eligible: f.eligible[:0]}
	for _, e := range *p.members.Load() {
		if !e.live() {
			continue
		}
		healthy, fresh := e.breaker.healthy(), !tried.Has(e)
		f.live++
		if healthy {
			f.healthy++
		}
		if fresh {
			f.untried++
		}
		if healthy && fresh {
			f.healthyUntried++
		}
		if len(tried) == 0 && !healthy && e.breaker.needsProbe() && e.freeSlots(p.cfg.MaxInFlight) > 0 {
			f.probeTarget = e
		}
	}
}

var errAllEjected = errors.New("every endpoint that is left is ejected, and the pool is set to fail fast")

// selectEligible fills the choice: first comes which kind of endpoint there is at all,
// and only then which of them has room. So a full pool makes a retry wait and
// never sends it back to where it failed.
func (f *candidateSet) selectEligible(p *Pool, tried Tried) error {
	panicking := p.exceedsPanicThreshold(f.live, f.healthy)
	switch {
	case f.live == 0:
		return nil
	case f.untried == 0 && len(tried) > 0 && !p.warmedUp.Load():
		return nil // the others are on their way
	case f.healthyUntried > 0 && !panicking:
		f.needHealthy, f.needUntried = true, true
	case p.cfg.FailFast && (f.untried > 0 || f.healthy == 0):
		return p.errorf(BreakerOpen, errAllEjected)
	case f.untried > 0:
		f.needUntried = true
	default:
		f.needHealthy = f.healthy > 0 && !panicking
	}
	doubtful := false
	for _, e := range *p.members.Load() {
		if f.matches(e, tried) && e.freeSlots(p.cfg.MaxInFlight) > 0 {
			f.eligible = append(f.eligible, e)
			doubtful = doubtful || e.suspect()
		}
	}
	if doubtful {
		f.avoidSuspects()
	}
	return nil
}

// avoidSuspects leaves out those of whom it will soon be known whether they
// are well, unless nobody else is left.
func (f *candidateSet) avoidSuspects() {
	for _, e := range f.eligible {
		if !e.suspect() {
			f.eligible = slices.DeleteFunc(f.eligible, (*Endpoint).suspect)
			return
		}
	}
}

func (f *candidateSet) matches(e *Endpoint, tried Tried) bool {
	return e.live() && (!f.needHealthy || e.breaker.healthy()) && (!f.needUntried || !tried.Has(e))
}

// exceedsPanicThreshold reports whether too large a share of the live endpoints is ejected to
// believe it of them (Envoy's panic threshold). Those who prefer an error to a
// doubtful endpoint do not panic.
func (p *Pool) exceedsPanicThreshold(live, healthy int) bool {
	return !p.cfg.FailFast && float64(live-healthy) > p.cfg.MaxEjected*float64(live)
}
