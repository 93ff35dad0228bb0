// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// hand is a chunk that this gateway is at.
type hand struct {
	msg   jetstream.Msg
	key   handKey
	again bool // somebody has been at it before
}

type handKey struct {
	stream string
	seq    uint64
}

// hands are the chunks that this gateway is at.
type hands struct {
	mu   sync.Mutex
	held map[handKey]*hand
}

// take takes msg on hand. It returns nil if it is there already: it was given to us twice because we were silent for too
// long.
func (h *hands) take(msg jetstream.Msg) *hand {
	meta, err := msg.Metadata()
	if err != nil {
		return nil // no message of a consumer's
	}
	one := &hand{msg: msg, key: handKey{meta.Stream, meta.Sequence.Stream}, again: meta.NumDelivered > 1}
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.held[one.key]; held != nil {
		held.msg = msg // its acks are the ones that count now
		return nil
	}
	if h.held == nil {
		h.held = map[handKey]*hand{}
	}
	h.held[one.key] = one
	return one
}

func (h *hands) drop(one *hand) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, one.key)
}

// message is the last delivery of a chunk on hand.
func (h *hands) message(one *hand) jetstream.Msg {
	h.mu.Lock()
	defer h.mu.Unlock()
	return one.msg
}

func (h *hands) messages() []jetstream.Msg {
	h.mu.Lock()
	defer h.mu.Unlock()
	msgs := make([]jetstream.Msg, 0, len(h.held))
	for _, one := range h.held {
		msgs = append(msgs, one.msg)
	}
	return msgs
}

// beat tells the engine again and again that what is on hand is being worked on.
func (q *Queue) beat(drained <-chan struct{}) {
	ticker := time.NewTicker(beatWait)
	defer ticker.Stop()
	for {
		select {
		case <-drained:
			return
		case <-ticker.C:
		}
		for _, msg := range q.onHand.messages() {
			_ = msg.InProgress() // without it another takes over, which is right then
		}
	}
}
