// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// cacheKey names what an Idempotency-Key stands for: each app has its own.
type cacheKey struct{ app, key string }

// cacheEntry is what a call came to, or the promise of it.
type cacheEntry struct {
	body    [sha256.Size]byte // hash of the body that came with the key
	done    chan struct{}     // closed once end is there
	result  result
	expires time.Time
}

// IdempotencyCache keeps what calls with an Idempotency-Key came to, where there is no history: a restart forgets it, and another
// gateway does not share it. The zero value keeps 50,000 ends, of about 1 KiB each, for a day.
type IdempotencyCache struct {
	// Most is how many ends are kept; 0 means 50,000.
	MaxEntries int
	// Keep is for how long; 0 means 24 hours.
	TTL time.Duration

	mu      sync.Mutex
	entries map[cacheKey]*cacheEntry
	settled []cacheKey // with an end, oldest first; those in flight are in calls alone
}

// claim returns the call's place, and whether the caller is the first there and so has to settle it.
func (m *IdempotencyCache) claim(c cacheKey, body [sha256.Size]byte) (place *cacheEntry, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.evict(time.Now())
	if place, ok := m.entries[c]; ok {
		return place, false
	}
	if m.entries == nil {
		m.entries = map[cacheKey]*cacheEntry{}
	}
	place = &cacheEntry{body: body, done: make(chan struct{})}
	m.entries[c] = place
	return place, true
}

// settle gives the end to all who wait at the place, and keeps it for those to come if keep is set.
func (m *IdempotencyCache) settle(c cacheKey, place *cacheEntry, end result, keep bool) {
	place.result = end
	close(place.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !keep {
		delete(m.entries, c)
		return
	}
	place.expires = time.Now().Add(cmp.Or(m.TTL, 24*time.Hour))
	m.settled = append(m.settled, c)
	m.evict(time.Now())
}

// evict drops the oldest ends: those past their time, and those that are too many. The caller holds mu.
func (m *IdempotencyCache) evict(now time.Time) {
	for len(m.settled) > cmp.Or(m.MaxEntries, 50_000) || (len(m.settled) > 0 && now.After(m.entries[m.settled[0]].expires)) {
		delete(m.entries, m.settled[0])
		m.settled = m.settled[1:]
	}
}

// isFinal reports whether a second send could double the notification or only hear the same again. Otherwise nothing arrived
// nor will, and the key is free for another try.
func isFinal(r *push.Receipt) bool {
	for _, attempt := range r.Attempts {
		switch attempt.Verdict {
		case push.Accepted, push.Unregistered, push.Refused, push.Unknown, push.Abandoned:
			return true
		}
	}
	return r.State != "" || r.Verdict == push.Accepted || r.Verdict == push.Unknown
}

// validIdempotencyKey reports whether a key is absent or 1 to 255 visible ASCII characters.
func validIdempotencyKey(key string) bool {
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(key) <= 255
}

const idempotencyKeyRule = "must be 1 to 255 visible ASCII characters"
