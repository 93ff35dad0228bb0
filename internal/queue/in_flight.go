// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// inFlightMessage is a chunk that this gateway is at.
type inFlightMessage struct {
	msg         natsjs.Msg
	key         messageKey
	redelivered bool // somebody has been at it before
}

type messageKey struct {
	stream string
	seq    uint64
}

// inFlightSet are the chunks that this gateway is at.
type inFlightSet struct {
	mu   sync.Mutex
	held map[messageKey]*inFlightMessage
}

// add takes msg on hand. It returns nil if it is there already: it was given to us twice because we were silent for too
// long.
func (h *inFlightSet) add(msg natsjs.Msg) *inFlightMessage {
	meta, err := msg.Metadata()
	if err != nil {
		return nil // no message of a consumer's
	}
	one := &inFlightMessage{msg: msg, key: messageKey{meta.Stream, meta.Sequence.Stream}, redelivered: meta.NumDelivered > 1}
	h.mu.Lock()
	defer h.mu.Unlock()
	if held := h.held[one.key]; held != nil {
		held.msg = msg // its acks are the ones that count now
		return nil
	}
	if h.held == nil {
		h.held = map[messageKey]*inFlightMessage{}
	}
	h.held[one.key] = one
	return one
}

func (h *inFlightSet) remove(one *inFlightMessage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, one.key)
}

// latest is the last delivery of a chunk on hand.
func (h *inFlightSet) latest(one *inFlightMessage) natsjs.Msg {
	h.mu.Lock()
	defer h.mu.Unlock()
	return one.msg
}

func (h *inFlightSet) latestAll() []natsjs.Msg {
	h.mu.Lock()
	defer h.mu.Unlock()
	msgs := make([]natsjs.Msg, 0, len(h.held))
	for _, one := range h.held {
		msgs = append(msgs, one.msg)
	}
	return msgs
}

// sendInProgress tells the engine again and again that what is on hand is being worked on.
func (q *Queue) sendInProgress(drained <-chan struct{}) {
	ticker := time.NewTicker(inProgressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-drained:
			return
		case <-ticker.C:
		}
		for _, msg := range q.inFlight.latestAll() {
			_ = msg.InProgress() // without it another takes over, which is right then
		}
	}
}
