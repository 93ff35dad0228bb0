// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/fairqueue"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// ConcurrencyLimit bounds the number of notifications that the whole gateway handles at a time,
// including those that wait for a rate limit, an endpoint, a response or a retry. It bounds the
// memory and, if the machine is overloaded, the latency.
//
// Lane bulk may use 80 % of the limit, normal 90 % and critical all of it; notifications with CanQueue
// get nine tenths of that. A flow, which is an app on a platform, may have at most four times as many
// notifications in flight as its lane has free: a single flow can use 80 % of its lane's part of the
// limit, two flows four ninths each. Stuck flows therefore cannot use up the limit. These are the
// dynamic thresholds of shared-memory switches (Choudhury and Hahne, 1998). Notifications with
// CanQueue wait, at most Max at a time; others are shed immediately.
//
// The zero value has the defaults; a nil ConcurrencyLimit sets no limit. A ConcurrencyLimit must
// not be copied after first use.
type ConcurrencyLimit struct {
	// Max is the limit; default 10000, about 350 MB with the callers' connections.
	Max int

	mu       sync.Mutex
	inFlight int
	flows    map[flowKey]int // notifications in flight, at least 1
	queue    fairqueue.Queue[flowKey, *waiter]
	waiting  int // notifications in queue
	shed     uint64
}

// flowKey identifies the flow of a notification.
type flowKey struct {
	app      string
	platform push.Platform
}

func flowOf(c *push.Call) flowKey { return flowKey{c.App, c.Platform} }

// waiter is a run that waits: one or more notifications like call.
type waiter struct {
	call    *push.Call
	count   int
	ready   chan struct{} // closed when the run has places
	granted int           // places; set before ready is closed
}

const (
	// thresholdFactor is the maximum ratio of what a flow has in flight to what is free.
	thresholdFactor = 4
	// queueableFraction is the part of a lane's fraction that notifications with CanQueue may use.
	// Without it, queued notifications would take every free place and notifications that cannot
	// wait would get none.
	queueableFraction = 0.9
)

// acquire waits for places for count notifications like c, and returns for how many of them, at least
// one. Each place must be released. It returns a *push.RejectedError if the limit rejects them, after
// at most maxWait if they can queue and not too many wait.
func (l *ConcurrencyLimit) acquire(ctx context.Context, c *push.Call, count int, maxWait time.Duration) (granted int, err error) {
	if l == nil {
		return count, nil
	}
	item, granted := l.startOrQueue(c, count)
	switch {
	case item != nil && fairqueue.Wait(ctx, item.Value.ready, maxWait), item != nil && !l.leave(ctx, item):
		return item.Value.granted, nil
	case granted > 0:
		return granted, nil
	}
	full := &push.Outcome{Verdict: push.Unsent, Reason: reasonGatewayFull, RetryAfter: time.Second}
	return 0, &push.RejectedError{Outcome: *orAbandoned(ctx, full)}
}

// startOrQueue starts some of count notifications like c. If none can start, it queues or sheds them.
func (l *ConcurrencyLimit) startOrQueue(c *push.Call, count int) (item *fairqueue.Item[flowKey, *waiter], granted int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	granted = l.start(c, count)
	switch {
	case granted > 0:
	case c.CanQueue && l.waiting+count <= l.limit():
		item = l.queue.Push(c.Lane.Priority(), flowOf(c), 1, &waiter{call: c, count: count, ready: make(chan struct{})})
		l.waiting += count
	case count == 1: // a run that is rejected is not shed: its notifications are tried one by one
		l.shed++
	}
	return item, granted
}

// leave ends the wait of a run, and returns false if it got places before.
func (l *ConcurrencyLimit) leave(ctx context.Context, item *fairqueue.Item[flowKey, *waiter]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.queue.Remove(item) {
		return false
	}
	l.waiting -= item.Value.count
	if item.Value.count == 1 && !errors.Is(ctx.Err(), context.Canceled) {
		l.shed++
	}
	return true
}

// start starts up to count notifications like c, and returns how many. l.mu is held.
func (l *ConcurrencyLimit) start(c *push.Call, count int) (granted int) {
	if l.flows == nil {
		l.flows = make(map[flowKey]int)
	}
	flow, usable := flowOf(c), float64(l.limit())*(1-0.1*float64(c.Lane.Priority()))
	if c.CanQueue {
		usable *= queueableFraction
	}
	for own := l.flows[flow]; granted < count; granted++ {
		if free := usable - float64(l.inFlight+granted); float64(own+granted) >= thresholdFactor*free {
			break
		}
	}
	if granted > 0 {
		l.flows[flow] += granted
		l.inFlight += granted
	}
	return granted
}

// release ends count notifications like c and starts waiters.
func (l *ConcurrencyLimit) release(c *push.Call, count int) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	flow := flowOf(c)
	if l.flows[flow] -= count; l.flows[flow] == 0 {
		delete(l.flows, flow)
	}
	l.inFlight -= count
	start := func(w *waiter) int {
		w.granted = l.start(w.call, w.count)
		return w.granted
	}
	for item := l.queue.Pop(start); item != nil; item = l.queue.Pop(start) {
		l.waiting -= item.Value.count
		close(item.Value.ready)
	}
}

func (l *ConcurrencyLimit) limit() int { return cmp.Or(l.Max, 10_000) }

// Status returns the current state.
func (l *ConcurrencyLimit) Status() pool.LimitStatus {
	if l == nil {
		return pool.LimitStatus{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return pool.LimitStatus{Limit: l.limit(), InFlight: l.inFlight, Waiting: l.waiting, Shed: l.shed}
}
