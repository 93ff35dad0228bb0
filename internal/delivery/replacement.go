// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Replacer is a Provider that can tell from a token which other target its device may have now.
type Replacer interface {
	Provider
	// Replacement returns the other target of the device with the target t. ok is false if there is
	// none.
	Replacement(t *push.Target) (replacement push.Target, ok bool)
}

// ReplacementCache stores the tokens whose replacement was accepted, as hashes. Notifications to them go
// to the replacement at once. A nil ReplacementCache stores nothing, and no replacement is tried.
type ReplacementCache struct {
	// TTL is the lifetime of an entry; default 24h.
	TTL time.Duration
	// MaxEntries is the maximum number of entries, about 150 bytes each; default 100000. The oldest is
	// evicted.
	MaxEntries int

	cache tokenCache[struct{}]
}

// has reports whether n's token has a replacement.
func (c *ReplacementCache) has(n *push.Notification) bool {
	if c == nil || c.cache.unused() || n.DryRun || n.Kind() != push.ToToken {
		return false
	}
	_, known := c.cache.get(tokenKey(n), cmp.Or(c.TTL, 24*time.Hour))
	return known
}

func (c *ReplacementCache) add(n *push.Notification) {
	c.cache.put(tokenKey(n), struct{}{}, cmp.Or(c.MaxEntries, 100_000))
}

// replacement returns the replacement of n's target.
func (r *Route) replacement(n *push.Notification) (replacement push.Target, ok bool) {
	provider, ok := r.Provider.(Replacer)
	if !ok {
		return push.Target{}, false
	}
	return provider.Replacement(&n.Target)
}

// sendReplaced sends c to the known replacement of its target. It returns false if there is none.
func (r *Route) sendReplaced(ctx context.Context, c *push.Call) bool {
	if !r.Replacements.has(c.Notification) {
		return false
	}
	to, ok := r.replacement(c.Notification)
	if !ok {
		return false
	}
	r.sendTo(ctx, c, to, 0)
	if c.Receipt.Verdict == push.Unregistered {
		r.Replacements.cache.remove(tokenKey(c.Notification))
	} else {
		c.Receipt.Replaced = &to
	}
	return true
}

// tryReplacement sends c, whose target is unregistered, to the replacement of the target, if there is
// one and no attempt can have reached the device. If the provider accepts that, it is the result, and
// later notifications go there at once. If the provider refuses it, the receipt keeps its outcome, with
// the attempt. Another result says nothing about the device and becomes the receipt's: a sender that
// deleted the target could not reach the device any more.
func (r *Route) tryReplacement(ctx context.Context, c *push.Call) {
	if r.Replacements == nil || c.Receipt.Verdict != push.Unregistered || !mayReplace(c) {
		return
	}
	to, ok := r.replacement(c.Notification)
	if !ok {
		return
	}
	first := c.Receipt
	r.sendTo(ctx, c, to, len(first.Attempts))
	attempts := append(first.Attempts, c.Receipt.Attempts...)
	switch c.Receipt.Verdict {
	case push.Accepted:
		r.Replacements.add(c.Notification)
		r.Unregistered.forget(c.Notification)
		c.Receipt.Replaced = &to
	case push.Unregistered, push.Refused, push.Unauthorized:
		c.Receipt = first
	default:
		r.Unregistered.forget(c.Notification)
	}
	c.Receipt.Attempts = attempts
}

// mayReplace reports whether an attempt at the replacement is allowed after those in the receipt of c.
func mayReplace(c *push.Call) bool {
	attempts := c.Receipt.Attempts
	return len(attempts) > 0 && !c.DryRun && !c.MayHaveArrived && c.MayRetry(len(attempts)) &&
		!slices.ContainsFunc(attempts, func(a push.Attempt) bool { return a.Verdict == push.Unknown })
}

// sendTo sends c to another target and sets its receipt. Callers and caches know the notification by its
// own target, which does not change.
func (r *Route) sendTo(ctx context.Context, c *push.Call, to push.Target, prior int) {
	n := *c.Notification
	n.Target = to
	if limit := n.Retry; limit != nil && limit.Attempts > 0 {
		n.Retry = &push.Retry{Attempts: max(1, limit.Attempts-prior)}
	}
	call := *c
	call.Notification, call.Content = &n, nil
	r.send(ctx, &call, prior)
	c.Receipt = call.Receipt
}
