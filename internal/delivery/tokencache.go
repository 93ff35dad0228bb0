// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"hash/maphash"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/sluice-push/sluice/push"
)

// tokenCache stores a value per token with a lifetime and a maximum number of entries; the oldest
// entry is evicted. The keys are hashes: no token stays in memory. The zero value is empty.
type tokenCache[V any] struct {
	entries atomic.Pointer[lru.Cache[uint64, cacheEntry[V]]] // nil until the first put
}

type cacheEntry[V any] struct {
	stored time.Time
	value  V
}

// unused reports whether nothing was ever stored. Such a cache needs no key.
func (c *tokenCache[V]) unused() bool { return c.entries.Load() == nil }

// get returns the value of key, unless it is older than ttl. It does not make the entry newer.
func (c *tokenCache[V]) get(key uint64, ttl time.Duration) (value V, ok bool) {
	if c.unused() {
		return value, false
	}
	entry, ok := c.entries.Load().Peek(key)
	if !ok || time.Since(entry.stored) >= ttl {
		return value, false
	}
	return entry.value, true
}

// put stores a value. If there are maxEntries already, it evicts the oldest.
func (c *tokenCache[V]) put(key uint64, value V, maxEntries int) {
	if c.unused() {
		entries, _ := lru.New[uint64, cacheEntry[V]](maxEntries) // fails only if maxEntries is not positive
		c.entries.CompareAndSwap(nil, entries)
	}
	c.entries.Load().Add(key, cacheEntry[V]{time.Now(), value})
}

func (c *tokenCache[V]) remove(key uint64) {
	if !c.unused() {
		c.entries.Load().Remove(key)
	}
}

var tokenSeed = maphash.MakeSeed()

// tokenKey returns a hash of the app, the APNs topic and the token of n: a token can be unregistered
// for one app or topic and valid for another.
func tokenKey(n *push.Notification) uint64 {
	var h maphash.Hash
	h.SetSeed(tokenSeed)
	for _, text := range [...]string{n.App, n.APNs.Header("apns-topic"), n.Key()} {
		_, _ = h.WriteString(text) // never fails
		_ = h.WriteByte(0)
	}
	return h.Sum64()
}
