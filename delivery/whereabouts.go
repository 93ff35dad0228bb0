// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Whereabouts remembers in which environment a token was found that the app's own does not know, and which tokens are
// known in neither. One notification at a time looks for a token; those that come meanwhile wait for what it finds, so
// that a burst to one token costs one refusal and all of it goes the same way.
type Whereabouts struct {
	// Keep is how long it is remembered; default 24h.
	Keep time.Duration
	// Most is how many tokens are remembered, about 200 bytes each; default 100000. Beyond it the longest known is forgotten.
	Most int

	homes memory[push.Environment]

	mu       sync.Mutex
	searches map[uint64]*search
}

// search is under way until ended is closed. home does not change then.
type search struct {
	ended chan struct{}
	home  push.Environment // "" where the search found no answer
}

func (w *Whereabouts) key(n *push.Notification) uint64 { return w.homes.key(n) }

func (w *Whereabouts) forget(key uint64) { w.homes.forget(key) }

// ask returns where the token is, once nobody looks for it any more. Without an answer the caller looks himself, and
// tells; first means that others wait for him. Those for whom a search ended without an answer do not wait again: in a
// provider's trouble they would wait for each other in turn.
func (w *Whereabouts) ask(ctx context.Context, key uint64) (home push.Environment, first bool) {
	home, under := w.join(key)
	switch {
	case home != "":
		return home, false
	case under == nil:
		return "", true
	}
	select {
	case <-under.ended:
		return under.home, false
	case <-ctx.Done():
		return "", false
	}
}

// join returns where the token is, or the search that is under way, and begins one where there is neither.
func (w *Whereabouts) join(key uint64) (home push.Environment, under *search) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if home, ok := w.homes.recall(key, cmp.Or(w.Keep, 24*time.Hour)); ok {
		return home, nil
	}
	if under, ok := w.searches[key]; ok {
		return "", under
	}
	if w.searches == nil {
		w.searches = make(map[uint64]*search)
	}
	w.searches[key] = &search{ended: make(chan struct{})}
	return "", nil
}

// tell notes what a search has found. What is worth it is remembered: that most tokens are where they are thought to be
// is not. first is what ask said.
func (w *Whereabouts) tell(key uint64, home push.Environment, worth, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if home != "" && worth {
		w.homes.keep(key, home, cmp.Or(w.Most, 100_000))
	}
	if first {
		under := w.searches[key]
		delete(w.searches, key)
		under.home = home
		close(under.ended)
	}
}
