// SPDX-License-Identifier: Apache-2.0

package history

import (
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/engine"
)

// overlay is what the index does not hold yet: events that the stream has told and that are not committed, and our own
// that the stream has not told. Whoever reads looks here first and in the index then, so that nothing slips between.
type overlay struct {
	mu   sync.RWMutex
	told map[uuid.UUID][]*step // in the stream's order
	ours map[uuid.UUID][]*step // in the order in which they were appended
	keys map[string]*step      // those of both that carry a key, the newest of each
	seen uint64                // the last chunk that it told
	wait map[uint64]chan struct{}
}

func newOverlay() *overlay {
	return &overlay{
		told: map[uuid.UUID][]*step{}, ours: map[uuid.UUID][]*step{}, keys: map[string]*step{}, wait: map[uint64]chan struct{}{},
	}
}

// expect adds an event of ours that is about to be appended.
func (o *overlay) expect(steps ...*step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.ours[s.id] = append(o.ours[s.id], s)
		if s.keyHash != nil {
			o.keys[string(s.keyHash)] = s
		}
	}
}

// lost drops events of ours that could not be appended.
func (o *overlay) lost(steps []*step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.drop(o.ours, s)
	}
}

// tell adds what the stream told in chunk seq, ours among it, and lets those go on who waited for it.
func (o *overlay) tell(seq uint64, steps []*step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.told[s.id] = append(o.told[s.id], s)
		if i := slices.IndexFunc(o.ours[s.id], s.tells); i >= 0 {
			o.drop(o.ours, o.ours[s.id][i])
		}
		if s.keyHash != nil {
			o.keys[string(s.keyHash)] = s
		}
	}
	o.advance(seq)
}

// own returns the step at a place of the stream by its text: our own, which has been taken apart before, or one that is
// taken apart now.
func (o *overlay) own(at engine.Place, text []byte) (*step, error) {
	id, ok := idOf(text)
	if !ok {
		return newStep(at, text)
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, s := range o.ours[id] {
		if string(s.text) == string(text) {
			told := *s
			told.place, told.text = at, text
			return &told, nil
		}
	}
	return newStep(at, text)
}

// skip takes note that the stream tells nothing up to seq that was not told.
func (o *overlay) skip(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.advance(seq)
}

func (o *overlay) advance(seq uint64) {
	from := o.seen
	o.seen = max(from, seq)
	if seq == from+1 {
		o.arrive(seq)
		return
	}
	for due := range o.wait {
		if due <= seq {
			o.arrive(due)
		}
	}
}

func (o *overlay) arrive(seq uint64) {
	if c, ok := o.wait[seq]; ok {
		close(c)
		delete(o.wait, seq)
	}
}

// committed drops what is in the index now.
func (o *overlay) committed(steps []*step) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.drop(o.told, s)
	}
}

// drop takes s out of what is kept of its notification. Slices are never changed in place: readers hold them.
func (o *overlay) drop(from map[uuid.UUID][]*step, s *step) {
	kept := from[s.id]
	i := slices.Index(kept, s)
	switch {
	case i < 0:
		return
	case len(kept) == 1:
		delete(from, s.id)
	case i == 0:
		from[s.id] = kept[1:]
	default:
		from[s.id] = append(slices.Clone(kept[:i]), kept[i+1:]...)
	}
	if s.keyHash != nil && o.keys[string(s.keyHash)] == s {
		delete(o.keys, string(s.keyHash))
	}
}

// fresh is what the overlay holds of a notification: what the stream told, and behind it what is ours alone.
type fresh struct{ told, ours []*step }

// of returns what is fresh of each notification, and the last chunk that was told by then.
func (o *overlay) of(ids []uuid.UUID) (all []fresh, seen uint64) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	all = make([]fresh, len(ids))
	for i, id := range ids {
		all[i] = fresh{o.told[id], o.ours[id]}
	}
	return all, o.seen
}

// withKey returns the newest event with that key that is not in the index.
func (o *overlay) withKey(key []byte) *step {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.keys[string(key)]
}

// reach returns what is closed once the stream has told seq; nil if it has.
func (o *overlay) reach(seq uint64) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if seq <= o.seen {
		return nil
	}
	c, ok := o.wait[seq]
	if !ok {
		c = make(chan struct{})
		o.wait[seq] = c
	}
	return c
}

// restart forgets what the stream told: it tells it all again, from behind seq.
func (o *overlay) restart(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.told)
	o.seen = seq
	clear(o.keys)
	for _, steps := range o.ours {
		for _, s := range steps {
			if s.keyHash != nil {
				o.keys[string(s.keyHash)] = s
			}
		}
	}
}
