// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
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
)

// Executor makes the attempts at a notification, or at any other call to a group of endpoints, until
// it has a final outcome. All decisions are made by the limits, the pool, the retry policy and the
// caller's Attempt; the Executor calls them in order and waits where they require it. Only Pool is
// required. An Executor may be used by multiple goroutines and must not be changed after first use.
type Executor struct {
	Pool *pool.Pool
	// Environment is the environment of Pool's endpoints; empty if the provider has only one.
	Environment push.Environment
	// Retry decides about retries; the zero value is the default policy.
	Retry retry.Policy
	// Budget bounds the retries of all executors that share a credential; nil sets no limit, and
	// retries can overload a failing provider.
	Budget *retry.Budget
	// Throttler rejects notifications while the provider is down; one per credential. nil never
	// rejects.
	Throttler *retry.AdaptiveThrottler
	// RateLimiter enforces the quota of the provider; one per credential. nil sets no limit.
	RateLimiter *quota.RateLimiter
	// ConcurrencyLimit bounds the notifications in the gateway; one for all executors. nil sets no
	// limit, and waiting notifications can use up the memory.
	ConcurrencyLimit *ConcurrencyLimit
	// Observer is called on events; the zero value ignores them.
	Observer Observer
	// Logger logs panics of the provider, responses of intermediaries, and when the provider starts
	// to limit the sender; nil discards them.
	Logger *slog.Logger

	// When these were last logged, in Unix seconds; atomic.
	intermediaryLogged, limitLogged uint32
}

// Attempt makes one attempt on a lease and returns its outcome. It does not release the lease.
type Attempt func(ctx context.Context, lease *pool.Lease) push.Outcome

// Do makes attempts at c until it has a final outcome, sets c.Receipt and returns its address. No wait
// in Do exceeds ctx's deadline, and all waits end when ctx does.
func (e *Executor) Do(ctx context.Context, c *push.Call, attempt Attempt) *push.Receipt {
	start := time.Now()
	x := execution{Executor: e, Call: c, makeAttempt: attempt}
	x.run(ctx)
	e.Observer.ended(c, start)
	return &c.Receipt
}

// logInterval is the minimum time between two log lines with the same message by one executor.
const logInterval = 60 // seconds

// mayLog reports whether to log a message that was last logged at last.
func (e *Executor) mayLog(last *uint32) bool {
	now, before := uint32(time.Now().Unix()), atomic.LoadUint32(last)
	return e.Logger != nil && now-before >= logInterval && atomic.CompareAndSwapUint32(last, before, now)
}

// logIntermediary logs an attempt whose response did not come from the push service.
func (e *Executor) logIntermediary(n *push.Notification, a *push.Attempt) {
	if !e.mayLog(&e.intermediaryLogged) {
		return
	}
	e.Logger.Warn("response is not from the push service", slog.String("app", n.App), slog.String("platform", string(n.Platform)),
		slog.String("endpoint", a.Endpoint), slog.Int("http", a.HTTP), slog.String("reason", a.Reason), slog.String("detail", a.Detail))
}

// logLimited logs that the provider limits everything that is sent with the credential, and not one
// device.
func (e *Executor) logLimited(n *push.Notification, a *push.Attempt) {
	if !e.mayLog(&e.limitLogged) {
		return
	}
	e.Logger.Warn("provider limits the sender", slog.String("app", n.App), slog.String("platform", string(n.Platform)),
		slog.String("endpoint", a.Endpoint), slog.Int("http", a.HTTP), slog.String("reason", a.Reason),
		slog.String("closed_for", e.RateLimiter.RetryAfter(n).Round(time.Millisecond).String()), slog.Float64("rate", e.RateLimiter.Status().Rate))
}

// recoverPanic logs a panic of the provider and calls set with its outcome. It is called by defer. The
// outcome is unknown, because the provider may already have sent the request. The value of a panic can
// contain secrets of the notification: the log has the text of runtime errors and only the type of
// other values.
func (e *Executor) recoverPanic(n *push.Notification, set func(push.Outcome)) {
	p := recover()
	if p == nil {
		return
	}
	set(push.Outcome{Verdict: push.Unknown, Reason: reasonProviderPanic})
	if e.Logger == nil {
		return
	}
	value := fmt.Sprintf("%T", p)
	if err, ok := p.(runtime.Error); ok {
		value = err.Error()
	}
	e.Logger.Error("provider panicked, please report this bug", slog.String("app", n.App),
		slog.String("platform", string(n.Platform)), slog.String("panic", value), slog.String("stack", string(debug.Stack())))
}
