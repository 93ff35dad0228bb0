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
	of     map[sender]int // inside, by sender
	line   line
	shed   uint64
}

// rule says who may come in. It is asked under the door's lock.
type rule interface {
	// take takes a place for n, or returns why there is none.
	take(n *push.Notification) (cause push.Outcome, ok bool)
}

// sender is whose a notification is: what it takes is weighed against what the others have.
type sender struct {
	app      string
	platform push.Platform
}

func senderOf(n *push.Notification) sender { return sender{n.App, n.Platform} }

// Parts of a bound that the lanes may fill, the best first. Of its lane's part a patient notification leaves a tenth to
// those who cannot wait: else whoever waits would have every place that comes free.
var laneParts = [3]float64{1, 0.9, 0.8}

const patientPart = 0.9

func part(n *push.Notification) float64 {
	if n.Patient {
		return laneParts[rank(n)] * patientPart
	}
	return laneParts[rank(n)]
}

// rank is a lane's place: the lower goes first.
func rank(n *push.Notification) int {
	switch n.InLane() {
	case push.LaneCritical:
		return 0
	case push.LaneBulk:
		return 2
	default:
		return 1
	}
}

// enter has n come in, or returns why it cannot. Where there is no room a patient one waits for it, unless so many wait
// already; waited tells that it did.
func (d *door) enter(ctx context.Context, n *push.Notification, patience time.Duration, most int, r rule) (waited bool, cause push.Outcome, ok bool) {
	w, cause, ok := d.arrive(n, most, r)
	if w == nil {
		return false, cause, ok
	}
	if w.wait(ctx, patience) || !d.giveUp(w, ctx.Err()) {
		return true, push.Outcome{}, true
	}
	return true, departed(ctx, cause), false
}

// arrive takes a place for n, or puts it in line, or turns it away.
func (d *door) arrive(n *push.Notification, most int, r rule) (w *waiter, cause push.Outcome, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	cause, ok = r.take(n)
	switch {
	case ok:
	case n.Patient && d.line.length < most:
		w = d.line.join(n)
	default:
		d.shed++
	}
	return w, cause, ok
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

// in counts n as inside. d.mu is held.
func (d *door) in(n *push.Notification) {
	if d.of == nil {
		d.of = make(map[sender]int)
	}
	d.of[senderOf(n)]++
	d.inside++
}

// out counts n as gone, and lets those in who have waited for its place. d.mu is held.
func (d *door) out(n *push.Notification, r rule) {
	d.inside--
	s := senderOf(n)
	if d.of[s]--; d.of[s] == 0 {
		delete(d.of, s)
	}
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
	of      sender
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

func (l *line) join(n *push.Notification) *waiter {
	lane, of := &l.lanes[rank(n)], senderOf(n)
	i := slices.IndexFunc(*lane, func(r *row) bool { return r.of == of })
	if i < 0 {
		i = len(*lane)
		*lane = append(*lane, &row{of: of})
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
			if _, ok := r.take(w.n); ok {
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
