// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"cmp"
	"container/list"
	"hash/maphash"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// table holds the governors of single devices and topics: of those that are
// limited or closed, the ones used last. It knows them by a hash, so that no
// token stays in memory.
type table struct {
	device, topic Limit
	most          int
	seed          maphash.Seed

	mu     sync.Mutex
	known  map[uint64]*list.Element // of *entry
	recent list.List                // the one used last in front
}

type entry struct {
	key uint64
	governor
}

func newTable(cfg Config) table {
	return table{
		device: cfg.Device,
		topic:  cfg.Topic,
		most:   cmp.Or(cfg.Remember, 1<<16),
		seed:   maphash.MakeSeed(),
		known:  make(map[uint64]*list.Element),
	}
}

// find returns the governor of n's target, or nil where nothing limits it and
// nothing is known against it.
func (t *table) find(n *push.Notification) *governor {
	if t.limit(n).Rate > 0 {
		return t.remember(n)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.known) == 0 {
		return nil
	}
	element, ok := t.known[t.key(n)]
	if !ok {
		return nil
	}
	t.recent.MoveToFront(element)
	return &element.Value.(*entry).governor
}

// remember returns the governor of n's target, and makes room for it if it is
// new.
func (t *table) remember(n *push.Notification) *governor {
	key := t.key(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	element, ok := t.known[key]
	if !ok {
		t.forgetOldest()
		element = t.recent.PushFront(&entry{key: key, governor: governor{limit: t.limit(n)}})
		t.known[key] = element
	}
	t.recent.MoveToFront(element)
	return &element.Value.(*entry).governor
}

// forgetOldest makes room for one more. t.mu is held.
func (t *table) forgetOldest() {
	if len(t.known) < t.most {
		return
	}
	oldest := t.recent.Back()
	t.recent.Remove(oldest)
	delete(t.known, oldest.Value.(*entry).key)
}

// count returns how many targets are known, and how many of them are closed.
func (t *table) count(now time.Time) (known, closed int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, element := range t.known {
		if element.Value.(*entry).closed(now) > 0 {
			closed++
		}
	}
	return len(t.known), closed
}

// limit returns the limit that each target of n's kind has.
func (t *table) limit(n *push.Notification) Limit {
	switch n.Kind() {
	case push.ToTopic, push.ToCondition, push.ToChannel:
		return t.topic
	default:
		return t.device
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
