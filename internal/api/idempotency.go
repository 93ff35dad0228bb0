// SPDX-License-Identifier: Apache-2.0

package api

import (
	"cmp"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/sluice-push/sluice/push"
)

// cacheKey identifies an Idempotency-Key. Each app has its own keys.
type cacheKey struct{ app, key string }

// cacheEntry is the result of a request, or a request in progress.
type cacheEntry struct {
	body    [sha256.Size]byte // hash of the body that came with the key
	done    chan struct{}     // closed when result is set
	result  result
	expires time.Time
}

// IdempotencyCache stores the results of requests with an Idempotency-Key in a gateway without a
// history. It is in memory: it is lost on restart and not shared with other gateways. The zero
// value stores 50,000 results of each app, of about 1 KiB each, for a day.
type IdempotencyCache struct {
	// MaxEntries limits the number of stored results of one app; 0 means 50,000. No app can evict
	// the results of another.
	MaxEntries int
	// TTL is how long a result is stored; 0 means 24 hours.
	TTL time.Duration

	mu    sync.Mutex
	apps  map[string]*appCache
	swept time.Time // when expired results of all apps were removed
}

// appCache holds the results of one app.
type appCache struct {
	entries map[string]*cacheEntry
	settled []string // keys of entries with a result, oldest first; entries in progress are only in entries
}

// sweepInterval is how often the expired results of apps without requests are removed.
const sweepInterval = time.Minute

// claim returns the entry of a key. first says that the caller created it and must settle it.
func (c *IdempotencyCache) claim(key cacheKey, body [sha256.Size]byte) (entry *cacheEntry, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Sub(c.swept) >= sweepInterval {
		c.sweep(now)
	}
	app := c.apps[key.app]
	if app == nil {
		app = &appCache{entries: map[string]*cacheEntry{}}
		if c.apps == nil {
			c.apps = map[string]*appCache{}
		}
		c.apps[key.app] = app
	}
	c.evict(app, now)
	if entry, ok := app.entries[key.key]; ok {
		return entry, false
	}
	entry = &cacheEntry{body: body, done: make(chan struct{})}
	app.entries[key.key] = entry
	return entry, true
}

// conflicts reports whether the key was used with another body.
func (c *IdempotencyCache) conflicts(key cacheKey, body [sha256.Size]byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	app := c.apps[key.app]
	if app == nil {
		return false
	}
	c.evict(app, time.Now())
	entry, ok := app.entries[key.key]
	return ok && entry.body != body
}

// settle sets the result of an entry and wakes all that wait for it. It removes the entry if keep
// is false.
func (c *IdempotencyCache) settle(key cacheKey, entry *cacheEntry, res result, keep bool) {
	entry.result = res
	close(entry.done)
	c.mu.Lock()
	defer c.mu.Unlock()
	app := c.apps[key.app] // it has the entry, so it was not removed
	if !keep {
		delete(app.entries, key.key)
		return
	}
	now := time.Now()
	entry.expires = now.Add(cmp.Or(c.TTL, 24*time.Hour))
	app.settled = append(app.settled, key.key)
	c.evict(app, now)
}

// evict removes the oldest results of an app: those that have expired and those beyond MaxEntries.
// The caller holds mu.
func (c *IdempotencyCache) evict(app *appCache, now time.Time) {
	for len(app.settled) > cmp.Or(c.MaxEntries, 50_000) || (len(app.settled) > 0 && now.After(app.entries[app.settled[0]].expires)) {
		delete(app.entries, app.settled[0])
		app.settled = app.settled[1:]
	}
}

// sweep removes the expired results of all apps. The caller holds mu.
func (c *IdempotencyCache) sweep(now time.Time) {
	c.swept = now
	for name, app := range c.apps {
		if c.evict(app, now); len(app.entries) == 0 {
			delete(c.apps, name)
		}
	}
}

// isFinal reports whether the key of a request with this receipt stays in use, because another send
// could deliver the notification twice or would get the same verdict. Otherwise nothing arrived or
// will arrive, and the key can be used for another attempt.
func isFinal(r *push.Receipt) bool {
	for _, attempt := range r.Attempts {
		switch attempt.Verdict {
		case push.Accepted, push.Unregistered, push.Refused, push.Unknown, push.Abandoned:
			return true
		}
	}
	return !r.NeverQueued() && (r.State != "" || r.Verdict == push.Accepted || r.Verdict == push.Unknown)
}

// validIdempotencyKey reports whether a key is absent or has 1 to 255 visible ASCII characters.
func validIdempotencyKey(key string) bool {
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(key) <= 255
}

const idempotencyKeyRule = "must be 1 to 255 visible ASCII characters"
