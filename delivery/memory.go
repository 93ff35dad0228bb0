// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"container/list"
	"hash/maphash"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// memory holds a fact about each of many tokens, for a time and up to a number. It knows tokens by a hash, so that none
// stays in memory. The zero value is empty.
type memory[F any] struct {
	once   sync.Once
	seed   maphash.Seed
	mu     sync.Mutex
	known  map[uint64]*list.Element // of *memo[F]
	recent list.List                // the last one in front
}

type memo[F any] struct {
	key  uint64
	at   time.Time
	fact F
}

// recall returns what is known, unless it is older than keep.
func (m *memory[F]) recall(key uint64, keep time.Duration) (fact F, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	element, ok := m.known[key]
	if !ok {
		return fact, false
	}
	one := element.Value.(*memo[F])
	if time.Since(one.at) >= keep {
		m.drop(element)
		return fact, false
	}
	return one.fact, true
}

// keep notes a fact in place of an older one, and gives up the oldest of all where there are most already.
func (m *memory[F]) keep(key uint64, fact F, most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = make(map[uint64]*list.Element)
	}
	if old, ok := m.known[key]; ok {
		m.drop(old)
	}
	if len(m.known) >= most {
		m.drop(m.recent.Back())
	}
	m.known[key] = m.recent.PushFront(&memo[F]{key: key, at: time.Now(), fact: fact})
}

func (m *memory[F]) forget(key uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if element, ok := m.known[key]; ok {
		m.drop(element)
	}
}

// drop takes one out. m.mu is held.
func (m *memory[F]) drop(element *list.Element) {
	m.recent.Remove(element)
	delete(m.known, element.Value.(*memo[F]).key)
}

// key is a hash of the token and of whom it belongs to: a token of one app, or of one APNs topic, says nothing of another's.
func (m *memory[F]) key(n *push.Notification) uint64 {
	m.once.Do(func() { m.seed = maphash.MakeSeed() })
	var h maphash.Hash
	h.SetSeed(m.seed)
	for _, text := range [...]string{n.App, topic(n), n.Key()} {
		_, _ = h.WriteString(text) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

func topic(n *push.Notification) string {
	if n.APNs == nil {
		return ""
	}
	return n.APNs.Headers["apns-topic"]
}
