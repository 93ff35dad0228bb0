// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// door counts those inside, and holds those who wait to come in. Whether there is room is for its rule to say.
type door struct {
	mu     sync.Mutex
	inside int
	of     map[sender]*party
	line   line
	shed   uint64
}

// rule says who may come in. It is asked under the door's lock.
type rule interface {
	// take takes a place for n, which is of p, or returns why there is none.
	take(n *push.Notification, p *party) (cause push.Outcome, ok bool)
}

// sender is whose a notification is: what it takes is weighed against what the others have.
type sender struct {
	app      string
	platform push.Platform
}

// party is what one sender has inside. It stays when nothing is left of it: there are as many as apps are configured.
type party struct {
	of     sender
	inside int
}

// Parts of a bound that the lanes may fill, the best first. Of its lane's part a patient notification leaves a tenth to
// those who cannot wait: else whoever waits would have every place that comes free.
var laneParts = [3]float64{1, 0.9, 0.8}

const patientPart = 0.9

func part(n *push.Notification) float64 {
	if n.CanQueue {
		return laneParts[rank(n)] * patientPart
	}
	return laneParts[rank(n)]
}

// rank is a lane's place: the lower goes first.
func rank(n *push.Notification) int {
	switch n.EffectiveLane() {
	case push.LaneCritical:
		return 0
	case push.LaneBulk:
		return 2
	default:
		return 1
	}
}

// enter has n come in, or returns why it cannot. Where there is no room a patient one waits for it, unless so many wait
// already; waited tells that it did. p is whom it belongs to inside, and nil if it is not.
func (d *door) enter(ctx context.Context, n *push.Notification, patience time.Duration, most int, r rule) (p *party, waited bool, cause push.Outcome) {
	p, w, cause := d.arrive(n, most, r)
	if w == nil {
		return p, false, cause
	}
	if w.wait(ctx, patience) || !d.giveUp(w, ctx.Err()) {
		return w.row.of, true, push.Outcome{}
	}
	return nil, true, departed(ctx, cause)
}

// arrive takes a place for n, or puts it in line, or turns it away.
func (d *door) arrive(n *push.Notification, most int, r rule) (inside *party, w *waiter, cause push.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.party(n)
	cause, ok := r.take(n, p)
	switch {
	case ok:
		return p, nil, cause
	case n.CanQueue && d.line.length < most:
		return nil, d.line.join(n, p), cause
	default:
		d.shed++
		return nil, nil, cause
	}
}

// party returns the one that n is of. d.mu is held.
func (d *door) party(n *push.Notification) *party {
	of := sender{n.App, n.Platform}
	p, known := d.of[of]
	if !known {
		if d.of == nil {
			d.of = make(map[sender]*party)
		}
		p = &party{of: of}
		d.of[of] = p
	}
	return p
}

// giveUp takes w out of line, and returns false if it was let in meanwhile.
func (d *door) giveUp(w *waiter, why error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.line.leave(w) {
		return false
	}
	if !errors.Is(why, context.Canceled) {
		d.shed++
	}
	return true
}

// in counts one of p as inside. d.mu is held.
func (d *door) in(p *party) {
	p.inside++
	d.inside++
}

// out counts one of p as gone, and lets those in who have waited for its place. d.mu is held.
func (d *door) out(p *party, r rule) {
	p.inside--
	d.inside--
	for d.line.serve(r) {
	}
}

// line is those who wait at a door: the better lane first, and within a lane each sender in turn.
type line struct {
	lanes  [3][]*row
	length int
}

// row is those of one sender in one lane, in the order in which they came.
type row struct {
	of      *party
	waiters list.List // of *waiter
}

type waiter struct {
	n     *push.Notification
	ready chan struct{} // closed when it has been let in
	row   *row
	place *list.Element // nil when it is out of line
}

// wait returns true when w has been let in, and false when nobody waits for that any more.
func (w *waiter) wait(ctx context.Context, patience time.Duration) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.ready:
		return true
	case <-ctx.Done():
	case <-timer.C:
	}
	return false
}

func (l *line) join(n *push.Notification, p *party) *waiter {
	lane := &l.lanes[rank(n)]
	i := slices.IndexFunc(*lane, func(r *row) bool { return r.of == p })
	if i < 0 {
		i = len(*lane)
		*lane = append(*lane, &row{of: p})
	}
	w := &waiter{n: n, ready: make(chan struct{}), row: (*lane)[i]}
	w.place = w.row.waiters.PushBack(w)
	l.length++
	return w
}

// serve lets in the next one whom the rule has room for, and returns whether there was one.
func (l *line) serve(r rule) bool {
	for _, lane := range l.lanes {
		for _, row := range lane {
			w := row.waiters.Front().Value.(*waiter)
			if _, ok := r.take(w.n, row.of); ok {
				l.leave(w)
				close(w.ready)
				return true
			}
		}
	}
	return false
}

// leave takes w out of line, and returns false if it is not in it any more. The row that it leaves goes to the end.
func (l *line) leave(w *waiter) bool {
	if w.place == nil {
		return false
	}
	w.row.waiters.Remove(w.place)
	w.place = nil
	l.length--
	lane := &l.lanes[rank(w.n)]
	*lane = slices.DeleteFunc(*lane, func(r *row) bool { return r == w.row })
	if w.row.waiters.Len() > 0 {
		*lane = append(*lane, w.row)
	}
	return true
}
