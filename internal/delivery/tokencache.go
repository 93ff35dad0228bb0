// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"container/list"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/push"
)

// tokenCache stores a value per token with a lifetime and a maximum number of entries. The keys are
// hashes: no token stays in memory. The zero value is empty.
type tokenCache[V any] struct {
	once    sync.Once
	seed    maphash.Seed
	mu      sync.Mutex
	entries map[uint64]*list.Element // of *cacheEntry[V]
	order   list.List                // newest first
	size    atomic.Int32             // of entries, so that an empty cache needs no key
}

func (c *tokenCache[V]) empty() bool { return c.size.Load() == 0 }

type cacheEntry[V any] struct {
	key    uint64
	stored time.Time
	value  V
}

// get returns the value of key, unless it is older than ttl.
func (c *tokenCache[V]) get(key uint64, ttl time.Duration) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	element, ok := c.entries[key]
	if !ok {
		return value, false
	}
	entry := element.Value.(*cacheEntry[V])
	if time.Since(entry.stored) >= ttl {
		c.evict(element)
		return value, false
	}
	return entry.value, true
}

// put stores a value. If there are maxEntries already, it evicts the oldest.
func (c *tokenCache[V]) put(key uint64, value V, maxEntries int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = make(map[uint64]*list.Element)
	}
	if old, ok := c.entries[key]; ok {
		c.evict(old)
	}
	if len(c.entries) >= maxEntries {
		c.evict(c.order.Back())
	}
	c.entries[key] = c.order.PushFront(&cacheEntry[V]{key: key, stored: time.Now(), value: value})
	c.size.Add(1)
}

func (c *tokenCache[V]) remove(key uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if element, ok := c.entries[key]; ok {
		c.evict(element)
	}
}

// evict removes an entry. c.mu is held.
func (c *tokenCache[V]) evict(element *list.Element) {
	c.order.Remove(element)
	c.size.Add(-1)
	delete(c.entries, element.Value.(*cacheEntry[V]).key)
}

// key returns a hash of the app, the APNs topic and the token of n: a token can be unregistered for
// one app or topic and valid for another.
func (c *tokenCache[V]) key(n *push.Notification) uint64 {
	c.once.Do(func() { c.seed = maphash.MakeSeed() })
	var h maphash.Hash
	h.SetSeed(c.seed)
	for _, text := range [...]string{n.App, n.APNs.Header("apns-topic"), n.Key()} {
		_, _ = h.WriteString(text) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}
