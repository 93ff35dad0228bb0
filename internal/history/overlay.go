// SPDX-License-Identifier: Apache-2.0

package history

import (
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// overlay is what the index does not hold yet: events that the stream has told and that are not committed, and our own
// that the stream has not told. Whoever reads looks here first and in the index then, so that nothing slips between.
type overlay struct {
	mu       sync.RWMutex
	received map[uuid.UUID][]*eventHeader // in the stream's order
	pending  map[uuid.UUID][]*eventHeader // in the order in which they were appended
	keys     map[string]*eventHeader      // those of both that carry a key, the newest of each
	lastSeq  uint64                       // the last chunk that it told
	waiters  map[uint64]chan struct{}
}

func newOverlay() *overlay {
	return &overlay{
		received: map[uuid.UUID][]*eventHeader{}, pending: map[uuid.UUID][]*eventHeader{}, keys: map[string]*eventHeader{}, waiters: map[uint64]chan struct{}{},
	}
}

// addPending adds an event of ours that is about to be appended.
func (o *overlay) addPending(steps ...*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.pending[s.id] = append(o.pending[s.id], s)
		if s.keyHash != nil {
			o.keys[string(s.keyHash)] = s
		}
	}
}

// removePending drops events of ours that could not be appended.
func (o *overlay) removePending(steps []*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.remove(o.pending, s)
	}
}

// receive adds what the stream told in chunk seq, ours among it, and lets those go on who waited for it.
func (o *overlay) receive(seq uint64, steps []*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.received[s.id] = append(o.received[s.id], s)
		if i := slices.IndexFunc(o.pending[s.id], s.sameEvent); i >= 0 {
			o.remove(o.pending, o.pending[s.id][i])
		}
		if s.keyHash != nil {
			o.keys[string(s.keyHash)] = s
		}
	}
	o.advance(seq)
}

// parse returns the step at a place of the stream by its text: our own, which has been taken apart before, or one that is
// taken apart now.
func (o *overlay) parse(at jetstream.Offset, text []byte) (*eventHeader, error) {
	id, ok := parseID(text)
	if !ok {
		return newEventHeader(at, text)
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, s := range o.pending[id] {
		if string(s.text) == string(text) {
			told := *s
			told.offset, told.text = at, text
			return &told, nil
		}
	}
	return newEventHeader(at, text)
}

// skip takes note that the stream tells nothing up to seq that was not told.
func (o *overlay) skip(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.advance(seq)
}

func (o *overlay) advance(seq uint64) {
	from := o.lastSeq
	o.lastSeq = max(from, seq)
	if seq == from+1 {
		o.wake(seq)
		return
	}
	for due := range o.waiters {
		if due <= seq {
			o.wake(due)
		}
	}
}

func (o *overlay) wake(seq uint64) {
	if c, ok := o.waiters[seq]; ok {
		close(c)
		delete(o.waiters, seq)
	}
}

// removeCommitted drops what is in the index now.
func (o *overlay) removeCommitted(steps []*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range steps {
		o.remove(o.received, s)
	}
}

// remove takes s out of what is kept of its notification. Slices are never changed in place: readers hold them.
func (o *overlay) remove(from map[uuid.UUID][]*eventHeader, s *eventHeader) {
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

// uncommitted is what the overlay holds of a notification: what the stream told, and behind it what is ours alone.
type uncommitted struct{ received, pending []*eventHeader }

// lookup returns what is fresh of each notification, and the last chunk that was told by then.
func (o *overlay) lookup(ids []uuid.UUID) (all []uncommitted, seen uint64) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	all = make([]uncommitted, len(ids))
	for i, id := range ids {
		all[i] = uncommitted{o.received[id], o.pending[id]}
	}
	return all, o.lastSeq
}

// byKey returns the newest event with that key that is not in the index.
func (o *overlay) byKey(key []byte) *eventHeader {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.keys[string(key)]
}

// waitFor returns what is closed once the stream has told seq; nil if it has.
func (o *overlay) waitFor(seq uint64) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if seq <= o.lastSeq {
		return nil
	}
	c, ok := o.waiters[seq]
	if !ok {
		c = make(chan struct{})
		o.waiters[seq] = c
	}
	return c
}

// reset forgets what the stream told: it tells it all again, from behind seq.
func (o *overlay) reset(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.received)
	o.lastSeq = seq
	clear(o.keys)
	for _, steps := range o.pending {
		for _, s := range steps {
			if s.keyHash != nil {
				o.keys[string(s.keyHash)] = s
			}
		}
	}
}
