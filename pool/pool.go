// SPDX-License-Identifier: Apache-2.0

// Package pool keeps the live endpoints of one service (it resolves, connects,
// ages, breaks and replaces them) and leases one for each attempt. It never
// retries, and it never reads a provider's answer: the outcome tells it enough.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/wire"
)

// Conn is one connection to an endpoint; *wire.Conn is one.
type Conn interface {
	wire.Doer
	// Run carries the connection until it has ended or ctx has.
	Run(ctx context.Context) error
	// Drain takes nothing new, and ends Run once what is in flight has ended.
	Drain()
	// State tells how it stands, and must be cheap: every Pick asks.
	State() wire.State
}

// Config describes the pool of one service under one credential: Apple wants
// one team per connection, and one app's trouble must not move another's.
type Config struct {
	// Name is what events, logs and Status call the pool.
	Name string
	// Size is how many endpoints the pool holds at most; 0 means 8. The pool
	// never holds more, not even while it replaces one.
	Size int
	// Conns is how many connections an endpoint has; 0 means 1. More than two
	// bring nothing but dials on the few cores that a gateway has.
	ConnsPerEndpoint int
	// InFlight is how many leases an endpoint may have at once; 0 means 64. It
	// bounds what a black hole swallows before its silence is noticed, so a
	// high value is dearer than it looks.
	MaxInFlight int
	// MaxAge is when a healthy endpoint yields its place to a new address, if
	// there is one; each adds up to a fifth by chance. 0 means 10 minutes.
	MaxAge time.Duration
	// Drain is how long requests in flight may still take when Run's context
	// has ended; 0 means 10 seconds.
	DrainTimeout time.Duration
	// Asleep lets the pool resolve and dial nothing before its first Pick: it
	// is for a service that may never be asked.
	Lazy bool
	// Mirror makes an endpoint leave as soon as the resolver names it no more.
	// It is for a list that somebody keeps; DNS names a few of many, and whom
	// it leaves out is not gone.
	PruneUnlisted bool
	// Redial is the longest that an address that did not answer is left alone;
	// it begins at 5 seconds, or at this if it is less, and doubles. 0 means 5
	// minutes, for Apple takes many quick connections for an attack.
	MaxRedialDelay time.Duration
	// Resolver names the addresses. Required.
	Resolver Resolver
	// Dial returns a connection that stands, TLS, SETTINGS and all. Required.
	Dial func(ctx context.Context, addr netip.AddrPort) (Conn, error)
	// Picker chooses among the endpoints that may be picked; nil means
	// RoundRobin.
	Picker Picker
	// Zone tells the zone of an address, for a Picker that keeps traffic near
	// (zone.Prefer); nil means that no zone is known. Every Pick asks, so it
	// must be cheap, and it may learn.
	Zone func(netip.AddrPort) string
	// Breaker says when an endpoint is ejected, and for how long.
	Breaker Breaker
	// Outlier says when an endpoint is ejected for being worse than its peers.
	Outlier Outlier
	// MaxEjected is the share of the live endpoints that may be kept from
	// traffic; 0 means 0.5. Beyond it the trouble is likely ours or the whole
	// service's, and the pool panics: it spreads over all of them.
	MaxEjected float64
	// FailFast makes Pick answer BREAKER_OPEN instead of using an ejected
	// endpoint, in panic or for want of another.
	FailFast bool
	// Observe is told of every event, in order, by one goroutine that the pool
	// waits for. May be nil.
	Observe func(Event)
	// Logger gets the same events; nil discards them.
	Logger *slog.Logger
}

// Pool is the endpoints of one service. Make it with New.
type Pool struct {
	cfg Config

	members           atomic.Pointer[[]*Endpoint] // the pool as Pick sees it
	turns             atomic.Uint64               // RoundRobin's clock
	probeLatencyLimit atomic.Int64                // a probe that takes longer has not healed, in ns; 0: not known
	waiters           waitQueue                   // those who wait in Pick
	closing           atomic.Bool                 // no lease is given any more
	warmedUp          atomic.Bool                 // the first dials have landed, or have had their time
	wake              chan struct{}               // the keeper has something to do
	resolveNow        chan struct{}               // the resolver is wanted before its time
	activateOnce      sync.Once                   // closes wanted
	activated         chan struct{}               // closed by the first Pick, or from the start

	mu            sync.Mutex // guards all below
	started       bool
	inPanic       bool
	endpoints     map[netip.AddrPort]*Endpoint
	listed        []*Endpoint // the resolver's last good answer, in its order
	lastRescue    time.Time   // when a replacement was last brought forward
	joining       int         // endpoints that are being dialled for a place
	openConns     int         // connections whose Run has not returned
	dials         int
	budget        dialBudget
	pendingEvents []Event // not yet told
	recentEvents  []Event // the last there were, for Status
	lastError     string  // why the last dial or resolve failed
}

// New checks the configuration. It starts nothing; Run does.
func New(cfg Config) (*Pool, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("pool %q: %w", cfg.Name, err)
	}
	cfg.setDefaults()
	p := &Pool{
		cfg:        cfg,
		wake:       make(chan struct{}, 1),
		resolveNow: make(chan struct{}, 1),
		activated:  make(chan struct{}),
		endpoints:  make(map[netip.AddrPort]*Endpoint),
		budget:     newBudget(cfg.Size, cfg.ConnsPerEndpoint),
	}
	p.members.Store(new([]*Endpoint))
	if !cfg.Lazy {
		p.activate()
	}
	return p, nil
}

// Run fills the pool and keeps it until ctx ends; then it leases nothing more,
// lets requests in flight end within Config.Drain, and returns when every
// connection and goroutine has ended. The error says what had to be cut.
func (p *Pool) Run(ctx context.Context) error {
	if err := p.start(); err != nil {
		return err
	}
	select {
	case <-p.activated:
	case <-ctx.Done():
	}
	conns, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var work sync.WaitGroup
	work.Go(func() { p.resolveLoop(ctx) })
	p.maintain(ctx, func(d dialTask) {
		work.Go(func() { p.dialAndRun(ctx, conns, d) })
	})
	err := p.drain()
	cut()
	work.Wait()
	p.deliverEvents()
	return err
}

func (p *Pool) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.started {
		return fmt.Errorf("pool %q: Run was called twice", p.cfg.Name)
	}
	p.started = true
	return nil
}

// drain ends the pool from the outside in: no new lease, then no lease in
// flight, then no connection.
func (p *Pool) drain() error {
	p.close()
	grace := time.NewTimer(p.cfg.DrainTimeout)
	defer grace.Stop()
	for {
		leases, links := p.remaining()
		if leases == 0 {
			p.drainAll()
		}
		if leases == 0 && links == 0 {
			return nil
		}
		select {
		case <-p.wake:
		case <-grace.C:
			if leases == 0 {
				return nil
			}
			return fmt.Errorf("pool %q: %d requests in flight were cut after %s (raise the pool's drain time)",
				p.cfg.Name, leases, p.cfg.DrainTimeout)
		}
	}
}

// close refuses every Pick from now on, those that wait included.
func (p *Pool) close() {
	p.closing.Store(true)
	p.waiters.close(p.errorf(NoEndpoint, errors.New("the pool is closing")))
}

// remaining counts the leases and connections that have not ended.
func (p *Pool) remaining() (leases, links int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.endpoints {
		leases += e.InFlight()
	}
	return leases, p.openConns
}

func (p *Pool) drainAll() {
	p.mu.Lock()
	var links []*endpointConn
	for _, e := range p.endpoints {
		links = append(links, e.takeConns()...)
	}
	p.mu.Unlock()
	drainConns(links)
}

func (p *Pool) activate() { p.activateOnce.Do(func() { close(p.activated) }) }

// Idle reports whether the pool still waits for its first Pick.
func (p *Pool) Idle() bool {
	select {
	case <-p.activated:
		return false
	default:
		return true
	}
}

// Ready returns nil once an endpoint is live, or an error that says why none is.
func (p *Pool) Ready() error {
	if p.closing.Load() {
		return fmt.Errorf("pool %q: is closing", p.cfg.Name)
	}
	for _, e := range *p.members.Load() {
		if e.live() {
			return nil
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.started:
		return fmt.Errorf("pool %q: Run was not called", p.cfg.Name)
	case p.lastError != "":
		return fmt.Errorf("pool %q: no endpoint is live: %s", p.cfg.Name, p.lastError)
	default:
		return fmt.Errorf("pool %q: no endpoint is live yet", p.cfg.Name)
	}
}

// wakeMaintainer wakes the keeper.
func (p *Pool) wakeMaintainer() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
