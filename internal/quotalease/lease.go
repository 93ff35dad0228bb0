// SPDX-License-Identifier: Apache-2.0

package quotalease

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"github.com/google/uuid"
)

// lease is this member's part in one quota. It rests on one rule: what the gate spends is never more than what stands under
// this member's name, or somebody has waited until its lease had ended by its own clock. So it spends less before it writes
// less, and writes more before it spends more; and the sum of what stands in the document is never more than the whole.
type lease struct {
	member  *Member
	key     string
	limiter RateLimiter

	// Of the loop that keeps it alone:
	shares      map[string]int64 // what the gate spends
	expires     time.Time        // by our own clock
	heartbeat   uint64
	epoch       string    // the document that we know
	epochSeen   time.Time // and when we saw it first
	observed    map[string]observation
	members     int
	belowTarget bool // has less than half of what is due
}

// observation is when a member's beat was seen first.
type observation struct {
	heartbeat uint64
	at        time.Time
}

func (s *Member) newLease(key string, gate RateLimiter) *lease {
	q := &lease{member: s, key: key, limiter: gate, heartbeat: uint64(time.Now().UnixNano())} // no two begin alike
	q.setShares(nil, time.Time{})
	return q
}

// setShares has the gate spend these parts.
func (q *lease) setShares(parts map[string]int64, until time.Time) {
	q.shares, q.expires = parts, until
	rest := float64(q.member.fallback) / fullShare
	spendable := make(map[string]float64, len(parts))
	for scope, part := range parts {
		spendable[scope] = float64(part)/fullShare + rest
	}
	q.limiter.SetShare(spendable, until, rest)
}

// maintain renews the lease, gives what others need more, and takes what is due and free.
func (q *lease) maintain(ctx context.Context) error { return q.update(ctx, q.claim) }

// release spends nothing more of what is leased, and gives it back.
func (q *lease) release(ctx context.Context) error {
	q.setShares(nil, time.Time{})
	return q.update(ctx, func(d *document, _ time.Time) { delete(d.Members, q.member.cfg.ID) })
}

// update has what change does to the document written, again from the start when another was faster.
func (q *lease) update(ctx context.Context, change func(d *document, now time.Time)) error {
	err := ErrChanged
	for range maxAttempts {
		if err = q.tryUpdate(ctx, change); !errors.Is(err, ErrChanged) {
			return err
		}
	}
	return err
}

func (q *lease) tryUpdate(ctx context.Context, change func(d *document, now time.Time)) error {
	docs := q.member.cfg.Store
	began := time.Now()
	text, revision, err := docs.Read(ctx, q.key)
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
	q.observe(d, now)
	change(d, now)
	if text, err = json.Marshal(d); err != nil {
		return err
	}
	if err := docs.Write(ctx, q.key, text, revision); err != nil {
		return err
	}
	q.members = len(d.Members)
	if own := d.Members[q.member.cfg.ID]; own != nil {
		q.setShares(own.Shares, began.Add(q.member.cfg.Lease))
	}
	return nil
}

// observe takes note of who has written since, and strikes out those whose leases have ended.
func (q *lease) observe(d *document, now time.Time) {
	if d.Epoch != q.epoch {
		q.epoch, q.epochSeen, q.observed = d.Epoch, now, map[string]observation{}
	}
	d.Ready = d.Ready || q.expired(q.epochSeen, now)
	for name, m := range d.Members {
		if s, known := q.observed[name]; !known || s.heartbeat != m.Heartbeat {
			q.observed[name] = observation{m.Heartbeat, now}
		} else if name != q.member.cfg.ID && q.expired(s.at, now) {
			delete(d.Members, name)
		}
	}
	maps.DeleteFunc(q.observed, func(name string, _ observation) bool { return d.Members[name] == nil })
}

// expired reports whether a lease that was renewed no later than at has ended, by the clock of its holder.
func (q *lease) expired(at, now time.Time) bool {
	lease := q.member.cfg.Lease
	return now.Sub(at) > lease+lease/clockDriftDivisor
}

// claim writes down what this member will have. Where that is less than what it spends, it spends less from here on.
func (q *lease) claim(d *document, now time.Time) {
	me := q.member.cfg.ID
	held, wants := q.heldShares(d, now), q.demand()
	q.heartbeat++
	own := &memberState{Heartbeat: q.heartbeat, Shares: make(map[string]int64, len(wants)), Demand: wants}
	d.Members[me] = own
	pool := fullShare - q.member.fallback*int64(max(q.member.cfg.Members, len(d.Members)))
	q.belowTarget = false
	for scope := range wants {
		due, free := d.target(scope, me, pool), d.available(scope, me, pool)
		if d.Ready {
			own.Shares[scope] = min(due, free)
		} else {
			own.Shares[scope] = min(held[scope], free)
		}
		q.belowTarget = q.belowTarget || own.Shares[scope] < due/2
	}
	q.reduceTo(own.Shares, now)
}

// heldShares returns what this member holds by this document, or has from one that was lost.
func (q *lease) heldShares(d *document, now time.Time) map[string]int64 {
	if own := d.Members[q.member.cfg.ID]; own != nil {
		return own.Shares
	}
	if d.Ready || !now.Before(q.expires) {
		return nil
	}
	return q.shares
}

// reduceTo spends no more than these parts from here on.
func (q *lease) reduceTo(parts map[string]int64, now time.Time) {
	lower := make(map[string]int64, len(q.shares))
	for scope, part := range q.shares {
		lower[scope] = min(part, parts[scope])
	}
	if !maps.Equal(lower, q.shares) && now.Before(q.expires) {
		q.setShares(lower, q.expires)
	}
}

// demand returns what the gate wants of each scope.
func (q *lease) demand() map[string]int64 {
	wants := map[string]int64{}
	for scope, part := range q.limiter.Demand() {
		wants[scope] = int64(min(part, 1) * fullShare)
	}
	return wants
}
