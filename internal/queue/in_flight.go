// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"sync"
	"time"

	natsjs "github.com/nats-io/nats.go/jetstream"
)

// inFlightMessage is a message that this gateway is processing.
type inFlightMessage struct {
	msg        natsjs.Msg
	key        messageKey
	deliveries int // including this one, and those to other gateways
}

type messageKey struct {
	stream string
	seq    uint64
}

// inFlightSet is the set of messages that this gateway is processing.
type inFlightSet struct {
	mu   sync.Mutex
	held map[messageKey]*inFlightMessage
}

// add adds msg to the set. It returns nil if the message is already in it: the server redelivers a
// message without a timely sign of progress.
func (s *inFlightSet) add(msg natsjs.Msg) *inFlightMessage {
	meta, err := msg.Metadata()
	if err != nil {
		return nil // not a message of a consumer
	}
	m := &inFlightMessage{msg: msg, key: messageKey{meta.Stream, meta.Sequence.Stream}, deliveries: int(meta.NumDelivered)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if existing := s.held[m.key]; existing != nil {
		existing.msg = msg // the server accepts only the acknowledgement of the last delivery
		return nil
	}
	if s.held == nil {
		s.held = map[messageKey]*inFlightMessage{}
	}
	s.held[m.key] = m
	return m
}

func (s *inFlightSet) remove(m *inFlightMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, m.key)
}

// latest returns the last delivery of a message.
func (s *inFlightSet) latest(m *inFlightMessage) natsjs.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	return m.msg
}

func (s *inFlightSet) latestAll() []natsjs.Msg {
	s.mu.Lock()
	defer s.mu.Unlock()
	msgs := make([]natsjs.Msg, 0, len(s.held))
	for _, m := range s.held {
		msgs = append(msgs, m.msg)
	}
	return msgs
}

// sendInProgress resets the acknowledgement timer of all messages in flight, at an interval, until
// drained is closed.
func (q *clusterQueue) sendInProgress(drained <-chan struct{}) {
	ticker := time.NewTicker(inProgressInterval)
	defer ticker.Stop()
	for {
		select {
		case <-drained:
			return
		case <-ticker.C:
		}
		for _, msg := range q.inFlight.latestAll() {
			_ = msg.InProgress() // if it fails, the server redelivers the message
		}
	}
}

// processing is the set of notifications that process handles. Two copies of one task can be in the
// streams after a reschedule.
type processing struct {
	mu   sync.Mutex
	byID map[string]chan struct{} // closed when process has returned
}

// begin adds id to the set. It returns nil if id is not in it, and otherwise a channel that is closed
// when id leaves it.
func (p *processing) begin(id string) (busy <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch := p.byID[id]; ch != nil {
		return ch
	}
	if p.byID == nil {
		p.byID = map[string]chan struct{}{}
	}
	p.byID[id] = make(chan struct{})
	return nil
}

func (p *processing) end(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.byID[id])
	delete(p.byID, id)
}
