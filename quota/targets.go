// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"cmp"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
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
	entries *simplelru.LRU[uint64, *target]
}

// target is one device or topic. An attempt needs a token from each of its buckets.
type target struct {
	mu          sync.Mutex
	aimd        aimdLimiter
	sustained   *rate.Limiter // created on first use
	collapsible *rate.Limiter // created on first use
}

func (t *targetTable) init() {
	t.seed = maphash.MakeSeed()
	t.entries, _ = simplelru.NewLRU[uint64, *target](1, nil) // getOrCreate sets the size
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
	entry, _ := t.entries.Get(t.key(n))
	return entry
}

// getOrCreate returns n's entry. If it is new, getOrCreate adds it and evicts the least recently
// used entry.
func (t *targetTable) getOrCreate(n *push.Notification) *target {
	key := t.key(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	entry, ok := t.entries.Get(key)
	if !ok {
		cfg := t.cfg.Load()
		entry = &target{aimd: aimdLimiter{limit: cfg.targetLimit(n)}}
		t.entries.Resize(cmp.Or(cfg.MaxTargets, 1<<16))
		t.entries.Add(key, entry)
		t.nonEmpty.Store(true)
	}
	return entry
}

// count returns the number of targets in the table, and how many of them are closed.
func (t *targetTable) count() (total, closed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, entry := range t.entries.Values() {
		if entry.closedFor() > 0 {
			closed++
		}
	}
	return t.entries.Len(), closed
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
	entry.aimd.setLimit(now, cfg.targetLimit(n))
	buckets[0] = entry.aimd.bucketAt(now, now)
	if isTopic(n) {
		return buckets
	}
	if limit := cfg.Sustained; limit.Rate > 0 {
		buckets[1] = adjustBucket(&entry.sustained, now, rate.Limit(limit.Rate), limit.burst())
	}
	if limit := cfg.Collapsible; limit.Rate > 0 && n.Collapsible() {
		buckets[2] = adjustBucket(&entry.collapsible, now, rate.Limit(limit.Rate), limit.burst())
	}
	return buckets
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
