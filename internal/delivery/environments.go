// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Environments sends the notifications of one app to a provider with separate environments. A
// notification goes to the environment that it names, or to the default. With Cache, Environments
// detects the environment of tokens: if a token is not registered in the default environment, it
// tries the other one. Environments may be used by multiple goroutines and must not be changed after first
// use.
type Environments struct {
	// Default is the environment of notifications that name none.
	Default push.Environment
	// Routes are the routes by environment. There must be one for Default.
	Routes map[push.Environment]*Route
	// Cache stores the detected environments; nil disables detection.
	Cache *EnvironmentCache
}

var _ Sender = (*Environments)(nil)

// Send implements Sender. After detection, the receipt lists the attempts in both environments.
func (e *Environments) Send(ctx context.Context, c *push.Call) *push.Receipt {
	route, err := e.route(c.Notification)
	if err != nil {
		return refuse(c, err)
	}
	if !e.detects(c.Notification) {
		return route.Send(ctx, c)
	}
	start := time.Now()
	e.detectAndSend(ctx, c)
	route.Observer.ended(c, start)
	return &c.Receipt
}

// SendAll sends the calls as a run if they go to one environment and need no detection.
func (e *Environments) SendAll(ctx context.Context, calls []*push.Call, ended func([]*push.Call)) {
	if route := e.commonRoute(calls); route != nil {
		route.SendAll(ctx, calls, ended)
		return
	}
	push.SendEach(ctx, calls, ended, e.Send)
}

// commonRoute returns the route of all calls, or nil if there is none or if a call needs a detection.
func (e *Environments) commonRoute(calls []*push.Call) (common *Route) {
	for _, c := range calls {
		route, err := e.route(c.Notification)
		if err != nil || e.detects(c.Notification) || common != nil && route != common {
			return nil
		}
		common = route
	}
	return common
}

// detects reports whether the environment of n's token is detected. A dry run cannot detect it.
func (e *Environments) detects(n *push.Notification) bool {
	return e.Cache != nil && !n.DryRun && n.Environment() == "" && n.Kind() == push.ToToken
}

// Check validates n without sending it. The error is a *push.FieldError.
func (e *Environments) Check(n *push.Notification) error {
	route, err := e.route(n)
	if err != nil {
		return err
	}
	return route.Check(n)
}

// Translate returns the request of the environment that n names, or of the default.
func (e *Environments) Translate(n *push.Notification) (*wire.Request, error) {
	route, err := e.route(n)
	if err != nil {
		return nil, err
	}
	return route.Translate(n)
}

func (e *Environments) route(n *push.Notification) (*Route, error) {
	env := n.Environment()
	if env == "" {
		env = e.Default
	}
	if route, ok := e.Routes[env]; ok {
		return route, nil
	}
	return nil, &push.FieldError{Field: "apns.environment", Reason: "EnvironmentNotConfigured", Allowed: "production or sandbox, and configured for this app"}
}

// detectAndSend sends c to the known environment of its token. If it is not known, detectAndSend
// detects it, unless another call already does.
func (e *Environments) detectAndSend(ctx context.Context, c *push.Call) {
	key := tokenKey(c.Notification)
	env, leader := e.Cache.get(ctx, key)
	if env != "" {
		e.Routes[env].send(ctx, c, 0)
		if c.Receipt.WrongEnvironment && env != e.Default {
			e.Cache.cache.remove(key)
		}
		return
	}
	defer func() { e.Cache.finish(key, env, env != e.Default || c.Receipt.WrongEnvironment, leader) }()
	env = e.tryBoth(ctx, c)
}

// tryBoth sends c to the default environment and, if the token is not registered there, to the other
// one. env is the environment of the token, Default if it has none, and "" if the result is
// inconclusive.
func (e *Environments) tryBoth(ctx context.Context, c *push.Call) (env push.Environment) {
	e.Routes[e.Default].send(ctx, c, 0)
	otherEnv, other := e.otherRoute()
	switch {
	case !c.Receipt.WrongEnvironment:
		return confirmedEnvironment(&c.Receipt, e.Default)
	case other == nil:
		return e.Default
	}
	first := c.Receipt
	other.send(ctx, c, len(first.Attempts))
	attempts := append(first.Attempts, c.Receipt.Attempts...)
	if c.Receipt.WrongEnvironment || c.Receipt.Verdict == push.Unauthorized { // many keys are valid for one environment only
		c.Receipt, otherEnv = first, e.Default
	} else {
		otherEnv = confirmedEnvironment(&c.Receipt, otherEnv)
	}
	c.Receipt.Attempts = attempts
	return otherEnv
}

func (e *Environments) otherRoute() (push.Environment, *Route) {
	for env, route := range e.Routes {
		if env != e.Default {
			return env, route
		}
	}
	return "", nil
}

// confirmedEnvironment returns env if r shows that the token belongs to env, and "" otherwise.
func confirmedEnvironment(r *push.Receipt, env push.Environment) push.Environment {
	if r.Verdict == push.Accepted || r.Verdict == push.Unregistered {
		return env
	}
	return ""
}
