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

// table holds the quotas of single devices and topics: of those that are
// limited or closed, the ones used last. It knows them by a hash, so that no
// token stays in memory.
type table struct {
	seed maphash.Seed
	cfg  atomic.Pointer[Config]
	any  atomic.Bool // at least one is known

	mu     sync.Mutex
	known  map[uint64]*list.Element // of *target
	recent list.List                // the one used last in front
}

// target is one device or topic. Each of its buckets can refuse on its own.
type target struct {
	key uint64

	mu       sync.Mutex
	cfg      *Config // that its buckets are made by
	pace     governor
	sustain  *rate.Limiter // over a longer time; made when it is first needed
	collapse *rate.Limiter // of what replaces what went before
}

// place is what hold hands out: a target with a token in each of these buckets, locked until it is settled whether they
// are taken. Its zero value is a place that costs nothing.
type place struct {
	target  *target
	buckets [3]*rate.Limiter
	at      time.Time
}

func (t *table) init() {
	t.seed, t.known = maphash.MakeSeed(), make(map[uint64]*list.Element)
}

// find returns n's target, or nil where nothing limits it and nothing is known
// against it.
func (t *table) find(n *push.Notification) *target {
	if t.limited(n) {
		return t.remember(n)
	}
	if !t.any.Load() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	element, ok := t.known[t.key(n)]
	if !ok {
		return nil
	}
	t.recent.MoveToFront(element)
	return element.Value.(*target)
}

// remember returns n's target, and makes room for it if it is new.
func (t *table) remember(n *push.Notification) *target {
	key := t.key(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	element, ok := t.known[key]
	if !ok {
		cfg := t.cfg.Load()
		t.forgetOldest(cmp.Or(cfg.Remember, 1<<16))
		element = t.recent.PushFront(&target{key: key, cfg: cfg, pace: governor{limit: cfg.each(n)}})
		t.known[key] = element
		t.any.Store(true)
	}
	t.recent.MoveToFront(element)
	return element.Value.(*target)
}

// forgetOldest makes room for one more. t.mu is held.
func (t *table) forgetOldest(most int) {
	for len(t.known) >= most {
		oldest := t.recent.Back()
		t.recent.Remove(oldest)
		delete(t.known, oldest.Value.(*target).key)
	}
}

// count returns how many targets are known, and how many of them are closed.
func (t *table) count() (known, closed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, element := range t.known {
		if element.Value.(*target).closed() > 0 {
			closed++
		}
	}
	return len(t.known), closed
}

// hold finds a place of n's target, which is to be settled, or says how long it
// is closed or has had its share.
func (t *table) hold(n *push.Notification) (p place, wait time.Duration, ok bool) {
	one := t.find(n)
	if one == nil {
		return place{}, 0, true
	}
	one.mu.Lock()
	now := time.Now()
	buckets := t.buckets(one, n, now)
	wait = one.pace.closed(now)
	for _, b := range buckets {
		if b != nil {
			wait = max(wait, shortage(b, now, 1))
		}
	}
	if wait > 0 {
		one.mu.Unlock()
		return place{}, wait, false
	}
	return place{one, buckets, now}, 0, true
}

// buckets returns those of the target that n has to find a token in.
// one.mu is held.
func (t *table) buckets(one *target, n *push.Notification, now time.Time) (buckets [3]*rate.Limiter) {
	cfg := t.cfg.Load()
	if one.cfg != cfg {
		one.adopt(cfg, n, now)
	}
	buckets[0] = one.pace.filled(now, now)
	if isTopic(n) {
		return buckets
	}
	if limit := cfg.Sustained; limit.Rate > 0 {
		buckets[1] = made(&one.sustain, limit)
	}
	if limit := cfg.Collapsible; limit.Rate > 0 && n.Collapsible() {
		buckets[2] = made(&one.collapse, limit)
	}
	return buckets
}

// adopt changes the target's buckets to what cfg says. t.mu is held.
func (t *target) adopt(cfg *Config, n *push.Notification, now time.Time) {
	t.cfg = cfg
	t.pace.change(now, cfg.each(n))
	for bucket, limit := range map[*rate.Limiter]Limit{t.sustain: cfg.Sustained, t.collapse: cfg.Collapsible} {
		if bucket != nil && limit.Rate > 0 {
			bucket.SetLimitAt(now, rate.Limit(limit.Rate))
			bucket.SetBurstAt(now, limit.burst())
		}
	}
}

// made returns the bucket, and makes it if it is the first time.
func made(bucket **rate.Limiter, limit Limit) *rate.Limiter {
	if *bucket == nil {
		*bucket = rate.NewLimiter(rate.Limit(limit.Rate), limit.burst())
	}
	return *bucket
}

// settle takes the place, or leaves it to others.
func (p place) settle(taken bool) {
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

// closed returns how long the target stays closed.
func (t *target) closed() time.Duration {
	if t == nil {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pace.closed(time.Now())
}

// refused closes the target.
func (t *target) refused(wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pace.refused(time.Now(), wait)
}

func (t *table) limited(n *push.Notification) bool {
	cfg := t.cfg.Load()
	if isTopic(n) {
		return cfg.Topic.Rate > 0
	}
	return cfg.Device.Rate > 0 || cfg.Sustained.Rate > 0 || (cfg.Collapsible.Rate > 0 && n.Collapsible())
}

// each returns the limit that each target of n's kind has.
func (c *Config) each(n *push.Notification) Limit {
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
func (t *table) key(n *push.Notification) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	_ = h.WriteByte(byte(n.Kind())) // never fails
	_, _ = h.WriteString(n.Key())
	return h.Sum64()
}
