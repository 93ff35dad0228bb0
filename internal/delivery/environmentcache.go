// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// EnvironmentCache remembers in which environment a token was found that the app's own does not know, and which tokens are
// known in neither. One notification at a time looks for a token; those that come meanwhile wait for what it finds, so
// that a burst to one token costs one refusal and all of it goes the same way.
type EnvironmentCache struct {
	// Keep is how long it is remembered; default 24h.
	TTL time.Duration
	// Most is how many tokens are remembered, about 200 bytes each; default 100000. Beyond it the longest known is forgotten.
	MaxEntries int

	cache tokenCache[push.Environment]

	mu    sync.Mutex
	calls map[uint64]*call
}

// call is under way until ended is closed. home does not change then.
type call struct {
	done        chan struct{}
	environment push.Environment // "" where the search found no answer
}

func (w *EnvironmentCache) key(n *push.Notification) uint64 { return w.cache.key(n) }

func (w *EnvironmentCache) remove(key uint64) { w.cache.remove(key) }

// get returns where the token is, once nobody looks for it any more. Without an answer the caller looks himself, and
// tells; first means that others wait for him. Those for whom a search ended without an answer do not wait again: in a
// provider's trouble they would wait for each other in turn.
func (w *EnvironmentCache) get(ctx context.Context, key uint64) (home push.Environment, first bool) {
	home, under := w.getOrStart(key)
	switch {
	case home != "":
		return home, false
	case under == nil:
		return "", true
	}
	select {
	case <-under.done:
		return under.environment, false
	case <-ctx.Done():
		return "", false
	}
}

// getOrStart returns where the token is, or the search that is under way, and begins one where there is neither.
func (w *EnvironmentCache) getOrStart(key uint64) (home push.Environment, under *call) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if home, ok := w.cache.get(key, cmp.Or(w.TTL, 24*time.Hour)); ok {
		return home, nil
	}
	if under, ok := w.calls[key]; ok {
		return "", under
	}
	if w.calls == nil {
		w.calls = make(map[uint64]*call)
	}
	w.calls[key] = &call{done: make(chan struct{})}
	return "", nil
}

// finish notes what a search has found. What is worth it is remembered: that most tokens are where they are thought to be
// is not. first is what ask said.
func (w *EnvironmentCache) finish(key uint64, home push.Environment, worth, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if home != "" && worth {
		w.cache.put(key, home, cmp.Or(w.MaxEntries, 100_000))
	}
	if first {
		under := w.calls[key]
		delete(w.calls, key)
		under.environment = home
		close(under.done)
	}
}
