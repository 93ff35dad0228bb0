// SPDX-License-Identifier: Apache-2.0

package history

import "sync"

// notifier wakes feeds when new messages are in the index.
type notifier struct {
	mu      sync.Mutex
	lastSeq map[string]uint64 // last committed message by app; "" stands for all apps
	waiters map[string]chan struct{}
}

func newNotifier() *notifier {
	return &notifier{lastSeq: map[string]uint64{}, waiters: map[string]chan struct{}{}}
}

// notifyApps announces a stored message with events of these apps.
func (n *notifier) notifyApps(seq uint64, apps []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, app := range apps {
		n.announce(app, seq)
	}
	n.announce("", seq)
}

func (n *notifier) announce(app string, seq uint64) {
	n.lastSeq[app] = max(n.lastSeq[app], seq)
	if ch, ok := n.waiters[app]; ok {
		close(ch)
		delete(n.waiters, app)
	}
}

// waitAbove returns nil if the app has a message after seq, and otherwise a channel that is closed
// when one is committed.
func (n *notifier) waitAbove(app string, seq uint64) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.lastSeq[app] > seq {
		return nil
	}
	ch, ok := n.waiters[app]
	if !ok {
		ch = make(chan struct{})
		n.waiters[app] = ch
	}
	return ch
}
