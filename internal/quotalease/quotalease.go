// SPDX-License-Identifier: Apache-2.0

// Package share divides quotas among the gateways of a cluster: each leases parts of every scope, by what it needs, in a
// document that all of them change. It paces nothing and sends nothing: that is the gates' work.
package quotalease

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// ErrChanged says that a document is not at the revision that was to be replaced.
var ErrChanged = errors.New("share: the document has changed meanwhile")

// Store keep one document under each key, where all members find it. What was written can be lost, but must not come
// back.
type Store interface {
	// Read returns the document and its revision, 0 if there is none. It may be an older one.
	Read(ctx context.Context, key string) (text []byte, revision uint64, err error)
	// Write puts text in the place of that revision, or makes the document if it is 0, or returns ErrChanged. After another
	// error nobody knows whether it did.
	Write(ctx context.Context, key string, text []byte, revision uint64) error
}

// RateLimiter is what spends a quota in this gateway.
type RateLimiter interface {
	// Demand is how much of each scope is wanted now, in parts of its limit.
	Demand() map[string]float64
	// Spend lets it spend these parts of the scopes until a time by its own clock, and rest of every one from then on.
	SetShare(parts map[string]float64, until time.Time, rest float64)
}

// Config says how to share.
type Config struct {
	// Documents is where the leases stand.
	Store Store
	// Member names this process, and none that was before it; required.
	ID string
	// Lease is how long a member spends what it has when it has lost touch, and how long, and a tenth more, the others wait
	// before they take it; default 5 s.
	Lease time.Duration
	// Apart is the part of each limit that is set aside for members out of touch, of which each has its Members-th whether
	// anybody hears of it or not; default 0, with which a member out of touch has nothing once its lease has ended.
	FallbackShare float64
	// Members is how many members there may be at a time; default 10. More in touch than that get less; more out of touch
	// spend more than there is.
	Members int
	// Logger tells of touch lost and found; nil discards it.
	Logger *slog.Logger
}

const (
	fullShare          = 1_000_000 // a limit, in the unit of leases
	defaultLease       = 5 * time.Second
	maxHeartbeat       = 500 * time.Millisecond
	heartbeatsPerLease = 8  // at least so many in a lease
	clockDriftDivisor  = 10 // a clock may be off by less than this part of its time
	maxAttempts        = 8  // at a document that others change at the same time
	maxConcurrent      = 16 // documents
)

// Member is one member's part in the sharing of its quotas.
type Member struct {
	cfg      Config
	fallback int64 // of each limit, out of touch
	wake     chan struct{}

	mu      sync.Mutex
	leases  map[string]*lease
	removed map[string]*lease // to take leave of
	state   connectivity      // of the last round; short before the first
}

// connectivity is how this member stands with the others.
type connectivity struct {
	members     int
	belowTarget bool
	err         error
}

// New returns a member that shares nothing yet.
func New(cfg Config) *Member {
	cfg.Lease, cfg.Members = cmp.Or(cfg.Lease, defaultLease), cmp.Or(cfg.Members, 10)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Member{
		cfg: cfg, fallback: int64(cfg.FallbackShare * fullShare / float64(cfg.Members)), wake: make(chan struct{}, 1),
		leases: map[string]*lease{}, removed: map[string]*lease{}, state: connectivity{belowTarget: true},
	}
}

// SetLimiters says which gates share, by the names of their quotas, which are the same in all members and hold no secret. It takes
// the place of what was said before. A gate that is new spends what it may out of touch until it has a lease.
func (s *Member) SetLimiters(gates map[string]RateLimiter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, q := range s.leases {
		if gates[key] != q.limiter {
			delete(s.leases, key)
			s.removed[key] = q
		}
	}
	for key, gate := range gates {
		if s.leases[key] == nil {
			s.leases[key] = s.newLease(key, gate)
		}
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run keeps the leases until ctx ends, and then gives them back.
func (s *Member) Run(ctx context.Context) error {
	beat := min(s.cfg.Lease/heartbeatsPerLease, maxHeartbeat)
	for {
		s.syncAll(ctx, beat)
		select {
		case <-ctx.Done():
			return s.releaseAll(beat)
		case <-s.wake:
		case <-time.After(beat/2 + rand.N(beat/2)):
		}
	}
}

// syncAll looks after every quota once.
func (s *Member) syncAll(ctx context.Context, most time.Duration) {
	ctx, stop := context.WithTimeout(ctx, 2*most)
	defer stop()
	held, gone := s.takeLeases()
	_ = s.forEach(gone, func(q *lease) error { return q.release(ctx) }) // or the leases end by themselves
	err := s.forEach(held, func(q *lease) error { return q.maintain(ctx) })
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return
	}
	s.updateState(held, err)
}

func (s *Member) takeLeases() (held, gone []*lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.leases {
		held = append(held, q)
	}
	for key, q := range s.removed {
		gone = append(gone, q)
		delete(s.removed, key)
	}
	return held, gone
}

func (s *Member) forEach(quotas []*lease, do func(*lease) error) error {
	var all errgroup.Group
	all.SetLimit(maxConcurrent)
	for _, q := range quotas {
		all.Go(func() error { return do(q) })
	}
	return all.Wait()
}

// releaseAll gives everything back, if it can be told to anybody.
func (s *Member) releaseAll(most time.Duration) error {
	ctx, stop := context.WithTimeout(context.Background(), 2*most)
	defer stop()
	held, gone := s.takeLeases()
	_ = s.forEach(append(held, gone...), func(q *lease) error { return q.release(ctx) }) // or the leases end by themselves
	return nil
}

// updateState keeps how the round went, and logs when that has changed.
func (s *Member) updateState(held []*lease, err error) {
	now := connectivity{err: err}
	for _, q := range held {
		now.members, now.belowTarget = max(now.members, q.members), now.belowTarget || q.belowTarget
	}
	s.mu.Lock()
	before := s.state
	s.state = now
	s.mu.Unlock()
	switch {
	case err != nil && before.err == nil:
		s.cfg.Logger.Warn("share: out of touch with the other gateways; the shares of quotas are kept until their leases end", "err", err, "lease", s.cfg.Lease)
	case err == nil && before.err != nil:
		s.cfg.Logger.Info("share: in touch with the other gateways again", "members", now.members)
	}
}

// Status is how a member stands with the others.
type Status struct {
	// Members is how many gateways share with this one, itself among them.
	Members int `json:"members"`
	// Short is true while this one has less than half of what is due to it: after it has joined, and in a new cluster for as
	// long as a lease.
	BelowTarget bool `json:"short"`
	// InTouch is false while the leases cannot be renewed, and Reason says why.
	Connected bool   `json:"in_touch"`
	Reason    string `json:"reason,omitempty"`
}

// Status returns how it stands now.
func (s *Member) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{Members: s.state.members, BelowTarget: s.state.belowTarget, Connected: s.state.err == nil}
	if s.state.err != nil {
		status.Reason = s.state.err.Error()
	}
	return status
}
