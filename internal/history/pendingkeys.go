// SPDX-License-Identifier: Apache-2.0

package history

import (
	"sync"

	"github.com/sluice-push/sluice/internal/jetstream"
	"github.com/sluice-push/sluice/internal/record"
)

// pendingKeys holds the events with Idempotency-Keys that were appended and are not in the index yet.
type pendingKeys struct {
	mu    sync.RWMutex
	byKey map[string]*eventHeader // the newest one
}

// add adds events that are about to be appended.
func (p *pendingKeys) add(headers []*eventHeader) {
	if len(headers) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, hdr := range headers {
		p.byKey[string(hdr.keyHash)] = hdr
	}
}

// remove removes events that were not appended.
func (p *pendingKeys) remove(headers []*eventHeader) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, hdr := range headers {
		if p.byKey[string(hdr.keyHash)] == hdr {
			delete(p.byKey, string(hdr.keyHash))
		}
	}
}

// stored removes the events in a message that is in the index.
func (p *pendingKeys) stored(m *jetstream.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byKey) == 0 {
		return
	}
	for _, r := range m.Records {
		if !record.IsRecord(r.Data) {
			continue
		}
		h, err := record.ParseHeader(r.Data)
		if err != nil || h.KeyHash == nil {
			continue
		}
		if hdr := p.byKey[string(h.KeyHash)]; hdr != nil && string(hdr.text) == string(r.Data) {
			delete(p.byKey, string(h.KeyHash))
		}
	}
}

// find returns the newest event with a key, or nil.
func (p *pendingKeys) find(key []byte) *eventHeader {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.byKey[string(key)]
}
