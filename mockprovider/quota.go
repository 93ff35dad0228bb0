// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"fmt"
	"math"
	"sync"
	"time"
)

// Quota is an effect of a Fault: what goes beyond it is answered 429, with the service's reason for its scope unless the
// fault names another. Each key of the scope has a bucket of its own, full at its first request.
type Quota struct {
	// Scope is what shares a bucket: project (all that the service gets), device (one device token or subscription), topic
	// (one FCM topic or condition, or one APNs channel) or collapse (one device's FCM messages that have a collapse_key).
	Scope string `yaml:"scope"`
	// Limit is how many may pass in each Per.
	Limit int           `yaml:"limit"`
	Per   time.Duration `yaml:"per"`
	// Burst is what a bucket holds; default Limit.
	Burst int `yaml:"burst,omitempty"`
	// Steady refills the bucket little by little. Default is all at once, every Per from the bucket's first request, as
	// FCM's minute is.
	Steady bool `yaml:"steady,omitempty"`
	// Tell adds Retry-After: until the bucket has room again, in whole seconds. Fault.RetryAfter wins.
	Tell bool `yaml:"tell,omitempty"`
}

// The scopes of a Quota.
const (
	perProject  = "project"
	perDevice   = "device"
	perTopic    = "topic"
	perCollapse = "collapse"
)

var scopeWords = []string{perProject, perDevice, perTopic, perCollapse}

// DocumentedQuotas are the limits that Google publishes for FCM in "Throttling and Quotas" (read 2026-11): 600,000
// messages a minute and project, 240 a minute and 5,000 an hour to one device, bursts of 20 collapsible messages that
// refill by one every three minutes. Apple publishes none.
func DocumentedQuotas() []Fault {
	fcm := func(q Quota) Fault { return Fault{Service: FCM, Quota: &q} }
	return []Fault{
		fcm(Quota{Scope: perCollapse, Limit: 1, Per: 3 * time.Minute, Burst: 20, Steady: true, Tell: true}),
		fcm(Quota{Scope: perDevice, Limit: 240, Per: time.Minute, Tell: true}),
		fcm(Quota{Scope: perDevice, Limit: 5000, Per: time.Hour, Tell: true}),
		fcm(Quota{Scope: perProject, Limit: 600_000, Per: time.Minute, Tell: true}),
	}
}

// check refuses what makes no sense.
func (q *Quota) check() error {
	switch {
	case !contains(scopeWords, q.Scope):
		return fmt.Errorf("quota.scope: %q is unknown (allowed: project, device, topic, collapse)", q.Scope)
	case q.Limit < 1 || q.Burst < 0:
		return fmt.Errorf("quota.limit: %d is out of range (allowed: 1 or more, and no negative burst)", q.Limit)
	case q.Per <= 0:
		return fmt.Errorf("quota.per: %v is out of range (write it as 1s, 1m or 1h)", q.Per)
	}
	return nil
}

// key is the bucket that a request draws from; ok is false when the quota is not about such requests.
func (q *Quota) key(r *request) (key string, ok bool) {
	switch q.Scope {
	case perProject:
		return "", true
	case perCollapse:
		return r.token, r.collapsible && !r.toMany
	case perTopic:
		return r.token, r.toMany && r.token != ""
	}
	return r.token, !r.toMany && r.token != ""
}

// bucket is what is left for one key.
type bucket struct {
	left float64
	at   time.Time // when it was refilled last
	told time.Time // until when a client was told to wait
}

// buckets are those of one quota.
type buckets struct {
	mu    sync.Mutex
	byKey map[string]*bucket
}

// maxBuckets bounds their number: beyond it those that must be full again are dropped, and with more all of them.
const maxBuckets = 1 << 20

// draw takes one from the bucket of key. If it is empty, wait is until it has room. early says that the client had been
// told to wait for longer.
func (b *buckets) draw(q *Quota, key string, tell time.Duration, now time.Time) (ok bool, wait time.Duration, early bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	one := b.byKey[key]
	if one == nil {
		b.sweep(q, now, maxBuckets)
		one = &bucket{left: float64(or(q.Burst, q.Limit)), at: now}
		b.byKey[key] = one
	}
	early = now.Before(one.told)
	one.refill(q, now)
	if one.left >= 1 {
		one.left--
		return true, 0, early
	}
	wait = one.until(q, now)
	if tell = or(tell, wait); q.Tell || tell != wait {
		one.told = later(one.told, now.Add(tell))
	}
	return false, wait, early
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (b *bucket) refill(q *Quota, now time.Time) {
	full, passed := float64(or(q.Burst, q.Limit)), now.Sub(b.at)
	if q.Steady {
		b.left = min(full, b.left+float64(q.Limit)*float64(passed)/float64(q.Per))
		b.at = now
		return
	}
	if times := passed / q.Per; times > 0 {
		b.left = min(full, b.left+float64(q.Limit)*float64(times))
		b.at = b.at.Add(times * q.Per)
	}
}

// until is how long it takes until there is room for one.
func (b *bucket) until(q *Quota, now time.Time) time.Duration {
	if q.Steady {
		return time.Duration(math.Ceil((1 - b.left) * float64(q.Per) / float64(q.Limit)))
	}
	return b.at.Add(q.Per).Sub(now)
}

// sweep keeps the number of buckets below most. mu is held.
func (b *buckets) sweep(q *Quota, now time.Time, most int) {
	if len(b.byKey) < most {
		return
	}
	whole := q.Per * time.Duration(1+or(q.Burst, q.Limit)/q.Limit)
	for key, one := range b.byKey {
		if now.Sub(one.at) > whole {
			delete(b.byKey, key)
		}
	}
	if len(b.byKey) >= most {
		clear(b.byKey)
	}
}

// exceeds draws from the rule's quota, and is true of a request that goes beyond it. Without a quota it is true.
func (r *rule) exceeds(e *endpoint, req *request) bool {
	if r.Quota == nil {
		return true
	}
	key, ok := r.Quota.key(req)
	if !ok {
		return false
	}
	now := time.Now()
	ok, wait, early := r.buckets.draw(r.Quota, key, r.RetryAfter, now)
	e.mock.ledger.AddQuotaCheck(e.service, r.Quota.Scope, ok, early)
	req.wait = wait
	return !ok
}

// overQuota is the answer to a request beyond the rule's quota.
func (r *rule) overQuota(e *endpoint, req *request) answer {
	f := r.Fault
	f.Status = or(f.Status, 429)
	if f.RetryAfter == 0 && f.Quota.Tell {
		f.RetryAfter = (req.wait + time.Second - 1).Truncate(time.Second)
	}
	return e.does.scripted(req, &f)
}
