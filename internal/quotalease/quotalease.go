// SPDX-License-Identifier: Apache-2.0

// Package quotalease divides quotas among the gateways of a cluster. Each gateway is a member that
// leases shares of every scope of a quota, according to its demand. All members record their shares
// in one document per quota and update it with compare-and-set. The package does not limit or send
// anything: the rate limiters enforce the shares.
package quotalease

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/panics"
)

// Store keeps one document per key, accessible to all members. It may lose documents, but must
// never return an earlier state after a loss. NewStore returns the store of a cluster.
type Store interface {
	// Get returns the document and its revision, which is 0 if there is none. The result may be
	// stale.
	Get(ctx context.Context, key string) (text []byte, revision uint64, err error)
	// CompareAndSet replaces the document at a revision, or creates it if revision is 0. It returns
	// the new revision. If the document has another revision the error is jetstream.ErrChanged.
	// After any other error it is unknown whether the document was written.
	CompareAndSet(ctx context.Context, key string, text []byte, revision uint64) (written uint64, err error)
}

// documentTTL is how long the store keeps a document after its last write.
const documentTTL = time.Hour

// NewStore returns a store in memory of the cluster. If the cluster loses the documents, the members
// create new ones.
func NewStore(e *jetstream.Engine) Store {
	return e.Bucket(natsjs.KeyValueConfig{Bucket: "SLUICE_QUOTA_LEASES", TTL: documentTTL, Storage: natsjs.MemoryStorage})
}

// RateLimiter enforces a quota in this gateway.
type RateLimiter interface {
	// Demand returns how much of each scope is needed now, as a fraction of its limit.
	Demand() map[string]float64
	// SetShare sets the fraction of each scope that may be used until a time by the local clock.
	// After that time, and for scopes not in shares, fallback is the fraction that may be used.
	SetShare(shares map[string]float64, until time.Time, fallback float64)
}

// Config configures a Member.
type Config struct {
	// Store contains the documents.
	Store Store
	// ID identifies this process. No earlier process may have had the same ID. Required.
	ID string
	// Lease is how long a member keeps its shares without renewing them. The other members wait
	// this long, and a tenth longer, before they take the shares of a member that has stopped. The
	// default is 5 s.
	Lease time.Duration
	// FallbackShare is the fraction of each limit reserved for members without a lease. Each of
	// them may use FallbackShare divided by Members, without any communication. With the default of
	// 0 a member without a lease may use nothing.
	FallbackShare float64
	// Members is the maximum number of members; the default is 10. With more members, each gets
	// less while they are connected; if more than that are disconnected, together they can exceed
	// the quota.
	Members int
	// Logger logs lost and restored connections. Nil discards them.
	Logger *slog.Logger
}

const (
	fullShare          = 1_000_000 // the whole limit, in the unit of shares
	defaultLease       = 5 * time.Second
	maxHeartbeat       = 500 * time.Millisecond
	heartbeatsPerLease = 8  // minimum number of renewals per lease
	clockDriftDivisor  = 10 // clocks may drift by up to 1/clockDriftDivisor
	maxAttempts        = 8  // to update a document that other members change at the same time
	panicDelay         = time.Minute
	maxConcurrent      = 16 // documents updated at the same time
)

// Member leases shares of quotas for one gateway.
type Member struct {
	cfg      Config
	fallback int64 // share of each limit without a lease
	wake     chan struct{}

	mu      sync.Mutex
	leases  map[string]*lease
	removed map[string]*lease // to be released
	state   connectivity      // after the last round; below target before the first
}

// connectivity is the result of the last round of renewals.
type connectivity struct {
	members     int
	belowTarget bool
	err         error
}

// New returns a member without limiters.
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

// SetLimiters sets the rate limiters that share quotas, by key, and replaces the previous ones. The
// keys must be the same in all members, and must not contain secrets. A new limiter gets the
// fallback share until its lease is granted.
func (m *Member) SetLimiters(limiters map[string]RateLimiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, l := range m.leases {
		if limiters[key] != l.limiter {
			delete(m.leases, key)
			m.removed[key] = l
		}
	}
	for key, limiter := range limiters {
		if m.leases[key] == nil {
			m.leases[key] = m.newLease(key, limiter)
		}
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run renews the leases until ctx ends, and then releases them.
func (m *Member) Run(ctx context.Context) error {
	heartbeat := min(m.cfg.Lease/heartbeatsPerLease, maxHeartbeat)
	err := panics.Restart(ctx, m.cfg.Logger, "quota leases", func(ctx context.Context) error {
		for {
			m.syncAll(ctx, heartbeat)
			select {
			case <-ctx.Done():
				return nil
			case <-m.wake:
			case <-time.After(heartbeat/2 + rand.N(heartbeat/2)):
			}
		}
	})
	return errors.Join(err, m.releaseAll(heartbeat))
}

// syncAll renews every lease once and releases the removed ones.
func (m *Member) syncAll(ctx context.Context, heartbeat time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, 2*heartbeat)
	defer cancel()
	leases, removed := m.takeLeases()
	_ = m.forEach(removed, func(l *lease) error { return l.release(ctx) }) // if it fails, the lease expires
	err := m.forEach(leases, func(l *lease) error { return l.maintain(ctx) })
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return
	}
	m.updateState(leases, err)
}

// takeLeases returns the current leases and, once, those that were removed.
func (m *Member) takeLeases() (leases, removed []*lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.leases {
		leases = append(leases, l)
	}
	for key, l := range m.removed {
		removed = append(removed, l)
		delete(m.removed, key)
	}
	return leases, removed
}

// forEach calls do for each lease, except those for which it panicked within panicDelay: their rate
// limiters use the fallback share when the leases have expired.
func (m *Member) forEach(leases []*lease, do func(*lease) error) error {
	var group errgroup.Group
	group.SetLimit(maxConcurrent)
	for _, l := range leases {
		if time.Since(l.panicked) < panicDelay {
			continue
		}
		group.Go(func() error {
			err := panics.Recover(m.cfg.Logger, "lease of quota "+l.key, func() error { return do(l) })
			if _, panicked := errors.AsType[*panics.Error](err); panicked {
				l.panicked = time.Now()
			}
			return err
		})
	}
	return group.Wait()
}

// releaseAll releases all leases. A lease that cannot be released expires.
func (m *Member) releaseAll(heartbeat time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*heartbeat)
	defer cancel()
	leases, removed := m.takeLeases()
	_ = m.forEach(append(leases, removed...), func(l *lease) error { return l.release(ctx) })
	return nil
}

// updateState stores the result of a round, and logs a lost or restored connection.
func (m *Member) updateState(leases []*lease, err error) {
	now := connectivity{err: err}
	for _, l := range leases {
		now.members, now.belowTarget = max(now.members, l.members), now.belowTarget || l.belowTarget
	}
	m.mu.Lock()
	before := m.state
	m.state = now
	m.mu.Unlock()
	switch {
	case err != nil && before.err == nil:
		m.cfg.Logger.Warn("quota leases cannot be renewed; the shares stay valid until the leases expire", "err", err, "lease", m.cfg.Lease.String())
	case err == nil && before.err != nil:
		m.cfg.Logger.Info("quota leases are renewed again", "members", now.members)
	}
}

// Status is the state of a member.
type Status struct {
	// Members is the number of members, including this one.
	Members int `json:"members"`
	// BelowTarget is true while this member has less than half of its target share. This is the
	// case after it has joined, and in a new cluster for one lease period.
	BelowTarget bool `json:"below_target"`
	// Connected is false while the leases cannot be renewed; Reason says why.
	Connected bool   `json:"connected"`
	Reason    string `json:"reason,omitempty"`
}

// Status returns the current state.
func (m *Member) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	status := Status{Members: m.state.members, BelowTarget: m.state.belowTarget, Connected: m.state.err == nil}
	if m.state.err != nil {
		status.Reason = m.state.err.Error()
	}
	return status
}
