// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"container/list"
	"hash/maphash"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// tokenCache holds a fact about each of many tokens, for a time and up to a number. It knows tokens by a hash, so that none
// stays in memory. The zero value is empty.
type tokenCache[F any] struct {
	once    sync.Once
	seed    maphash.Seed
	mu      sync.Mutex
	entries map[uint64]*list.Element // of *memo[F]
	order   list.List                // the last one in front
}

type cacheEntry[F any] struct {
	key    uint64
	stored time.Time
	value  F
}

// get returns what is known, unless it is older than keep.
func (m *tokenCache[F]) get(key uint64, keep time.Duration) (fact F, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	element, ok := m.entries[key]
	if !ok {
		return fact, false
	}
	one := element.Value.(*cacheEntry[F])
	if time.Since(one.stored) >= keep {
		m.evict(element)
		return fact, false
	}
	return one.value, true
}

// put notes a fact in place of an older one, and gives up the oldest of all where there are most already.
func (m *tokenCache[F]) put(key uint64, fact F, most int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries == nil {
		m.entries = make(map[uint64]*list.Element)
	}
	if old, ok := m.entries[key]; ok {
		m.evict(old)
	}
	if len(m.entries) >= most {
		m.evict(m.order.Back())
	}
	m.entries[key] = m.order.PushFront(&cacheEntry[F]{key: key, stored: time.Now(), value: fact})
}

func (m *tokenCache[F]) remove(key uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if element, ok := m.entries[key]; ok {
		m.evict(element)
	}
}

// evict takes one out. m.mu is held.
func (m *tokenCache[F]) evict(element *list.Element) {
	m.order.Remove(element)
	delete(m.entries, element.Value.(*cacheEntry[F]).key)
}

// key is a hash of the token and of whom it belongs to: a token of one app, or of one APNs topic, says nothing of another's.
func (m *tokenCache[F]) key(n *push.Notification) uint64 {
	m.once.Do(func() { m.seed = maphash.MakeSeed() })
	var h maphash.Hash
	h.SetSeed(m.seed)
	for _, text := range [...]string{n.App, apnsTopic(n), n.Key()} {
		_, _ = h.WriteString(text) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}

func apnsTopic(n *push.Notification) string {
	if n.APNs == nil {
		return ""
	}
	return n.APNs.Headers["apns-topic"]
}
