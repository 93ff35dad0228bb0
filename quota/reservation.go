// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Reservation is a place in line. Its holder waits for Ready as long as he can, and
// calls Leave if he goes before.
type Reservation struct {
	app        string
	priority   int
	deadline   time.Time
	ready      chan struct{}
	retryAfter time.Duration // written before ready is closed
	removed    bool          // out of line; guarded by the lock of the line that it stands in

	mu        sync.Mutex
	remaining []*scopeLimiter // those still to pass; the first is the one that it stands in
}

func newReservation(n *push.Notification, lines []*scopeLimiter, patience time.Duration) *Reservation {
	t := &Reservation{app: n.App, priority: lanePriority(n), remaining: lines, ready: make(chan struct{})}
	t.deadline = time.Now().Add(min(patience, maxClosed))
	return t
}

// Ready is closed when the turn has come, or never will.
func (t *Reservation) Ready() <-chan struct{} { return t.ready }

// RetryAfter returns, after Ready, how long to stay away; 0 when the turn has
// come.
func (t *Reservation) RetryAfter() time.Duration { return t.retryAfter }

// Cancel gives the place in line to those behind. One that comes up in the same
// moment is lost.
func (t *Reservation) Cancel() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.remaining) > 0 {
		t.remaining[0].cancel(t)
	}
	t.remaining = nil
}

// advance goes on to the next line, which may let it through at once.
func (t *Reservation) advance() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.remaining) == 0 {
		return // has left
	}
	t.remaining = t.remaining[1:]
	if wait, queued, _ := t.acquireNext(); !queued {
		t.resolve(wait)
	}
}

// acquireNext goes through lines until one of them makes it wait or refuses it. t.mu
// is held.
func (t *Reservation) acquireNext() (wait time.Duration, queued, ok bool) {
	for ; len(t.remaining) > 0; t.remaining = t.remaining[1:] {
		if wait, queued, ok = t.remaining[0].reserve(t); queued || !ok {
			return wait, queued, ok
		}
	}
	return 0, false, true
}

func (t *Reservation) resolve(refused time.Duration) {
	t.retryAfter = refused
	close(t.ready)
}
