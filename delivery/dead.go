// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"container/list"
	"hash/maphash"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Dead remembers the tokens that a provider has declared dead, so that they are answered here: every further attempt would
// count against the quota, and Apple asks senders to stop. It knows them by a hash, so that no token stays in memory. One
// is forgotten after Keep, when too many have died since, or when an attempt that was still under way is accepted: a
// token that is registered again comes to life by then at the latest. A nil Dead remembers nothing.
type Dead struct {
	// Keep is how long one is remembered; default 24h.
	Keep time.Duration
	// Most is how many are remembered, about 250 bytes each; default 100000. Beyond it the longest dead is forgotten.
	Most int

	once   sync.Once
	seed   maphash.Seed
	mu     sync.Mutex
	known  map[uint64]*list.Element // of *death
	recent list.List                // the last one in front
}

type death struct {
	key     uint64
	at      time.Time
	outcome push.Outcome
}

// knows returns what the provider said of n's token.
func (d *Dead) knows(n *push.Notification) (push.Outcome, bool) {
	if d == nil || n.Kind() != push.ToToken {
		return push.Outcome{}, false
	}
	key := d.key(n)
	d.mu.Lock()
	defer d.mu.Unlock()
	element, ok := d.known[key]
	if !ok {
		return push.Outcome{}, false
	}
	one := element.Value.(*death)
	if time.Since(one.at) >= cmp.Or(d.Keep, 24*time.Hour) {
		d.forget(element)
		return push.Outcome{}, false
	}
	return one.outcome, true
}

// learn takes note of an attempt's outcome.
func (d *Dead) learn(n *push.Notification, o push.Outcome) {
	if d == nil || n.Kind() != push.ToToken {
		return
	}
	switch {
	case o.Verdict == push.Unregistered && o.ForgetToken:
		d.bury(&death{key: d.key(n), at: time.Now(), outcome: push.Outcome{
			Verdict: o.Verdict, Reason: o.Reason, DeadSince: o.DeadSince, ForgetToken: true,
		}})
	case o.Verdict == push.Accepted:
		d.revive(d.key(n))
	}
}

func (d *Dead) bury(one *death) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == nil {
		d.known = make(map[uint64]*list.Element)
	}
	if old, ok := d.known[one.key]; ok {
		d.forget(old)
	}
	if len(d.known) >= cmp.Or(d.Most, 100_000) {
		d.forget(d.recent.Back())
	}
	d.known[one.key] = d.recent.PushFront(one)
}

func (d *Dead) revive(key uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if element, ok := d.known[key]; ok {
		d.forget(element)
	}
}

// forget takes one out. d.mu is held.
func (d *Dead) forget(element *list.Element) {
	d.recent.Remove(element)
	delete(d.known, element.Value.(*death).key)
}

// key is a hash of the token and of whom it belongs to: a token of one app, or of one APNs topic, says nothing of another's.
func (d *Dead) key(n *push.Notification) uint64 {
	d.once.Do(func() { d.seed = maphash.MakeSeed() })
	var h maphash.Hash
	h.SetSeed(d.seed)
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
