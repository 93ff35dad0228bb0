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

// targetTable holds the quotas of single devices and topics: of those that are
// limited or closed, the ones used last. It knows them by a hash, so that no
// token stays in memory.
type targetTable struct {
	seed     maphash.Seed
	cfg      atomic.Pointer[Config]
	nonEmpty atomic.Bool // at least one is known

	mu      sync.Mutex
	entries map[uint64]*list.Element // of *target
	lru     list.List                // the one used last in front
}

// target is one device or topic. Each of its buckets can refuse on its own.
type target struct {
	key uint64

	mu          sync.Mutex
	cfg         *Config // that its buckets are made by
	aimd        aimdLimiter
	sustained   *rate.Limiter // over a longer time; made when it is first needed
	collapsible *rate.Limiter // of what replaces what went before
}

// targetPermit is what hold hands out: a target with a token in each of these buckets, locked until it is settled whether they
// are taken. Its zero value is a place that costs nothing.
type targetPermit struct {
	target  *target
	buckets [3]*rate.Limiter
	at      time.Time
}

func (t *targetTable) init() {
	t.seed, t.entries = maphash.MakeSeed(), make(map[uint64]*list.Element)
}

// lookup returns n's target, or nil where nothing limits it and nothing is known
// against it.
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

// getOrCreate returns n's target, and makes room for it if it is new.
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

// evict makes room for one more. t.mu is held.
func (t *targetTable) evict(most int) {
	for len(t.entries) >= most {
		oldest := t.lru.Back()
		t.lru.Remove(oldest)
		delete(t.entries, oldest.Value.(*target).key)
	}
}

// count returns how many targets are known, and how many of them are closed.
func (t *targetTable) count() (known, closed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, element := range t.entries {
		if element.Value.(*target).closedFor() > 0 {
			closed++
		}
	}
	return len(t.entries), closed
}

// reserve finds a place of n's target, which is to be settled, or says how long it
// is closed or has had its share.
func (t *targetTable) reserve(n *push.Notification) (p targetPermit, wait time.Duration, ok bool) {
	one := t.lookup(n)
	if one == nil {
		return targetPermit{}, 0, true
	}
	one.mu.Lock()
	now := time.Now()
	buckets := t.bucketsFor(one, n, now)
	wait = one.aimd.closedFor(now)
	for _, b := range buckets {
		if b != nil {
			wait = max(wait, timeUntilTokens(b, now, 1))
		}
	}
	if wait > 0 {
		one.mu.Unlock()
		return targetPermit{}, wait, false
	}
	return targetPermit{one, buckets, now}, 0, true
}

// bucketsFor returns those of the target that n has to find a token in.
// one.mu is held.
func (t *targetTable) bucketsFor(one *target, n *push.Notification, now time.Time) (buckets [3]*rate.Limiter) {
	cfg := t.cfg.Load()
	if one.cfg != cfg {
		one.reconfigure(cfg, n, now)
	}
	buckets[0] = one.aimd.bucketAt(now, now)
	if isTopic(n) {
		return buckets
	}
	if limit := cfg.Sustained; limit.Rate > 0 {
		buckets[1] = ensureBucket(&one.sustained, limit)
	}
	if limit := cfg.Collapsible; limit.Rate > 0 && n.Collapsible() {
		buckets[2] = ensureBucket(&one.collapsible, limit)
	}
	return buckets
}

// reconfigure changes the target's buckets to what cfg says. t.mu is held.
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

// ensureBucket returns the bucket, and makes it if it is the first time.
func ensureBucket(bucket **rate.Limiter, limit Limit) *rate.Limiter {
	if *bucket == nil {
		*bucket = rate.NewLimiter(rate.Limit(limit.Rate), limit.burst())
	}
	return *bucket
}

// finish takes the place, or leaves it to others.
func (p targetPermit) finish(taken bool) {
	if p.target == nil {
		return
	}
	defer p.target.mu.Unlock()
	for _, b := range p.buckets {
		if taken && b != nil {
			b.AllowN(p.at, 1)
		}
	}
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

// recordRefusal closes the target.
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

// targetLimit returns the limit that each target of n's kind has.
func (c *Config) targetLimit(n *push.Notification) Limit {
	if isTopic(n) {
		return c.Topic
	}
	return c.Device
}

// isTopic reports whether n goes to many devices at once.
func isTopic(n *push.Notification) bool {
	switch n.Kind() {
	case push.ToTopic, push.ToCondition, push.ToChannel:
		return true
	default:
		return false
	}
}

// key returns a hash of n's target: two targets share one with a chance of
// 2⁻⁶⁴, and its seed is the process's own.
func (t *targetTable) key(n *push.Notification) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_ = h.WriteByte(byte(n.Kind())) // never fails
	_, _ = h.WriteString(n.Key())
	return h.Sum64()
}
