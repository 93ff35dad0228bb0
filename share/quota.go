// SPDX-License-Identifier: Apache-2.0

package share

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"time"

	"github.com/google/uuid"
)

// quota is this member's part in one quota. It rests on one rule: what the gate spends is never more than what stands under
// this member's name, or somebody has waited until its lease had ended by its own clock. So it spends less before it writes
// less, and writes more before it spends more; and the sum of what stands in the document is never more than the whole.
type quota struct {
	sharing *Sharing
	key     string
	gate    Gate

	// Of the loop that keeps it alone:
	parts   map[string]int64 // what the gate spends
	until   time.Time        // by our own clock
	beat    uint64
	born    string    // the document that we know
	since   time.Time // and when we saw it first
	seen    map[string]sight
	members int
	short   bool // has less than half of what is due
}

// sight is when a member's beat was seen first.
type sight struct {
	beat uint64
	at   time.Time
}

func (s *Sharing) newQuota(key string, gate Gate) *quota {
	q := &quota{sharing: s, key: key, gate: gate, beat: uint64(time.Now().UnixNano())} // no two begin alike
	q.spend(nil, time.Time{})
	return q
}

// spend has the gate spend these parts.
func (q *quota) spend(parts map[string]int64, until time.Time) {
	q.parts, q.until = parts, until
	rest := float64(q.sharing.rest) / whole
	spendable := make(map[string]float64, len(parts))
	for scope, part := range parts {
		spendable[scope] = float64(part)/whole + rest
	}
	q.gate.Spend(spendable, until, rest)
}

// keep renews the lease, gives what others need more, and takes what is due and free.
func (q *quota) keep(ctx context.Context) error { return q.change(ctx, q.renew) }

// leave spends nothing more of what is leased, and gives it back.
func (q *quota) leave(ctx context.Context) error {
	q.spend(nil, time.Time{})
	return q.change(ctx, func(d *document, _ time.Time) { delete(d.Members, q.sharing.cfg.Member) })
}

// change has what change does to the document written, again from the start when another was faster.
func (q *quota) change(ctx context.Context, change func(d *document, now time.Time)) error {
	err := ErrChanged
	for range attempts {
		if err = q.try(ctx, change); !errors.Is(err, ErrChanged) {
			return err
		}
	}
	return err
}

func (q *quota) try(ctx context.Context, change func(d *document, now time.Time)) error {
	docs := q.sharing.cfg.Documents
	began := time.Now()
	text, revision, err := docs.Read(ctx, q.key)
	if err != nil {
		return err
	}
	d := &document{Born: uuid.NewString(), Members: map[string]*member{}}
	if revision > 0 {
		if d, err = read(text); err != nil {
			return err
		}
	}
	now := time.Now()
	q.look(d, now)
	change(d, now)
	if text, err = json.Marshal(d); err != nil {
		return err
	}
	if err := docs.Write(ctx, q.key, text, revision); err != nil {
		return err
	}
	q.members = len(d.Members)
	if own := d.Members[q.sharing.cfg.Member]; own != nil {
		q.spend(own.Parts, began.Add(q.sharing.cfg.Lease))
	}
	return nil
}

// look takes note of who has written since, and strikes out those whose leases have ended.
func (q *quota) look(d *document, now time.Time) {
	if d.Born != q.born {
		q.born, q.since, q.seen = d.Born, now, map[string]sight{}
	}
	d.Settled = d.Settled || q.ended(q.since, now)
	for name, m := range d.Members {
		if s, known := q.seen[name]; !known || s.beat != m.Beat {
			q.seen[name] = sight{m.Beat, now}
		} else if name != q.sharing.cfg.Member && q.ended(s.at, now) {
			delete(d.Members, name)
		}
	}
	maps.DeleteFunc(q.seen, func(name string, _ sight) bool { return d.Members[name] == nil })
}

// ended reports whether a lease that was renewed no later than at has ended, by the clock of its holder.
func (q *quota) ended(at, now time.Time) bool {
	lease := q.sharing.cfg.Lease
	return now.Sub(at) > lease+lease/drift
}

// renew writes down what this member will have. Where that is less than what it spends, it spends less from here on.
func (q *quota) renew(d *document, now time.Time) {
	me := q.sharing.cfg.Member
	held, wants := q.held(d, now), q.wants()
	q.beat++
	own := &member{Beat: q.beat, Parts: make(map[string]int64, len(wants)), Wants: wants}
	d.Members[me] = own
	pool := whole - q.sharing.rest*int64(max(q.sharing.cfg.Members, len(d.Members)))
	q.short = false
	for scope := range wants {
		due, free := d.due(scope, me, pool), d.free(scope, me, pool)
		if d.Settled {
			own.Parts[scope] = min(due, free)
		} else {
			own.Parts[scope] = min(held[scope], free)
		}
		q.short = q.short || own.Parts[scope] < due/2
	}
	q.lower(own.Parts, now)
}

// held returns what this member holds by this document, or has from one that was lost.
func (q *quota) held(d *document, now time.Time) map[string]int64 {
	if own := d.Members[q.sharing.cfg.Member]; own != nil {
		return own.Parts
	}
	if d.Settled || !now.Before(q.until) {
		return nil
	}
	return q.parts
}

// lower spends no more than these parts from here on.
func (q *quota) lower(parts map[string]int64, now time.Time) {
	lower := make(map[string]int64, len(q.parts))
	for scope, part := range q.parts {
		lower[scope] = min(part, parts[scope])
	}
	if !maps.Equal(lower, q.parts) && now.Before(q.until) {
		q.spend(lower, q.until)
	}
}

// wants returns what the gate wants of each scope.
func (q *quota) wants() map[string]int64 {
	wants := map[string]int64{}
	for scope, part := range q.gate.Demand() {
		wants[scope] = int64(min(part, 1) * whole)
	}
	return wants
}
