// SPDX-License-Identifier: Apache-2.0

// Package delivery sends notifications. A Route makes the attempts at one notification until it has
// a final outcome. All decisions are made by the pool, the retry policy, the limiters and the
// provider; the Route calls them in order and waits where they require it.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
	"github.com/sluice-push/sluice/wire"
)

// Provider implements the protocol of one push service. It holds no connections.
type Provider interface {
	// Translate validates n and returns the request of the service without the credential. The
	// error of an invalid notification is a *push.FieldError. What it does not recognize in the
	// provider-specific block it passes on, with a call of n.Warn.
	Translate(n *push.Notification) (*wire.Request, error)
	// Send makes one attempt at r on conn and returns its outcome. All attempts at n share r: Send
	// must copy what it changes.
	Send(ctx context.Context, conn wire.Doer, n *push.Notification, r *wire.Request) push.Outcome
}

// Route sends the notifications of one app on one platform. Provider and Pool are required. A Route
// may be used by multiple goroutines and must not be changed after first use.
type Route struct {
	Provider Provider
	Pool     *pool.Pool
	// Environment is the environment of Pool's endpoints; empty if the provider has only one.
	Environment push.Environment
	// Retry decides about retries; the zero value is the default policy.
	Retry retry.Policy
	// Budget bounds the retries of all routes that share a credential; nil sets no limit, and
	// retries can overload a failing provider.
	Budget *retry.Budget
	// Throttler rejects notifications while the provider is down; one per credential. nil never
	// rejects.
	Throttler *retry.AdaptiveThrottler
	// RateLimiter enforces the quota of the provider; one per credential. nil sets no limit.
	RateLimiter *quota.RateLimiter
	// ConcurrencyLimit bounds the notifications in the gateway; one for all routes. nil sets no
	// limit, and waiting notifications can use up the memory.
	ConcurrencyLimit *ConcurrencyLimit
	// AdaptiveLimiter bounds the notifications that wait for or hold a lease; one per credential.
	// nil sets no limit, and in an overload all notifications wait.
	AdaptiveLimiter *AdaptiveLimiter
	// Unregistered caches unregistered tokens; nil sends to them again.
	Unregistered *UnregisteredCache
	// Observer is called on events; the zero value ignores them.
	Observer Observer
	// Logger logs panics of the provider, responses of intermediaries, and when the provider starts
	// to limit the sender; nil discards them.
	Logger *slog.Logger

	// When these were last logged, in Unix seconds; atomic.
	intermediaryLogged, limitLogged uint32
}

// Send sends n and returns its receipt. It returns when there is a final outcome. No wait in Send
// exceeds ctx's deadline, and all waits end when ctx does.
func (r *Route) Send(ctx context.Context, n *push.Notification) push.Receipt {
	start := time.Now()
	receipt := r.run(ctx, n, 0)
	r.Observer.ended(n, receipt, start)
	return receipt
}

// run is Send without the Ended callback. prior is the number of earlier attempts at n on other
// routes.
func (r *Route) run(ctx context.Context, n *push.Notification, prior int) push.Receipt {
	d := delivery{Route: r, n: n, prior: prior, deadline: sendDeadline(ctx, n)}
	if cause, ok := d.acquireGlobal(ctx); !ok {
		return d.finish(cause)
	}
	defer d.ConcurrencyLimit.release(d.globalPermit)
	request, err := r.translate(n)
	if err != nil {
		return d.finish(translateFailure(err))
	}
	d.request = request
	if o, ok := d.Unregistered.get(n); ok {
		return d.finish(o)
	}
	if d.Throttler.RejectionRate() > 0 { // do not wait for the rate limit while the provider is down
		if cause, ok := d.acquireThrottle(); !ok {
			return d.finish(cause)
		}
	}
	for {
		if cause, ok := d.waitRateLimit(ctx); !ok {
			return d.finish(cause)
		}
		lease, cause := d.acquireLease(ctx)
		if lease == nil {
			return d.finish(cause)
		}
		outcome := d.attempt(ctx, lease)
		if cause, ok := d.waitRetry(ctx, outcome); !ok {
			return d.finish(cause)
		}
		if outcome.Verdict != push.Unsent { // an unsent attempt says nothing about its endpoint
			d.tried = append(d.tried, lease.Endpoint())
		}
	}
}

// Check validates n without sending it. The error of an invalid notification is a *push.FieldError.
func (r *Route) Check(n *push.Notification) error {
	_, err := r.translate(n)
	return err
}

// translate returns the provider's request for n with the attempt timeout.
func (r *Route) translate(n *push.Notification) (request *wire.Request, err error) {
	n.Warnings = nil // those of an earlier validation
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

var errProviderPanic = errors.New("delivery: provider panicked (see the log for the stack)")

// translateFailure returns the outcome of a notification that could not be translated.
func translateFailure(err error) push.Outcome {
	if errors.Is(err, errProviderPanic) {
		return push.Outcome{Reason: reasonProviderPanic}
	}
	return push.InvalidNotification(err)
}

// logInterval is the minimum time between two log lines with the same message on one route.
const logInterval = 60 // seconds

// mayLog reports whether to log a message that was last logged at last.
func (r *Route) mayLog(last *uint32) bool {
	now, before := uint32(time.Now().Unix()), atomic.LoadUint32(last)
	return r.Logger != nil && now-before >= logInterval && atomic.CompareAndSwapUint32(last, before, now)
}

// logIntermediary logs an attempt whose response did not come from the push service.
func (r *Route) logIntermediary(n *push.Notification, a *push.Attempt) {
	if !r.mayLog(&r.intermediaryLogged) {
		return
	}
	r.Logger.Warn("response is not from the push service", slog.String("app", n.App), slog.String("platform", string(n.Platform)),
		slog.String("endpoint", a.Endpoint), slog.Int("http", a.HTTP), slog.String("reason", a.Reason), slog.String("detail", a.Detail))
}

// logLimited logs that the provider limits everything that is sent with the credential, and not one
// device.
func (r *Route) logLimited(n *push.Notification, a *push.Attempt) {
	if !r.mayLog(&r.limitLogged) {
		return
	}
	r.Logger.Warn("provider limits the sender", slog.String("app", n.App), slog.String("platform", string(n.Platform)),
		slog.String("endpoint", a.Endpoint), slog.Int("http", a.HTTP), slog.String("reason", a.Reason),
		slog.String("closed_for", r.RateLimiter.RetryAfter(n).Round(time.Millisecond).String()), slog.Float64("rate", r.RateLimiter.Status().Rate))
}

// logPanic logs a panic of the provider. The value of a panic can contain secrets of the
// notification: logPanic logs the text of runtime errors and only the type of other values.
func (r *Route) logPanic(n *push.Notification, p any) {
	if r.Logger == nil {
		return
	}
	value := fmt.Sprintf("%T", p)
	if err, ok := p.(runtime.Error); ok {
		value = err.Error()
	}
	r.Logger.Error("provider panicked, please report this bug", slog.String("app", n.App),
		slog.String("platform", string(n.Platform)), slog.String("panic", value), slog.String("stack", string(debug.Stack())))
}
