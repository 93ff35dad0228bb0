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

// fairQueue counts those inside, and holds those who wait to come in. Whether there is room is for its rule to say.
type fairQueue struct {
	mu       sync.Mutex
	inFlight int
	usages   map[flowKey]*usage
	queue    queue
	shed     uint64
}

// admitter says who may come in. It is asked under the door's lock.
type admitter interface {
	// take takes a place for n, which is of p, or returns why there is none.
	admit(n *push.Notification, p *usage) (cause push.Outcome, ok bool)
}

// flowKey is whose a notification is: what it takes is weighed against what the others have.
type flowKey struct {
	app      string
	platform push.Platform
}

// usage is what one sender has inside. It stays when nothing is left of it: there are as many as apps are configured.
type usage struct {
	key      flowKey
	inFlight int
}

// Parts of a bound that the lanes may fill, the best first. Of its lane's part a patient notification leaves a tenth to
// those who cannot wait: else whoever waits would have every place that comes free.
var laneFractions = [3]float64{1, 0.9, 0.8}

const queueableFraction = 0.9

func limitFraction(n *push.Notification) float64 {
	if n.CanQueue {
		return laneFractions[lanePriority(n)] * queueableFraction
	}
	return laneFractions[lanePriority(n)]
}

// lanePriority is a lane's place: the lower goes first.
func lanePriority(n *push.Notification) int {
	switch n.EffectiveLane() {
	case push.LaneCritical:
		return 0
	case push.LaneBulk:
		return 2
	default:
		return 1
	}
}

// acquire has n come in, or returns why it cannot. Where there is no room a patient one waits for it, unless so many wait
// already; waited tells that it did. p is whom it belongs to inside, and nil if it is not.
func (d *fairQueue) acquire(ctx context.Context, n *push.Notification, patience time.Duration, most int, r admitter) (p *usage, waited bool, cause push.Outcome) {
	p, w, cause := d.admitOrQueue(n, most, r)
	if w == nil {
		return p, false, cause
	}
	if w.wait(ctx, patience) || !d.cancel(w, ctx.Err()) {
		return w.flow.usage, true, push.Outcome{}
	}
	return nil, true, orAbandoned(ctx, cause)
}

// admitOrQueue takes a place for n, or puts it in line, or turns it away.
func (d *fairQueue) admitOrQueue(n *push.Notification, most int, r admitter) (inside *usage, w *waiter, cause push.Outcome) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.usageOf(n)
	cause, ok := r.admit(n, p)
	switch {
	case ok:
		return p, nil, cause
	case n.CanQueue && d.queue.length < most:
		return nil, d.queue.enqueue(n, p), cause
	default:
		d.shed++
		return nil, nil, cause
	}
}

// usageOf returns the one that n is of. d.mu is held.
func (d *fairQueue) usageOf(n *push.Notification) *usage {
	of := flowKey{n.App, n.Platform}
	p, known := d.usages[of]
	if !known {
		if d.usages == nil {
			d.usages = make(map[flowKey]*usage)
		}
		p = &usage{key: of}
		d.usages[of] = p
	}
	return p
}

// cancel takes w out of line, and returns false if it was let in meanwhile.
func (d *fairQueue) cancel(w *waiter, why error) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.queue.remove(w) {
		return false
	}
	if !errors.Is(why, context.Canceled) {
		d.shed++
	}
	return true
}

// start counts one of p as inside. d.mu is held.
func (d *fairQueue) start(p *usage) {
	p.inFlight++
	d.inFlight++
}

// finish counts one of p as gone, and lets those in who have waited for its place. d.mu is held.
func (d *fairQueue) finish(p *usage, r admitter) {
	p.inFlight--
	d.inFlight--
	for d.queue.dispatch(r) {
	}
}

// queue is those who wait at a door: the better lane first, and within a lane each sender in turn.
type queue struct {
	lanes  [3][]*flowQueue
	length int
}

// flowQueue is those of one sender in one lane, in the order in which they came.
type flowQueue struct {
	usage   *usage
	waiters list.List // of *waiter
}

type waiter struct {
	n       *push.Notification
	ready   chan struct{} // closed when it has been let in
	flow    *flowQueue
	element *list.Element // nil when it is out of line
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

func (l *queue) enqueue(n *push.Notification, p *usage) *waiter {
	lane := &l.lanes[lanePriority(n)]
	i := slices.IndexFunc(*lane, func(r *flowQueue) bool { return r.usage == p })
	if i < 0 {
		i = len(*lane)
		*lane = append(*lane, &flowQueue{usage: p})
	}
	w := &waiter{n: n, ready: make(chan struct{}), flow: (*lane)[i]}
	w.element = w.flow.waiters.PushBack(w)
	l.length++
	return w
}

// dispatch lets in the next one whom the rule has room for, and returns whether there was one.
func (l *queue) dispatch(r admitter) bool {
	for _, lane := range l.lanes {
		for _, row := range lane {
			w := row.waiters.Front().Value.(*waiter)
			if _, ok := r.admit(w.n, row.usage); ok {
				l.remove(w)
				close(w.ready)
				return true
			}
		}
	}
	return false
}

// remove takes w out of line, and returns false if it is not in it any more. The row that it leaves goes to the end.
func (l *queue) remove(w *waiter) bool {
	if w.element == nil {
		return false
	}
	w.flow.waiters.Remove(w.element)
	w.element = nil
	l.length--
	lane := &l.lanes[lanePriority(w.n)]
	*lane = slices.DeleteFunc(*lane, func(r *flowQueue) bool { return r == w.flow })
	if w.flow.waiters.Len() > 0 {
		*lane = append(*lane, w.flow)
	}
	return true
}
