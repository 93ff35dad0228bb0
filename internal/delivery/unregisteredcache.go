// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"time"

	"github.com/sluice-push/sluice/push"
)

// UnregisteredCache stores the tokens that a provider has reported as unregistered. The gateway
// answers for them without another attempt, which would count against the quota; Apple asks senders
// to stop. It stores a hash and not the token. An entry expires after TTL. It is removed when the
// cache is full, or when an attempt that was already in progress is accepted. A token that is
// registered again therefore works after TTL at the latest. Tokens that apps keep when they register
// again (Outcome.TokenMayReturn) are not stored. A nil UnregisteredCache stores nothing.
type UnregisteredCache struct {
	// TTL is the lifetime of an entry; default 24h.
	TTL time.Duration
	// MaxEntries is the maximum number of entries, about 250 bytes each; default 100000. The oldest
	// is evicted.
	MaxEntries int

	cache tokenCache[*push.Outcome]
}

// get returns the stored outcome of n's token, which must not be modified, or nil.
func (c *UnregisteredCache) get(n *push.Notification) *push.Outcome {
	if c == nil || c.cache.unused() || n.Kind() != push.ToToken {
		return nil
	}
	o, _ := c.cache.get(tokenKey(n), cmp.Or(c.TTL, 24*time.Hour))
	return o
}

// record adds or removes n's token according to the outcome of an attempt.
func (c *UnregisteredCache) record(n *push.Notification, o *push.Outcome) {
	if c == nil || n.Kind() != push.ToToken {
		return
	}
	switch {
	case o.Verdict == push.Unregistered && o.ForgetToken && !o.TokenMayReturn:
		c.cache.put(tokenKey(n), &push.Outcome{
			Verdict: o.Verdict, Reason: o.Reason, DeadSince: o.DeadSince, ForgetToken: true,
		}, cmp.Or(c.MaxEntries, 100_000))
	case o.Verdict == push.Accepted && !c.cache.unused():
		c.cache.remove(tokenKey(n))
	}
}

// forget removes n's token, of which it is not certain that no notification can reach its device.
func (c *UnregisteredCache) forget(n *push.Notification) {
	if c != nil {
		c.cache.remove(tokenKey(n))
	}
}
