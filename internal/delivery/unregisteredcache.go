// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"time"

	"github.com/sluice-push/sluice/push"
)

// UnregisteredCache remembers the tokens that a provider has declared dead, so that they are answered here: every further attempt would
// count against the quota, and Apple asks senders to stop. It knows them by a hash, so that no token stays in memory. One
// is forgotten after Keep, when too many have died since, or when an attempt that was still under way is accepted: a
// token that is registered again comes to life by then at the latest. A nil Dead remembers nothing.
type UnregisteredCache struct {
	// Keep is how long one is remembered; default 24h.
	TTL time.Duration
	// Most is how many are remembered, about 250 bytes each; default 100000. Beyond it the longest dead is forgotten.
	MaxEntries int

	cache tokenCache[push.Outcome]
}

// get returns what the provider said of n's token.
func (d *UnregisteredCache) get(n *push.Notification) (push.Outcome, bool) {
	if d == nil || n.Kind() != push.ToToken {
		return push.Outcome{}, false
	}
	return d.cache.get(d.cache.key(n), cmp.Or(d.TTL, 24*time.Hour))
}

// record takes note of an attempt's outcome.
func (d *UnregisteredCache) record(n *push.Notification, o push.Outcome) {
	if d == nil || n.Kind() != push.ToToken {
		return
	}
	switch {
	case o.Verdict == push.Unregistered && o.ForgetToken:
		d.cache.put(d.cache.key(n), push.Outcome{
			Verdict: o.Verdict, Reason: o.Reason, DeadSince: o.DeadSince, ForgetToken: true,
		}, cmp.Or(d.MaxEntries, 100_000))
	case o.Verdict == push.Accepted:
		d.cache.remove(d.cache.key(n))
	}
}
