// SPDX-License-Identifier: Apache-2.0

package script

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider/h2"
)

// Quota is an effect of a Fault: requests that exceed it get 429, with the reason that the service
// has for the scope unless the fault has a Reason. Each key of the scope has its own token bucket,
// which is full at the first request.
type Quota struct {
	// Scope is what shares a bucket: project (all requests to the service), device (the requests to
	// one device token or subscription), topic (to one FCM topic or condition, or to one APNs
	// channel), collapse (the FCM messages to one device that have a collapse_key) or sender (the
	// messages of one VAPID key to one Web Push service, which is how Chrome's service limits
	// disruptive sites).
	Scope string `yaml:"scope"`
	// Limit is the number of requests allowed in each Per.
	Limit int           `yaml:"limit"`
	Per   time.Duration `yaml:"per"`
	// Burst is the capacity of a bucket; default Limit.
	Burst int `yaml:"burst,omitempty"`
	// Steady refills the bucket continuously. The default is to refill it with Limit at the end of
	// each Per, counted from the first request of the bucket, which is how FCM counts minutes.
	Steady bool `yaml:"steady,omitempty"`
	// Tell adds Retry-After: the time until the bucket has a token, in whole seconds.
	// Fault.RetryAfter takes precedence.
	Tell bool `yaml:"tell,omitempty"`
}

// Scopes of a Quota.
const (
	ScopeProject  = "project"
	ScopeDevice   = "device"
	ScopeTopic    = "topic"
	ScopeCollapse = "collapse"
	ScopeSender   = "sender"
)

var scopes = []string{ScopeProject, ScopeDevice, ScopeTopic, ScopeCollapse, ScopeSender}

// DocumentedQuotas returns the limits that Google publishes for FCM in "Throttling and Quotas" (read
// 2026-11): 600,000 messages a minute for a project; 240 a minute and 5,000 an hour for a device;
// bursts of 20 collapsible messages, which refill by one every three minutes. Apple publishes none.
func DocumentedQuotas() []Fault {
	fcm := func(q Quota) Fault { return Fault{Service: FCM, Quota: &q} }
	return []Fault{
		fcm(Quota{Scope: ScopeCollapse, Limit: 1, Per: 3 * time.Minute, Burst: 20, Steady: true, Tell: true}),
		fcm(Quota{Scope: ScopeDevice, Limit: 240, Per: time.Minute, Tell: true}),
		fcm(Quota{Scope: ScopeDevice, Limit: 5000, Per: time.Hour, Tell: true}),
		fcm(Quota{Scope: ScopeProject, Limit: 600_000, Per: time.Minute, Tell: true}),
	}
}

func (q *Quota) check() error {
	switch {
	case !slices.Contains(scopes, q.Scope):
		return fmt.Errorf("quota.scope: %q is unknown (allowed: project, device, topic, collapse, sender)", q.Scope)
	case q.Limit < 1 || q.Burst < 0:
		return fmt.Errorf("quota.limit: %d is out of range (allowed: 1 or more, and no negative burst)", q.Limit)
	case q.Per <= 0:
		return fmt.Errorf("quota.per: %v is out of range (write it as 1s, 1m or 1h)", q.Per)
	}
	return nil
}

// capacity returns the capacity of a bucket.
func (q *Quota) capacity() int { return cmp.Or(q.Burst, q.Limit) }

// key returns the key of the bucket for a request; ok is false if the quota does not count the
// request.
func (q *Quota) key(r *h2.Request) (key string, ok bool) {
	switch q.Scope {
	case ScopeProject:
		return "", true
	case ScopeCollapse:
		return r.Token, r.Collapsible && !r.Multicast
	case ScopeSender:
		return r.Sender, r.Sender != ""
	case ScopeTopic:
		return r.Token, r.Multicast && r.Token != ""
	}
	return r.Token, !r.Multicast && r.Token != ""
}

// bucket is the token bucket of one key.
type bucket struct {
	tokens   float64
	refilled time.Time // time of the last refill
	retryAt  time.Time // latest time that a Retry-After has named
}

// buckets holds the token buckets of one quota.
type buckets struct {
	mu    sync.Mutex
	byKey map[string]*bucket
}

func newBuckets() buckets { return buckets{byKey: map[string]*bucket{}} }

// maxBuckets limits the number of buckets of one quota.
const maxBuckets = 1 << 20

// take takes a token from the bucket of key. If the bucket is empty, wait is the time until it has a
// token. early is true if the Retry-After of an earlier response has not passed. retryAfter is the
// Retry-After of the fault, 0 for none.
func (b *buckets) take(q *Quota, key string, retryAfter time.Duration, now time.Time) (ok bool, wait time.Duration, early bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	one := b.byKey[key]
	if one == nil {
		b.evict(q, now, maxBuckets)
		one = &bucket{tokens: float64(q.capacity()), refilled: now}
		b.byKey[key] = one
	}
	early = now.Before(one.retryAt)
	one.refill(q, now)
	if one.tokens >= 1 {
		one.tokens--
		return true, 0, early
	}
	wait = one.wait(q, now)
	if retryAfter = cmp.Or(retryAfter, wait); q.Tell || retryAfter != wait {
		one.retryAt = later(one.retryAt, now.Add(retryAfter))
	}
	return false, wait, early
}

func (b *bucket) refill(q *Quota, now time.Time) {
	full, elapsed := float64(q.capacity()), now.Sub(b.refilled)
	if q.Steady {
		b.tokens = min(full, b.tokens+float64(q.Limit)*float64(elapsed)/float64(q.Per))
		b.refilled = now
		return
	}
	if times := elapsed / q.Per; times > 0 {
		b.tokens = min(full, b.tokens+float64(q.Limit)*float64(times))
		b.refilled = b.refilled.Add(times * q.Per)
	}
}

// wait returns the time until the bucket has a token.
func (b *bucket) wait(q *Quota, now time.Time) time.Duration {
	if q.Steady {
		return time.Duration(math.Ceil((1 - b.tokens) * float64(q.Per) / float64(q.Limit)))
	}
	return b.refilled.Add(q.Per).Sub(now)
}

// evict removes the buckets that must be full again if there are limit buckets or more, and all
// buckets if that is not enough. mu is held.
func (b *buckets) evict(q *Quota, now time.Time, limit int) {
	if len(b.byKey) < limit {
		return
	}
	untilFull := q.Per * time.Duration(1+q.capacity()/q.Limit)
	for key, one := range b.byKey {
		if now.Sub(one.refilled) > untilFull {
			delete(b.byKey, key)
		}
	}
	if len(b.byKey) >= limit {
		clear(b.byKey)
	}
}
