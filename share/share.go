// SPDX-License-Identifier: Apache-2.0

// Package share divides quotas among the gateways of a cluster: each leases parts of every scope, by what it needs, in a
// document that all of them change. It paces nothing and sends nothing: that is the gates' work.
package share

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

// Documents keep one document under each key, where all members find it. What was written can be lost, but must not come
// back.
type Documents interface {
	// Read returns the document and its revision, 0 if there is none. It may be an older one.
	Read(ctx context.Context, key string) (text []byte, revision uint64, err error)
	// Write puts text in the place of that revision, or makes the document if it is 0, or returns ErrChanged. After another
	// error nobody knows whether it did.
	Write(ctx context.Context, key string, text []byte, revision uint64) error
}

// Gate is what spends a quota in this gateway.
type Gate interface {
	// Demand is how much of each scope is wanted now, in parts of its limit.
	Demand() map[string]float64
	// Spend lets it spend these parts of the scopes until a time by its own clock, and rest of every one from then on.
	Spend(parts map[string]float64, until time.Time, rest float64)
}

// Config says how to share.
type Config struct {
	// Documents is where the leases stand.
	Documents Documents
	// Member names this process, and none that was before it; required.
	Member string
	// Lease is how long a member spends what it has when it has lost touch, and how long, and a tenth more, the others wait
	// before they take it; default 5 s.
	Lease time.Duration
	// Apart is the part of each limit that is set aside for members out of touch, of which each has its Members-th whether
	// anybody hears of it or not; default 0, with which a member out of touch has nothing once its lease has ended.
	Apart float64
	// Members is how many members there may be at a time; default 10. More in touch than that get less; more out of touch
	// spend more than there is.
	Members int
	// Logger tells of touch lost and found; nil discards it.
	Logger *slog.Logger
}

const (
	whole        = 1_000_000 // a limit, in the unit of leases
	defaultLease = 5 * time.Second
	longestBeat  = 500 * time.Millisecond
	beats        = 8  // at least so many in a lease
	drift        = 10 // a clock may be off by less than this part of its time
	attempts     = 8  // at a document that others change at the same time
	atATime      = 16 // documents
)

// Sharing is one member's part in the sharing of its quotas.
type Sharing struct {
	cfg   Config
	rest  int64 // of each limit, out of touch
	again chan struct{}

	mu     sync.Mutex
	quotas map[string]*quota
	gone   map[string]*quota // to take leave of
	touch  touch             // of the last round; short before the first
}

// touch is how this member stands with the others.
type touch struct {
	members int
	short   bool
	err     error
}

// New returns a member that shares nothing yet.
func New(cfg Config) *Sharing {
	cfg.Lease, cfg.Members = cmp.Or(cfg.Lease, defaultLease), cmp.Or(cfg.Members, 10)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Sharing{
		cfg: cfg, rest: int64(cfg.Apart * whole / float64(cfg.Members)), again: make(chan struct{}, 1),
		quotas: map[string]*quota{}, gone: map[string]*quota{}, touch: touch{short: true},
	}
}

// Hold says which gates share, by the names of their quotas, which are the same in all members and hold no secret. It takes
// the place of what was said before. A gate that is new spends what it may out of touch until it has a lease.
func (s *Sharing) Hold(gates map[string]Gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, q := range s.quotas {
		if gates[key] != q.gate {
			delete(s.quotas, key)
			s.gone[key] = q
		}
	}
	for key, gate := range gates {
		if s.quotas[key] == nil {
			s.quotas[key] = s.newQuota(key, gate)
		}
	}
	select {
	case s.again <- struct{}{}:
	default:
	}
}

// Run keeps the leases until ctx ends, and then gives them back.
func (s *Sharing) Run(ctx context.Context) error {
	beat := min(s.cfg.Lease/beats, longestBeat)
	for {
		s.round(ctx, beat)
		select {
		case <-ctx.Done():
			return s.farewell(beat)
		case <-s.again:
		case <-time.After(beat/2 + rand.N(beat/2)):
		}
	}
}

// round looks after every quota once.
func (s *Sharing) round(ctx context.Context, most time.Duration) {
	ctx, stop := context.WithTimeout(ctx, 2*most)
	defer stop()
	held, gone := s.all()
	_ = s.each(gone, func(q *quota) error { return q.leave(ctx) }) // or the leases end by themselves
	err := s.each(held, func(q *quota) error { return q.keep(ctx) })
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return
	}
	s.tell(held, err)
}

func (s *Sharing) all() (held, gone []*quota) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.quotas {
		held = append(held, q)
	}
	for key, q := range s.gone {
		gone = append(gone, q)
		delete(s.gone, key)
	}
	return held, gone
}

func (s *Sharing) each(quotas []*quota, do func(*quota) error) error {
	var all errgroup.Group
	all.SetLimit(atATime)
	for _, q := range quotas {
		all.Go(func() error { return do(q) })
	}
	return all.Wait()
}

// farewell gives everything back, if it can be told to anybody.
func (s *Sharing) farewell(most time.Duration) error {
	ctx, stop := context.WithTimeout(context.Background(), 2*most)
	defer stop()
	held, gone := s.all()
	_ = s.each(append(held, gone...), func(q *quota) error { return q.leave(ctx) }) // or the leases end by themselves
	return nil
}

// tell keeps how the round went, and logs when that has changed.
func (s *Sharing) tell(held []*quota, err error) {
	now := touch{err: err}
	for _, q := range held {
		now.members, now.short = max(now.members, q.members), now.short || q.short
	}
	s.mu.Lock()
	before := s.touch
	s.touch = now
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
	Short bool `json:"short"`
	// InTouch is false while the leases cannot be renewed, and Reason says why.
	InTouch bool   `json:"in_touch"`
	Reason  string `json:"reason,omitempty"`
}

// Status returns how it stands now.
func (s *Sharing) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	status := Status{Members: s.touch.members, Short: s.touch.short, InTouch: s.touch.err == nil}
	if s.touch.err != nil {
		status.Reason = s.touch.err.Error()
	}
	return status
}
