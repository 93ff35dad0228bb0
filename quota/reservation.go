// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/fairqueue"
	"github.com/sluice-push/sluice/push"
)

// Reservation is a place in the queue of a RateLimiter. Its holder waits for Ready, or calls Cancel
// if it stops waiting earlier.
type Reservation struct {
	app        string
	priority   int
	deadline   time.Time
	ready      chan struct{}
	retryAfter time.Duration                         // set before ready is closed
	item       *fairqueue.Item[string, *Reservation] // guarded by the lock of remaining[0]

	mu        sync.Mutex
	remaining []*scopeLimiter // limiters to pass; r waits in the first one
}

func newReservation(n *push.Notification, limiters []*scopeLimiter, maxWait time.Duration) *Reservation {
	r := &Reservation{app: n.App, priority: lanePriority(n), remaining: limiters, ready: make(chan struct{})}
	r.deadline = time.Now().Add(min(maxWait, maxClosed))
	return r
}

// Ready returns a channel that is closed when the attempt is allowed or rejected.
func (r *Reservation) Ready() <-chan struct{} { return r.ready }

// RetryAfter returns 0 if the attempt is allowed, and otherwise when to try again. Call it after
// Ready is closed.
func (r *Reservation) RetryAfter() time.Duration { return r.retryAfter }

// Cancel removes the reservation from the queue. If the reservation becomes ready at the same time,
// its token is lost.
func (r *Reservation) Cancel() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.remaining) > 0 {
		r.remaining[0].cancel(r)
	}
	r.remaining = nil
}

// advance continues with the next limiter, which may allow the attempt immediately.
func (r *Reservation) advance() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.remaining) == 0 {
		return // cancelled
	}
	r.remaining = r.remaining[1:]
	if wait, queued, _ := r.acquireNext(); !queued {
		r.resolve(wait)
	}
}

// acquireNext passes limiters until one of them queues or rejects the reservation. r.mu is held.
func (r *Reservation) acquireNext() (wait time.Duration, queued, ok bool) {
	for ; len(r.remaining) > 0; r.remaining = r.remaining[1:] {
		if wait, queued, ok = r.remaining[0].reserve(r); queued || !ok {
			return wait, queued, ok
		}
	}
	return 0, false, true
}

func (r *Reservation) resolve(retryAfter time.Duration) {
	r.retryAfter = retryAfter
	close(r.ready)
}
