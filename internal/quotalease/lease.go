// SPDX-License-Identifier: Apache-2.0

package quotalease

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// lease is this member's lease of shares of one quota.
//
// Until the lease has expired by this member's clock, the limiter never uses more than the document
// grants to this member. Therefore the member reduces the limiter's shares before it writes smaller
// ones, and writes larger shares before the limiter uses them. The other members remove an entry
// only after its lease has expired, with a margin for clock drift. So the sum of the shares in use
// never exceeds the whole quota.
type lease struct {
	member  *Member
	key     string
	limiter RateLimiter

	// Used only by the goroutine that renews the lease:
	shares      map[string]int64 // what the limiter may use, without the fallback share
	expires     time.Time        // by the local clock
	heartbeat   uint64
	epoch       string    // of the last document read
	epochSeen   time.Time // when this epoch was first seen
	observed    map[string]observation
	members     int
	belowTarget bool // has less than half of the target share
	panicked    time.Time
}

// observation records when a member's current heartbeat was first seen.
type observation struct {
	heartbeat uint64
	at        time.Time
}

func (m *Member) newLease(key string, limiter RateLimiter) *lease {
	l := &lease{member: m, key: key, limiter: limiter, heartbeat: uint64(time.Now().UnixNano())} // a different start in every process
	l.setShares(nil, time.Time{})
	return l
}

// setShares sets the shares that the limiter may use.
func (l *lease) setShares(shares map[string]int64, expires time.Time) {
	l.shares, l.expires = shares, expires
	fallback := float64(l.member.fallback) / fullShare
	fractions := make(map[string]float64, len(shares))
	for scope, share := range shares {
		fractions[scope] = float64(share)/fullShare + fallback
	}
	l.limiter.SetShare(fractions, expires, fallback)
}

// maintain renews the lease. It gives up shares that other members need more, and claims free
// shares up to the target.
func (l *lease) maintain(ctx context.Context) error { return l.update(ctx, l.claim) }

// release stops using the leased shares and returns them.
func (l *lease) release(ctx context.Context) error {
	l.setShares(nil, time.Time{})
	return l.update(ctx, func(d *document, _ time.Time) { delete(d.Members, l.member.cfg.ID) })
}

// update applies change to the document and writes it. It starts over if another member was faster.
func (l *lease) update(ctx context.Context, change func(d *document, now time.Time)) error {
	err := jetstream.ErrChanged
	for range maxAttempts {
		if err = l.tryUpdate(ctx, change); !errors.Is(err, jetstream.ErrChanged) {
			return err
		}
	}
	return err
}

func (l *lease) tryUpdate(ctx context.Context, change func(d *document, now time.Time)) error {
	store := l.member.cfg.Store
	started := time.Now()
	text, revision, err := store.Get(ctx, l.key)
	if err != nil {
		return err
	}
	d := &document{Epoch: uuid.NewString(), Members: map[string]*memberState{}}
	if revision > 0 {
		if d, err = parseDocument(text); err != nil {
			return err
		}
	}
	now := time.Now()
	l.observe(d, now)
	change(d, now)
	if text, err = json.Marshal(d); err != nil {
		return err
	}
	if _, err := store.CompareAndSet(ctx, l.key, text, revision); err != nil {
		return err
	}
	l.members = len(d.Members)
	if own := d.Members[l.member.cfg.ID]; own != nil {
		// The lease counts from before the write, so it expires here before the other members
		// consider it expired.
		l.setShares(own.Shares, started.Add(l.member.cfg.Lease))
	}
	return nil
}

// observe records the heartbeats in d, and removes the members whose leases have expired.
func (l *lease) observe(d *document, now time.Time) {
	if d.Epoch != l.epoch || l.observed == nil { // the epoch of a damaged document can be empty
		l.epoch, l.epochSeen, l.observed = d.Epoch, now, map[string]observation{}
	}
	d.Ready = d.Ready || l.expired(l.epochSeen, now)
	for id, m := range d.Members {
		if seen, known := l.observed[id]; !known || seen.heartbeat != m.Heartbeat {
			l.observed[id] = observation{m.Heartbeat, now}
		} else if id != l.member.cfg.ID && l.expired(seen.at, now) {
			delete(d.Members, id)
		}
	}
	maps.DeleteFunc(l.observed, func(id string, _ observation) bool { return d.Members[id] == nil })
}

// expired reports whether a lease that was renewed no later than renewed has expired by the clock
// of its holder.
func (l *lease) expired(renewed, now time.Time) bool {
	period := l.member.cfg.Lease
	return now.Sub(renewed) > period+period/clockDriftDivisor
}

// claim sets this member's entry in d. If a share gets smaller, the limiter uses the smaller share
// from now on.
func (l *lease) claim(d *document, now time.Time) {
	id := l.member.cfg.ID
	held, demand := l.heldShares(d, now), l.demand()
	l.heartbeat++
	own := &memberState{Heartbeat: l.heartbeat, Shares: make(map[string]int64, len(demand)), Demand: demand}
	d.Members[id] = own
	pool := fullShare - l.member.fallback*int64(max(l.member.cfg.Members, len(d.Members)))
	l.belowTarget = false
	for scope := range demand {
		target, available := d.target(scope, id, pool), d.available(scope, id, pool)
		if d.Ready {
			own.Shares[scope] = min(target, available)
		} else {
			own.Shares[scope] = min(held[scope], available)
		}
		l.belowTarget = l.belowTarget || own.Shares[scope] < target/2
	}
	l.reduceTo(own.Shares, now)
}

// heldShares returns the shares that this member holds: by d, or by an earlier document that was
// lost.
func (l *lease) heldShares(d *document, now time.Time) map[string]int64 {
	if own := d.Members[l.member.cfg.ID]; own != nil {
		return own.Shares
	}
	if d.Ready || !now.Before(l.expires) {
		return nil
	}
	return l.shares
}

// reduceTo makes the limiter use no more than these shares. It raises none.
func (l *lease) reduceTo(shares map[string]int64, now time.Time) {
	reduced := make(map[string]int64, len(l.shares))
	for scope, share := range l.shares {
		reduced[scope] = min(share, shares[scope])
	}
	if !maps.Equal(reduced, l.shares) && now.Before(l.expires) {
		l.setShares(reduced, l.expires)
	}
}

// demand returns the limiter's demand for each scope, at most fullShare.
func (l *lease) demand() map[string]int64 {
	demand := map[string]int64{}
	for scope, fraction := range l.limiter.Demand() {
		demand[scope] = int64(min(fraction, 1) * fullShare)
	}
	return demand
}
