// SPDX-License-Identifier: Apache-2.0

package history

import "sync"

// tide tells those who follow a feed that the index has something new for them.
type tide struct {
	mu   sync.Mutex
	apps map[string]uint64 // the same of each app
	wait map[string]chan struct{}
}

func newTide() *tide { return &tide{apps: map[string]uint64{}, wait: map[string]chan struct{}{}} }

// rise tells of a batch that has been committed. The app "" is all of them.
func (t *tide) rise(batch []*chunk) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range batch {
		for _, app := range [...]string{c.app, ""} {
			t.apps[app] = max(t.apps[app], c.seq)
			if wait, ok := t.wait[app]; ok {
				close(wait)
				delete(t.wait, app)
			}
		}
	}
}

// above returns nil if the app has a chunk above seq, and what is closed at its next one otherwise.
func (t *tide) above(app string, seq uint64) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.apps[app] > seq {
		return nil
	}
	wait, ok := t.wait[app]
	if !ok {
		wait = make(chan struct{})
		t.wait[app] = wait
	}
	return wait
}

// ebb forgets what has been committed: the index is made anew.
func (t *tide) ebb() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.apps)
}
