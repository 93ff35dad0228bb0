// SPDX-License-Identifier: Apache-2.0

// Package pool maintains connections to the endpoints of one service and leases an endpoint for
// each request. It resolves and dials endpoints, ejects failing ones and replaces them. It does not
// retry requests and does not interpret responses; the caller reports each outcome.
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

// Conn is one connection to an endpoint. *wire.Conn implements it. If a Conn is also a wire.Starter,
// Lease.Start uses that; otherwise it calls Do in one goroutine for each request.
type Conn interface {
	wire.Doer
	// Run serves the connection until it ends or ctx ends.
	Run(ctx context.Context) error
	// Drain stops accepting requests. Run returns when those in flight have finished.
	Drain()
	// State returns a snapshot. It must be cheap, because every Pick calls it.
	State() wire.State
}

// Config configures the pool of one service and one credential. Apple requires a connection per
// team, and problems of one app must not affect another.
type Config struct {
	// Name identifies the pool in events, logs and Status.
	Name string
	// Size is the maximum number of endpoints in the pool; 0 means 8. It holds even while an
	// endpoint is replaced.
	Size int
	// ConnsPerEndpoint is the number of connections per endpoint; 0 means 1. More than two rarely
	// help.
	ConnsPerEndpoint int
	// MaxInFlight is the maximum number of leases per endpoint; 0 means 64. It limits how many
	// requests are lost when an endpoint stops responding, until that is detected.
	MaxInFlight int
	// MaxAge is how long a healthy endpoint stays in the pool if a new address is available; 0
	// means 10 minutes. Up to a fifth is added at random.
	MaxAge time.Duration
	// DrainTimeout is how long requests in flight may take after the context of Run has ended; 0
	// means 10 seconds.
	DrainTimeout time.Duration
	// OnDemand makes the pool run only while it is needed; nil means that it runs until the context of
	// Run ends. Pick calls OnDemand while Run is not running. OnDemand must call Run in a new
	// goroutine, and must not wait for it. Run returns when there was no Pick for IdleTimeout, and
	// leaves no goroutine and no connection behind.
	OnDemand func()
	// IdleTimeout is how long a pool with OnDemand runs without a Pick; 0 means until the context of
	// Run ends.
	IdleTimeout time.Duration
	// PruneUnlisted removes an endpoint as soon as the resolver no longer returns it. Set it for a
	// resolver that returns a complete list. DNS returns only some of many addresses, so an address
	// that is missing from an answer may still work.
	PruneUnlisted bool
	// MaxRedialDelay is the maximum delay before an address is dialed again after a failure; 0
	// means 5 minutes. The delay starts at 5 seconds, or at MaxRedialDelay if that is less, and
	// doubles. Apple treats many rapid connects as an attack.
	MaxRedialDelay time.Duration
	// Resolver returns the addresses of the service. Required.
	Resolver Resolver
	// Dial returns an established connection, after the TLS handshake and SETTINGS. Required.
	Dial func(ctx context.Context, addr netip.AddrPort) (Conn, error)
	// EndpointName returns the name of an address in events, Status and receipts, for addresses that
	// Dial does not connect to as they are; nil means ip:port.
	EndpointName func(netip.AddrPort) string
	// Picker chooses among the eligible endpoints; nil means RoundRobin.
	Picker Picker
	// Zone returns the zone of an address, for a Picker such as that of zone.Prefer; nil means that
	// no zone is known. Every Pick calls it, so it must be cheap. Its result may change.
	Zone func(netip.AddrPort) string
	// Limiter bounds the callers that wait in PickN or hold a lease; nil means no limit.
	Limiter *AdaptiveLimiter
	// Breaker configures when an endpoint is ejected, and for how long.
	Breaker Breaker
	// Outlier configures when an endpoint is ejected for performing worse than its peers.
	Outlier Outlier
	// MaxEjected is the share of live endpoints that may be ejected; 0 means 0.5. Beyond it the
	// cause is probably local or affects the whole service, so the pool enters panic mode and uses
	// all endpoints.
	MaxEjected float64
	// WaitForReady makes Pick wait, as long as its context allows, while no endpoint can be reached,
	// instead of failing immediately. It still fails immediately if the reason does not go away by
	// itself, such as an untrusted certificate. (gRPC has the same option.)
	WaitForReady bool
	// FailFast makes Pick fail with BREAKER_OPEN instead of using an ejected endpoint. It disables
	// panic mode.
	FailFast bool
	// Observe is called with every event, in order and from one goroutine. Run returns after the
	// last call. It may be nil.
	Observe func(Event)
	// Logger logs every event; nil disables logging.
	Logger *slog.Logger
}

// Pool maintains the endpoints of one service. Create it with New.
type Pool struct {
	cfg     Config
	sampled bool // the picker is one of this package and gets at most maxSample candidates

	members           atomic.Pointer[[]*Endpoint] // immutable snapshot for Pick
	changes           atomic.Uint64               // incremented after the connections of an endpoint or the state of its breaker have changed
	healthySet        atomic.Pointer[healthySet]  // use healthyMembers
	turns             atomic.Uint64               // source of Endpoint.lastTurn
	samples           atomic.Uint64               // samples taken so far
	probeLatencyLimit atomic.Int64                // maximum latency of a successful probe, in ns; 0 means no limit
	queue             waitQueue                   // callers that wait in Pick
	closing           atomic.Bool                 // no more leases are granted
	warmedUp          atomic.Bool                 // the first dials have ended, or a second has passed
	unreachable       atomic.Pointer[Error]       // why no endpoint can be reached, or nil
	wake              chan struct{}               // wakes the maintainer
	resolveNow        chan struct{}               // triggers an early resolve
	state             atomic.Int32                // one of the states below
	picked            atomic.Bool                 // Pick was called since the last tick

	mu            sync.Mutex // guards the fields below
	lastPicked    time.Time  // the last tick that saw picked, or the start of Run
	stopping      bool       // Run ends because the pool is idle
	inPanic       bool
	endpoints     map[netip.AddrPort]*Endpoint
	listed        []*Endpoint // the resolver's last good answer, in its order
	lastRescue    time.Time   // when rescue last moved a dial forward
	joining       int         // dials in progress for new members
	openConns     int         // connections whose Run has not returned
	dials         int
	budget        dialBudget
	pendingEvents []Event // not yet delivered
	recentEvents  []Event // for Status
	lastError     string  // why the last dial or resolve failed
	resolveErr    error   // why the last resolve failed, or nil
}

// States of a pool. With OnDemand, it returns to stateIdle when Run has returned.
const (
	stateIdle      int32 = iota // Run is not running
	stateRequested              // OnDemand was called
	stateRunning
	stateEnded // Run has returned and must not be called again
)

// New validates cfg and returns a pool. It starts no goroutine; call Run.
func New(cfg Config) (*Pool, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("pool %q: %w", cfg.Name, err)
	}
	cfg.setDefaults()
	if cfg.Limiter != nil {
		cfg.Limiter.leases = cfg.Size * cfg.MaxInFlight
	}
	p := &Pool{
		cfg:        cfg,
		wake:       make(chan struct{}, 1),
		resolveNow: make(chan struct{}, 1),
		endpoints:  make(map[netip.AddrPort]*Endpoint),
		budget:     newBudget(cfg.Size, cfg.ConnsPerEndpoint),
	}
	p.members.Store(new([]*Endpoint))
	p.healthySet.Store(new(healthySet))
	switch cfg.Picker.(type) {
	case RoundRobin, LeastLoaded, BoundedRoundRobin:
		p.sampled = true
	}
	return p, nil
}

// Run maintains the pool until ctx ends. Then it grants no more leases, waits up to
// Config.DrainTimeout for requests in flight, and returns after every connection and goroutine of
// the pool has ended. It returns an error if requests had to be canceled. With Config.OnDemand, Run
// also returns when the pool is idle, and may be called again.
func (p *Pool) Run(ctx context.Context) error {
	if err := p.start(); err != nil {
		return err
	}
	workCtx, cancelWork := context.WithCancel(ctx) // dials and resolves
	defer cancelWork()
	connCtx, cancelConns := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelConns()
	var wg sync.WaitGroup
	wg.Go(func() { p.resolveLoop(workCtx) })
	idle := p.maintain(ctx, func(d dialTask) {
		wg.Go(func() { p.dialAndRun(workCtx, connCtx, d) })
	})
	if idle {
		cancelWork()
		drainConns(p.evictAll())
		defer time.AfterFunc(p.cfg.DrainTimeout, cancelConns).Stop()
		wg.Wait()
		p.deliverEvents()
		p.stopIdle()
		return nil
	}
	err := p.drain()
	cancelConns()
	wg.Wait()
	p.deliverEvents()
	p.state.Store(stateEnded)
	return err
}

// start prepares a run. Addresses and breakers of an earlier run are kept, failed dials are
// forgotten.
func (p *Pool) start() error {
	if !p.state.CompareAndSwap(stateIdle, stateRunning) && !p.state.CompareAndSwap(stateRequested, stateRunning) {
		return fmt.Errorf("pool %q: Run was called twice", p.cfg.Name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastPicked, p.stopping, p.lastError, p.resolveErr = time.Now(), false, "", nil
	p.warmedUp.Store(false)
	p.unreachable.Store(nil)
	for _, e := range p.endpoints {
		e.dialErr, e.redialDelay, e.redialAt = nil, 0, time.Time{}
	}
	return nil
}

// requestRun calls OnDemand if Run is not running. Pick calls it after it has enqueued its waiter.
func (p *Pool) requestRun() {
	if p.cfg.OnDemand != nil && p.state.CompareAndSwap(stateIdle, stateRequested) {
		p.cfg.OnDemand()
	}
}

// stopIdle ends a run because the pool is idle. A Pick that was enqueued before it sees the new state
// has not called OnDemand.
func (p *Pool) stopIdle() {
	p.state.Store(stateIdle)
	if !p.queue.empty() {
		p.requestRun()
	}
}

// expireIdle reports whether the pool was not used for IdleTimeout. It is called once per tick.
func (p *Pool) expireIdle(now time.Time) bool {
	if p.cfg.OnDemand == nil || p.cfg.IdleTimeout == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.picked.Swap(false) || !p.queue.empty() || p.inFlight() > 0 {
		p.lastPicked = now
	}
	return now.Sub(p.lastPicked) >= p.cfg.IdleTimeout
}

// inFlight returns the number of outstanding leases. It is called under mu.
func (p *Pool) inFlight() (n int) {
	for _, e := range p.endpoints {
		n += e.InFlight()
	}
	return n
}

// evictAll evicts all members of an idle pool and returns their connections. From then on no
// endpoint joins.
func (p *Pool) evictAll() (toDrain []*endpointConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = true
	return p.evictIf(func(*Endpoint) bool { return true }, "the pool is idle")
}

// drain first makes every current and future Pick fail, then waits for the outstanding leases, and
// then drains the connections.
func (p *Pool) drain() error {
	p.closing.Store(true)
	p.queue.close(p.errorf(NoEndpoint, errors.New("the pool is closing")))
	timer := time.NewTimer(p.cfg.DrainTimeout)
	defer timer.Stop()
	for {
		leases, conns := p.remaining()
		if leases == 0 {
			p.drainAll()
		}
		if leases == 0 && conns == 0 {
			return nil
		}
		select {
		case <-p.wake:
		case <-timer.C:
			if leases == 0 {
				return nil
			}
			return fmt.Errorf("pool %q: %d requests in flight were canceled after %s (raise the pool's drain timeout)",
				p.cfg.Name, leases, p.cfg.DrainTimeout)
		}
	}
}

// remaining counts the outstanding leases and the open connections.
func (p *Pool) remaining() (leases, conns int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inFlight(), p.openConns
}

func (p *Pool) drainAll() {
	p.mu.Lock()
	var conns []*endpointConn
	for _, e := range p.endpoints {
		conns = append(conns, e.takeConns()...)
	}
	p.mu.Unlock()
	drainConns(conns)
}

// Limiter returns Config.Limiter.
func (p *Pool) Limiter() *AdaptiveLimiter { return p.cfg.Limiter }

// Idle reports whether the pool has OnDemand and waits for a Pick.
func (p *Pool) Idle() bool { return p.cfg.OnDemand != nil && p.state.Load() == stateIdle }

// Ready returns nil if an endpoint is live or the pool is idle, and otherwise an error with the
// reason.
func (p *Pool) Ready() error {
	if p.closing.Load() {
		return fmt.Errorf("pool %q: the pool is closing", p.cfg.Name)
	}
	if p.Idle() || p.anyLive() {
		return nil
	}
	if err := p.unreachable.Load(); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state.Load() == stateIdle:
		return fmt.Errorf("pool %q: Run was not called", p.cfg.Name)
	case p.lastError != "":
		return fmt.Errorf("pool %q: no endpoint is live: %s", p.cfg.Name, p.lastError)
	default:
		return fmt.Errorf("pool %q: no endpoint is live yet", p.cfg.Name)
	}
}

// wakeMaintainer makes the maintainer check the pool.
func (p *Pool) wakeMaintainer() { signal(p.wake) }

// signal sends to a channel with a buffer of 1, unless a value is already in it.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
