// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"cmp"
	"container/list"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/sluice-push/sluice/push"
)

// targetTable holds the limits of single devices and topics. It contains the most recently used
// targets that are limited or closed. The keys are hashes: no token stays in memory.
type targetTable struct {
	seed     maphash.Seed
	cfg      atomic.Pointer[Config]
	nonEmpty atomic.Bool // has entries

	mu      sync.Mutex
	entries map[uint64]*list.Element // of *target
	lru     list.List                // most recently used first
}

// target is one device or topic. An attempt needs a token from each of its buckets.
type target struct {
	key uint64

	mu          sync.Mutex
	cfg         *Config // of its buckets
	aimd        aimdLimiter
	sustained   *rate.Limiter // created on first use
	collapsible *rate.Limiter // created on first use
}

func (t *targetTable) init() {
	t.seed, t.entries = maphash.MakeSeed(), make(map[uint64]*list.Element)
}

// lookup returns n's target, or nil if it has no limit and is not in the table.
func (t *targetTable) lookup(n *push.Notification) *target {
	if t.isLimited(n) {
		return t.getOrCreate(n)
	}
	if !t.nonEmpty.Load() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	element, ok := t.entries[t.key(n)]
	if !ok {
		return nil
	}
	t.lru.MoveToFront(element)
	return element.Value.(*target)
}

// getOrCreate returns n's entry. If it is new, getOrCreate adds it and evicts the least recently
// used entry.
func (t *targetTable) getOrCreate(n *push.Notification) *target {
	key := t.key(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	element, ok := t.entries[key]
	if !ok {
		cfg := t.cfg.Load()
		t.evict(cmp.Or(cfg.MaxTargets, 1<<16))
		element = t.lru.PushFront(&target{key: key, cfg: cfg, aimd: aimdLimiter{limit: cfg.targetLimit(n)}})
		t.entries[key] = element
		t.nonEmpty.Store(true)
	}
	t.lru.MoveToFront(element)
	return element.Value.(*target)
}

// evict makes room for one more entry. t.mu is held.
func (t *targetTable) evict(maxEntries int) {
	for len(t.entries) >= maxEntries {
		oldest := t.lru.Back()
		t.lru.Remove(oldest)
		delete(t.entries, oldest.Value.(*target).key)
	}
}

// count returns the number of targets in the table, and how many of them are closed.
func (t *targetTable) count() (total, closed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, element := range t.entries {
		if element.Value.(*target).closedFor() > 0 {
			closed++
		}
	}
	return len(t.entries), closed
}

// take takes a token from each bucket of n's target, or returns the time until the target is
// available. Without a limit and a closed target, take acquires no lock.
func (t *targetTable) take(n *push.Notification) (wait time.Duration, ok bool) {
	entry := t.lookup(n)
	if entry == nil {
		return 0, true
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	now := time.Now()
	buckets := t.bucketsFor(entry, n, now)
	wait = entry.aimd.closedFor(now)
	for _, b := range buckets {
		if b != nil {
			wait = max(wait, timeUntilTokens(b, now, 1))
		}
	}
	if wait > 0 {
		return wait, false
	}
	takeAll(buckets, now, 1)
	return 0, true
}

// restore returns the tokens of a notification that is not attempted.
func (t *targetTable) restore(n *push.Notification) {
	entry := t.lookup(n)
	if entry == nil {
		return
	}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	now := time.Now()
	takeAll(t.bucketsFor(entry, n, now), later(now, entry.aimd.tunedAt), -1)
}

// takeAll takes n tokens, which it returns if n is negative, from each of the buckets.
func takeAll(buckets [3]*rate.Limiter, at time.Time, n int) {
	for _, b := range buckets {
		if b != nil {
			b.AllowN(at, n)
		}
	}
}

// bucketsFor returns the buckets of target from which n needs a token. entry.mu is held.
func (t *targetTable) bucketsFor(entry *target, n *push.Notification, now time.Time) (buckets [3]*rate.Limiter) {
	cfg := t.cfg.Load()
	if entry.cfg != cfg {
		entry.reconfigure(cfg, n, now)
	}
	buckets[0] = entry.aimd.bucketAt(now, now)
	if isTopic(n) {
		return buckets
	}
	if limit := cfg.Sustained; limit.Rate > 0 {
		buckets[1] = ensureBucket(&entry.sustained, limit)
	}
	if limit := cfg.Collapsible; limit.Rate > 0 && n.Collapsible() {
		buckets[2] = ensureBucket(&entry.collapsible, limit)
	}
	return buckets
}

// reconfigure changes the target's buckets to cfg. t.mu is held.
func (t *target) reconfigure(cfg *Config, n *push.Notification, now time.Time) {
	t.cfg = cfg
	t.aimd.setLimit(now, cfg.targetLimit(n))
	for bucket, limit := range map[*rate.Limiter]Limit{t.sustained: cfg.Sustained, t.collapsible: cfg.Collapsible} {
		if bucket != nil && limit.Rate > 0 {
			bucket.SetLimitAt(now, rate.Limit(limit.Rate))
			bucket.SetBurstAt(now, limit.burst())
		}
	}
}

// ensureBucket returns the bucket and creates it on first use.
func ensureBucket(bucket **rate.Limiter, limit Limit) *rate.Limiter {
	if *bucket == nil {
		*bucket = rate.NewLimiter(rate.Limit(limit.Rate), limit.burst())
	}
	return *bucket
}

// closedFor returns how long the target stays closed.
func (t *target) closedFor() time.Duration {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.aimd.closedFor(time.Now())
}

// recordRefusal closes the target and lowers its rate.
func (t *target) recordRefusal(wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.aimd.recordRefusal(time.Now(), wait)
}

func (t *targetTable) isLimited(n *push.Notification) bool {
	cfg := t.cfg.Load()
	if isTopic(n) {
		return cfg.Topic.Rate > 0
	}
	return cfg.Device.Rate > 0 || cfg.Sustained.Rate > 0 || (cfg.Collapsible.Rate > 0 && n.Collapsible())
}

// targetLimit returns the limit of each target of n's kind.
func (c *Config) targetLimit(n *push.Notification) Limit {
	if isTopic(n) {
		return c.Topic
	}
	return c.Device
}

// isTopic reports whether n goes to many devices at once.
func isTopic(n *push.Notification) bool {
	return n.Topic != "" || n.Condition != "" || n.Channel != ""
}

// key returns a hash of n's target with a seed of the process. Two targets collide with a
// probability of 2⁻⁶⁴.
func (t *targetTable) key(n *push.Notification) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_ = h.WriteByte(byte(n.Kind())) // never fails
	_, _ = h.WriteString(n.Key())
	return h.Sum64()
}
