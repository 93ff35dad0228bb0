// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
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

	deaths memory[push.Outcome]
}

// knows returns what the provider said of n's token.
func (d *Dead) knows(n *push.Notification) (push.Outcome, bool) {
	if d == nil || n.Kind() != push.ToToken {
		return push.Outcome{}, false
	}
	return d.deaths.recall(d.deaths.key(n), cmp.Or(d.Keep, 24*time.Hour))
}

// learn takes note of an attempt's outcome.
func (d *Dead) learn(n *push.Notification, o push.Outcome) {
	if d == nil || n.Kind() != push.ToToken {
		return
	}
	switch {
	case o.Verdict == push.Unregistered && o.ForgetToken:
		d.deaths.keep(d.deaths.key(n), push.Outcome{
			Verdict: o.Verdict, Reason: o.Reason, DeadSince: o.DeadSince, ForgetToken: true,
		}, cmp.Or(d.Most, 100_000))
	case o.Verdict == push.Accepted:
		d.deaths.forget(d.deaths.key(n))
	}
}
