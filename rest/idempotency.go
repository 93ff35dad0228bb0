// SPDX-License-Identifier: Apache-2.0

package rest

import (
	"cmp"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// call names what an Idempotency-Key stands for: each app has its own.
type call struct{ app, key string }

// remembered is what a call came to, or the promise of it.
type remembered struct {
	body  [sha256.Size]byte // hash of the body that came with the key
	done  chan struct{}     // closed once end is there
	end   ending
	until time.Time
}

// Memory keeps what calls with an Idempotency-Key came to, where there is no history: a restart forgets it, and another
// gateway does not share it. The zero value keeps 50,000 ends, of about 1 KiB each, for a day.
type Memory struct {
	// Most is how many ends are kept; 0 means 50,000.
	Most int
	// Keep is for how long; 0 means 24 hours.
	Keep time.Duration

	mu    sync.Mutex
	calls map[call]*remembered
	kept  []call // with an end, oldest first; those in flight are in calls alone
}

// claim returns the call's place, and whether the caller is the first there and so has to settle it.
func (m *Memory) claim(c call, body [sha256.Size]byte) (place *remembered, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(time.Now())
	if place, ok := m.calls[c]; ok {
		return place, false
	}
	if m.calls == nil {
		m.calls = map[call]*remembered{}
	}
	place = &remembered{body: body, done: make(chan struct{})}
	m.calls[c] = place
	return place, true
}

// settle gives the end to all who wait at the place, and keeps it for those to come if keep is set.
func (m *Memory) settle(c call, place *remembered, end ending, keep bool) {
	place.end = end
	close(place.done)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !keep {
		delete(m.calls, c)
		return
	}
	place.until = time.Now().Add(cmp.Or(m.Keep, 24*time.Hour))
	m.kept = append(m.kept, c)
	m.forget(time.Now())
}

// forget drops the oldest ends: those past their time, and those that are too many. The caller holds mu.
func (m *Memory) forget(now time.Time) {
	for len(m.kept) > cmp.Or(m.Most, 50_000) || (len(m.kept) > 0 && now.After(m.calls[m.kept[0]].until)) {
		delete(m.calls, m.kept[0])
		m.kept = m.kept[1:]
	}
}

// stands reports whether a second send could double the notification or only hear the same again. Otherwise nothing arrived
// nor will, and the key is free for another try.
func stands(r *push.Receipt) bool {
	for _, attempt := range r.Attempts {
		switch attempt.Verdict {
		case push.Accepted, push.Unregistered, push.Refused, push.Unknown, push.Abandoned:
			return true
		}
	}
	return r.State != "" || r.Verdict == push.Accepted || r.Verdict == push.Unknown
}

// checkIdempotencyKey reports whether a key is absent or 1 to 255 visible ASCII characters.
func checkIdempotencyKey(key string) bool {
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(key) <= 255
}

const keyAllowed = "must be 1 to 255 visible ASCII characters"
