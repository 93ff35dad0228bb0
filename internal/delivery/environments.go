// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Environments carries the notifications of one app to a provider that keeps two environments apart: each to the one that
// its sender named, else to the app's own. With Whereabouts, a token that the app's own does not know is looked for in the
// other one, once. It may be used by any number of goroutines and must not be changed once in use.
type Environments struct {
	// Own is the app's: where a notification goes that names none.
	Default push.Environment
	// Routes are the ways there, by environment. There must be one to Own.
	Routes map[push.Environment]*Route
	// Whereabouts remembers what was found; nil never looks.
	Cache *EnvironmentCache
}

var _ Sender = (*Environments)(nil)

// Send carries n to its end. A receipt of a token that was looked for tells the attempts in both environments.
func (e *Environments) Send(ctx context.Context, n *push.Notification) push.Receipt {
	route, err := e.route(n)
	if err != nil {
		return push.Receipt{ID: n.ID, Outcome: push.InvalidNotification(err)}
	}
	if e.Cache == nil || n.Environment() != "" || n.Kind() != push.ToToken {
		return route.Send(ctx, n)
	}
	began := time.Now()
	receipt := e.detectAndSend(ctx, n)
	route.Observer.ended(n, receipt, began)
	return receipt
}

// Check tells whether n could be sent as it is. Its error is a *push.FieldError.
func (e *Environments) Check(n *push.Notification) error {
	route, err := e.route(n)
	if err != nil {
		return err
	}
	return route.Check(n)
}

func (e *Environments) route(n *push.Notification) (*Route, error) {
	in := n.Environment()
	if in == "" {
		in = e.Default
	}
	if route, ok := e.Routes[in]; ok {
		return route, nil
	}
	return nil, &push.FieldError{Field: "apns.environment", Reason: "EnvironmentNotConfigured", Allowed: "production or sandbox, as far as this app has both"}
}

// detectAndSend sends n to where its token is known to be, or looks for it, unless somebody else does so just now.
func (e *Environments) detectAndSend(ctx context.Context, n *push.Notification) (receipt push.Receipt) {
	key := e.Cache.key(n)
	home, first := e.Cache.get(ctx, key)
	if home != "" {
		receipt = e.Routes[home].run(ctx, n, 0)
		if receipt.WrongEnvironment && home != e.Default {
			e.Cache.remove(key)
		}
		return receipt
	}
	defer func() { e.Cache.finish(key, home, home != e.Default || receipt.WrongEnvironment, first) }()
	receipt, home = e.tryBoth(ctx, n)
	return receipt
}

// tryBoth sends n to the app's own environment, and to the other one if that does not know the token. home is where it is
// known, Own also where it is known nowhere, and "" where that remains open.
func (e *Environments) tryBoth(ctx context.Context, n *push.Notification) (receipt push.Receipt, home push.Environment) {
	receipt = e.Routes[e.Default].run(ctx, n, 0)
	if !receipt.WrongEnvironment {
		return receipt, confirmedEnvironment(receipt.Outcome, e.Default)
	}
	in, other := e.otherRoute()
	if other == nil {
		return receipt, e.Default
	}
	there := other.run(ctx, n, len(receipt.Attempts))
	there.Attempts = append(receipt.Attempts, there.Attempts...)
	if there.WrongEnvironment || there.Verdict == push.Unauthorized { // many keys are good for one environment alone
		receipt.Attempts = there.Attempts
		return receipt, e.Default
	}
	return there, confirmedEnvironment(there.Outcome, in)
}

func (e *Environments) otherRoute() (push.Environment, *Route) {
	for in, route := range e.Routes {
		if in != e.Default {
			return in, route
		}
	}
	return "", nil
}

// confirmedEnvironment is in if the outcome shows that the token is known there, else "".
func confirmedEnvironment(o push.Outcome, in push.Environment) push.Environment {
	if o.Verdict == push.Accepted || o.Verdict == push.Unregistered {
		return in
	}
	return ""
}
