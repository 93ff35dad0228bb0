// SPDX-License-Identifier: Apache-2.0

package history

import "sync"

// notifier tells those who follow a feed that the index has something new for them.
type notifier struct {
	mu      sync.Mutex
	lastSeq map[string]uint64 // the same of each app
	waiters map[string]chan struct{}
}

func newNotifier() *notifier {
	return &notifier{lastSeq: map[string]uint64{}, waiters: map[string]chan struct{}{}}
}

// notify tells of a batch that has been committed. The app "" is all of them.
func (t *notifier) notify(batch []*message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range batch {
		for _, app := range [...]string{c.app, ""} {
			t.lastSeq[app] = max(t.lastSeq[app], c.seq)
			if wait, ok := t.waiters[app]; ok {
				close(wait)
				delete(t.waiters, app)
			}
		}
	}
}

// waitAbove returns nil if the app has a chunk above seq, and what is closed at its next one otherwise.
func (t *notifier) waitAbove(app string, seq uint64) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lastSeq[app] > seq {
		return nil
	}
	wait, ok := t.waiters[app]
	if !ok {
		wait = make(chan struct{})
		t.waiters[app] = wait
	}
	return wait
}

// reset forgets what has been committed: the index is made anew.
func (t *notifier) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.lastSeq)
}
