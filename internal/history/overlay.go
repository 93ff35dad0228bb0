// SPDX-License-Identifier: Apache-2.0

package history

import (
	"maps"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
)

// overlay holds the events that are not in the index yet: those received from the stream but not
// committed, and those appended by this gateway but not received. Queries read the overlay before
// the index, so that they miss no event.
type overlay struct {
	mu       sync.RWMutex
	received map[uuid.UUID][]*eventHeader // in the stream's order
	pending  map[uuid.UUID][]*eventHeader // appended but not received, in order
	keys     map[string]*eventHeader      // the newest event of each key, from received and pending
	lastSeq  uint64                       // the last message received
	waiters  map[uint64]chan struct{}
}

func newOverlay() *overlay {
	return &overlay{
		received: map[uuid.UUID][]*eventHeader{}, pending: map[uuid.UUID][]*eventHeader{}, keys: map[string]*eventHeader{}, waiters: map[uint64]chan struct{}{},
	}
}

// addPending adds events that are about to be appended.
func (o *overlay) addPending(headers ...*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, hdr := range headers {
		o.pending[hdr.id] = append(o.pending[hdr.id], hdr)
		if hdr.keyHash != nil {
			o.keys[string(hdr.keyHash)] = hdr
		}
	}
}

// removePending removes events that could not be appended.
func (o *overlay) removePending(headers []*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, hdr := range headers {
		o.remove(o.pending, hdr)
	}
}

// receive adds the events of message seq and wakes the goroutines that wait for it. Pending events
// among them are no longer pending.
func (o *overlay) receive(seq uint64, headers []*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if seq <= o.lastSeq { // it was not committed, and the stream is read again
		return
	}
	for _, hdr := range headers {
		o.received[hdr.id] = append(o.received[hdr.id], hdr)
		if i := slices.IndexFunc(o.pending[hdr.id], hdr.sameEvent); i >= 0 {
			o.remove(o.pending, o.pending[hdr.id][i])
		}
		if hdr.keyHash != nil {
			o.keys[string(hdr.keyHash)] = hdr
		}
	}
	o.advance(seq)
}

// stored removes the pending events that are records of a stored message of a log.
func (o *overlay) stored(m *jetstream.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.pending) == 0 {
		return
	}
	for _, r := range m.Records {
		if !record.IsRecord(r.Data) {
			continue
		}
		h, err := record.ParseHeader(r.Data)
		if err != nil {
			continue
		}
		i := slices.IndexFunc(o.pending[h.ID], func(hdr *eventHeader) bool { return string(hdr.text) == string(r.Data) })
		if i >= 0 {
			o.remove(o.pending, o.pending[h.ID][i])
		}
	}
}

// parse returns the header of an event of the stream. For a pending event it copies the existing
// header instead of parsing the text again.
func (o *overlay) parse(offset jetstream.Offset, text []byte) (*eventHeader, error) {
	id, ok := parseID(text)
	if !ok {
		return newEventHeader(offset, text)
	}
	o.mu.RLock()
	defer o.mu.RUnlock()
	for _, hdr := range o.pending[id] {
		if string(hdr.text) == string(text) {
			parsed := *hdr
			parsed.offset, parsed.text = offset, text
			return &parsed, nil
		}
	}
	return newEventHeader(offset, text)
}

// skip records that there is no further message up to seq.
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
	for waiting := range o.waiters {
		if waiting <= seq {
			o.wake(waiting)
		}
	}
}

func (o *overlay) wake(seq uint64) {
	if ch, ok := o.waiters[seq]; ok {
		close(ch)
		delete(o.waiters, seq)
	}
}

// removeCommitted removes events that are now in the index.
func (o *overlay) removeCommitted(headers []*eventHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, hdr := range headers {
		o.remove(o.received, hdr)
	}
}

// remove removes an event: hdr itself, or the one at its offset, which is another copy if the stream was
// read again. It never changes a slice in place, because readers may hold it.
func (o *overlay) remove(from map[uuid.UUID][]*eventHeader, hdr *eventHeader) {
	headers := from[hdr.id]
	i := slices.IndexFunc(headers, func(other *eventHeader) bool {
		return other == hdr || hdr.offset.Seq > 0 && other.offset == hdr.offset
	})
	if i >= 0 {
		hdr = headers[i]
	}
	switch {
	case i < 0:
		return
	case len(headers) == 1:
		delete(from, hdr.id)
	case i == 0:
		from[hdr.id] = headers[1:]
	default:
		from[hdr.id] = append(slices.Clone(headers[:i]), headers[i+1:]...)
	}
	if hdr.keyHash != nil && o.keys[string(hdr.keyHash)] == hdr {
		delete(o.keys, string(hdr.keyHash))
	}
}

// uncommitted holds the events of a notification in the overlay: first the received, then the
// pending ones.
type uncommitted struct{ received, pending []*eventHeader }

// lookup returns the uncommitted events of notifications, and the last message received.
func (o *overlay) lookup(ids []uuid.UUID) (overlays []uncommitted, lastSeq uint64) {
	o.mu.RLock()
	defer o.mu.RUnlock()
	overlays = make([]uncommitted, len(ids))
	for i, id := range ids {
		overlays[i] = uncommitted{o.received[id], o.pending[id]}
	}
	return overlays, o.lastSeq
}

// ids returns the IDs of all notifications with uncommitted events.
func (o *overlay) ids() []uuid.UUID {
	o.mu.RLock()
	defer o.mu.RUnlock()
	ids := slices.Collect(maps.Keys(o.received))
	return slices.AppendSeq(ids, maps.Keys(o.pending))
}

// byKey returns the newest uncommitted event with the key, or nil.
func (o *overlay) byKey(key []byte) *eventHeader {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.keys[string(key)]
}

// waitFor returns a channel that is closed when message seq is received, or nil if it already is.
func (o *overlay) waitFor(seq uint64) <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if seq <= o.lastSeq {
		return nil
	}
	ch, ok := o.waiters[seq]
	if !ok {
		ch = make(chan struct{})
		o.waiters[seq] = ch
	}
	return ch
}

// reset removes the received events. The stream is read again from after seq.
func (o *overlay) reset(seq uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.received)
	o.lastSeq = seq
	clear(o.keys)
	for _, headers := range o.pending {
		for _, hdr := range headers {
			if hdr.keyHash != nil {
				o.keys[string(hdr.keyHash)] = hdr
			}
		}
	}
}
