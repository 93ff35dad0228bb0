// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Turn is a place in line. Its holder waits for Ready as long as he can, and
// calls Leave if he goes before.
type Turn struct {
	app      string
	rank     int
	deadline time.Time
	ready    chan struct{}
	refused  time.Duration // written before ready is closed
	gone     bool          // out of line; guarded by the lock of the line that it stands in

	mu    sync.Mutex
	lines []*line // those still to pass; the first is the one that it stands in
}

func newTurn(n *push.Notification, lines []*line, patience time.Duration) *Turn {
	t := &Turn{app: n.App, rank: rank(n), lines: lines, ready: make(chan struct{})}
	t.deadline = time.Now().Add(min(patience, mostClosed))
	return t
}

// Ready is closed when the turn has come, or never will.
func (t *Turn) Ready() <-chan struct{} { return t.ready }

// Refused returns, after Ready, how long to stay away; 0 when the turn has
// come.
func (t *Turn) Refused() time.Duration { return t.refused }

// Leave gives the place in line to those behind. One that comes up in the same
// moment is lost.
func (t *Turn) Leave() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) > 0 {
		t.lines[0].forget(t)
	}
	t.lines = nil
}

// move goes on to the next line, which may let it through at once.
func (t *Turn) move() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return // has left
	}
	t.lines = t.lines[1:]
	if wait, queued, _ := t.pass(); !queued {
		t.settle(wait)
	}
}

// pass goes through lines until one of them makes it wait or refuses it. t.mu
// is held.
func (t *Turn) pass() (wait time.Duration, queued, ok bool) {
	for ; len(t.lines) > 0; t.lines = t.lines[1:] {
		if wait, queued, ok = t.lines[0].enter(t); queued || !ok {
			return wait, queued, ok
		}
	}
	return 0, false, true
}

func (t *Turn) settle(refused time.Duration) {
	t.refused = refused
	close(t.ready)
}
