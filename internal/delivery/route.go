// SPDX-License-Identifier: Apache-2.0

// Package delivery is the story: a Route carries one notification to its end,
// attempt by attempt. It decides nothing that a pool, a policy, a gate or a
// provider can decide; it asks them in turn, and waits where they say so.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// Provider speaks one push service's protocol. It keeps no connection.
type Provider interface {
	// Translate checks n and writes it as the service's request, all but the
	// credential. What cannot be sent as it is gives a *push.FieldError.
	Translate(n *push.Notification) (*wire.Request, error)
	// Send makes one attempt at r on conn and judges its end. All attempts at
	// n share r, so Send copies what it changes.
	Send(ctx context.Context, conn wire.Doer, n *push.Notification, r *wire.Request) push.Outcome
}

// Route carries the notifications of one app to one platform. Provider and
// Pool are required. It may be used by any number of goroutines and must not
// be changed once in use.
type Route struct {
	Provider Provider
	Pool     *pool.Pool
	// Environment is the one that Pool's endpoints belong to; empty where there
	// is but one.
	Environment push.Environment
	// Retry decides about further attempts; zero is the default policy.
	Retry retry.Policy
	// Budget bounds the retries of all routes that share it, one for each
	// credential; nil sets no bound, and a provider in trouble gets a storm.
	Budget *retry.Budget
	// Brake holds back from a provider that is down altogether, one for each
	// credential; nil never does.
	Throttler *retry.AdaptiveThrottler
	// Gate guards the provider's quota, one for each credential; nil admits
	// everything.
	RateLimiter *quota.RateLimiter
	// Ceiling bounds what the gateway carries, one for all routes; nil sets no
	// bound, and who is patient enough can fill the memory.
	ConcurrencyLimit *ConcurrencyLimit
	// Admission bounds what is on its way, one for each credential; nil sets
	// no bound, and in an overload everybody waits.
	AdaptiveLimiter *AdaptiveLimiter
	// Dead remembers dead tokens; nil sends to them again and again.
	Unregistered *UnregisteredCache
	// Observer is told what happens; zero tells nobody.
	Observer Observer
	// Logger gets what should never happen; nil discards it.
	Logger *slog.Logger
}

// Send carries n to its end and tells all about it. It returns when a verdict
// is had or none can be: no wait of its own goes beyond ctx's deadline, and
// none outlasts ctx.
func (r *Route) Send(ctx context.Context, n *push.Notification) push.Receipt {
	started := time.Now()
	receipt := r.run(ctx, n, 0)
	r.Observer.ended(n, receipt, started)
	return receipt
}

// run is Send for who tells the end himself and has so many attempts at n
// behind him.
func (r *Route) run(ctx context.Context, n *push.Notification, before int) push.Receipt {
	s := delivery{Route: r, n: n, prior: before, deadline: sendDeadline(ctx, n)}
	if cause, ok := s.acquireGlobal(ctx); !ok {
		return s.finish(cause)
	}
	defer s.ConcurrencyLimit.release(s.globalPermit)
	request, err := r.translate(n)
	if err != nil {
		return s.finish(translateFailure(err))
	}
	s.request = request
	if o, ok := s.Unregistered.get(n); ok {
		return s.finish(o)
	}
	if s.Throttler.RejectionRate() > 0 { // nobody is to wait at the gate for a provider that is down
		if cause, ok := s.acquireThrottle(); !ok {
			return s.finish(cause)
		}
	}
	for {
		if cause, ok := s.waitRateLimit(ctx); !ok {
			return s.finish(cause)
		}
		lease, cause := s.acquireLease(ctx)
		if lease == nil {
			return s.finish(cause)
		}
		outcome := s.attempt(ctx, lease)
		if cause, ok := s.waitRetry(ctx, outcome); !ok {
			return s.finish(cause)
		}
		if outcome.Verdict != push.Unsent { // else its connection went away, and nothing has failed on it
			s.tried = append(s.tried, lease.Endpoint())
		}
	}
}

// Check tells whether n could be sent as it is, for those who accept it now
// and send it later. What is wrong with n is a *push.FieldError.
func (r *Route) Check(n *push.Notification) error {
	_, err := r.translate(n)
	return err
}

// translate has the provider write the request of n.
func (r *Route) translate(n *push.Notification) (request *wire.Request, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.logPanic(n, p)
			err = errProviderPanic
		}
	}()
	request, err = r.Provider.Translate(n)
	if err != nil {
		return nil, err
	}
	request.Timeout = r.Retry.Timeout()
	return request, nil
}

var errProviderPanic = errors.New("delivery: the provider panicked on this notification (the log has the stack; please report it)")

// translateFailure is the outcome of a notification that could not be translated.
func translateFailure(err error) push.Outcome {
	if errors.Is(err, errProviderPanic) {
		return push.Outcome{Reason: reasonProviderPanic}
	}
	return push.InvalidNotification(err)
}

// logPanic logs a panic of the provider's. A panic's value may quote what it
// choked on, so only the runtime's own words are repeated.
func (r *Route) logPanic(n *push.Notification, p any) {
	if r.Logger == nil {
		return
	}
	what := fmt.Sprintf("%T", p)
	if err, ok := p.(runtime.Error); ok {
		what = err.Error()
	}
	r.Logger.Error("the provider panicked; please report this", slog.String("app", n.App),
		slog.String("platform", string(n.Platform)), slog.String("panic", what), slog.String("stack", string(debug.Stack())))
}
