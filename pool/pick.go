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
	p.rouse()
	if p.line.empty() {
		if lease, err := p.try(tried); lease != nil || err != nil {
			return lease, err
		}
	}
	return p.wait(ctx, tried)
}

// try is Pick without waiting: neither lease nor error means to wait.
func (p *Pool) try(tried Tried) (*Lease, error) {
	f := fields.Get().(*field)
	defer f.release()
	for {
		f.survey(p, tried)
		if f.convalescent != nil {
			if lease := p.probe(f.convalescent); lease != nil {
				return lease, nil
			}
		}
		if err := f.choose(p, tried); err != nil {
			return nil, err
		}
		lease, again := p.from(f.choice)
		if !again {
			return lease, nil
		}
	}
}

// from leases one of the candidates as the picker likes. Where a connection
// turned out to be spent, the field has changed and has to be surveyed again.
func (p *Pool) from(candidates []*Endpoint) (lease *Lease, again bool) {
	for len(candidates) > 0 {
		e := p.cfg.Picker.Pick(candidates)
		i := slices.Index(candidates, e)
		if i < 0 { // no strategy, ours or a stranger's, gets past the filter
			i, e = 0, candidates[0]
		}
		if lease, spent := p.lease(e); lease != nil || spent {
			return lease, spent
		}
		candidates = slices.Delete(candidates, i, i+1)
	}
	return nil, false
}

// probe leases e if the lease becomes its trial.
func (p *Pool) probe(e *Endpoint) *Lease {
	lease, _ := p.lease(e)
	if lease == nil || lease.ticket.trial {
		return lease
	}
	e.leave()
	return nil
}

// lease takes a place of e and its best connection.
func (p *Pool) lease(e *Endpoint) (lease *Lease, spent bool) {
	if !e.enter(p.cfg.InFlight) {
		return nil, false
	}
	best, gone := e.link()
	if gone != nil {
		p.retire(gone, GoAway, "the connection takes nothing new")
	}
	if best == nil {
		e.leave()
		return nil, true
	}
	lease = &Lease{pool: p, endpoint: e, link: best, ticket: e.circuit.enter()}
	if lease.ticket.trial {
		p.note(Event{Kind: Probing, Endpoint: e.name, Reason: "one request tells whether it has healed"})
	}
	return lease, false
}

// field is the members as one Pick sees them. Its slice is used again.
type field struct {
	live, healthy          int // all with a connection; those whose breaker is closed
	untried, untouched     int // live and untried; healthy and untried
	convalescent           *Endpoint
	needHealthy, needFresh bool
	choice                 []*Endpoint
}

var fields = sync.Pool{New: func() any { return new(field) }}

func (f *field) release() {
	clear(f.choice)
	fields.Put(f)
}

// survey counts. It reads a snapshot and atomics, and takes no lock.
func (f *field) survey(p *Pool, tried Tried) {
	*f = field{choice: f.choice[:0]}
	for _, e := range *p.members.Load() {
		if !e.live() {
			continue
		}
		healthy, fresh := e.circuit.healthy(), !tried.Has(e)
		f.live++
		if healthy {
			f.healthy++
		}
		if fresh {
			f.untried++
		}
		if healthy && fresh {
			f.untouched++
		}
		if len(tried) == 0 && !healthy && e.circuit.wantsProbe() && e.room(p.cfg.InFlight) > 0 {
			f.convalescent = e
		}
	}
}

var errAllEjected = errors.New("every endpoint that is left is ejected, and the pool is set to fail fast")

// choose fills the choice: first comes which kind of endpoint there is at all,
// and only then which of them has room. So a full pool makes a retry wait and
// never sends it back to where it failed.
func (f *field) choose(p *Pool, tried Tried) error {
	panicking := p.panics(f.live, f.healthy)
	switch {
	case f.live == 0:
		return nil
	case f.untried == 0 && len(tried) > 0 && !p.warm.Load():
		return nil // the others are on their way
	case f.untouched > 0 && !panicking:
		f.needHealthy, f.needFresh = true, true
	case p.cfg.FailFast && (f.untried > 0 || f.healthy == 0):
		return p.errorf(BreakerOpen, errAllEjected)
	case f.untried > 0:
		f.needFresh = true
	default:
		f.needHealthy = f.healthy > 0 && !panicking
	}
	doubtful := false
	for _, e := range *p.members.Load() {
		if f.wants(e, tried) && e.room(p.cfg.InFlight) > 0 {
			f.choice = append(f.choice, e)
			doubtful = doubtful || e.doubtful()
		}
	}
	if doubtful {
		f.spareTheDoubtful()
	}
	return nil
}

// spareTheDoubtful leaves out those of whom it will soon be known whether they
// are well, unless nobody else is left.
func (f *field) spareTheDoubtful() {
	for _, e := range f.choice {
		if !e.doubtful() {
			f.choice = slices.DeleteFunc(f.choice, (*Endpoint).doubtful)
			return
		}
	}
}

func (f *field) wants(e *Endpoint, tried Tried) bool {
	return e.live() && (!f.needHealthy || e.circuit.healthy()) && (!f.needFresh || !tried.Has(e))
}

// panics reports whether too large a share of the live endpoints is ejected to
// believe it of them (Envoy's panic threshold). Those who prefer an error to a
// doubtful endpoint do not panic.
func (p *Pool) panics(live, healthy int) bool {
	return !p.cfg.FailFast && float64(live-healthy) > p.cfg.MaxEjected*float64(live)
}
