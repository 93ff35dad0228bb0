// SPDX-License-Identifier: Apache-2.0

// Package retry decides whether to retry a notification and how long to wait first. It sends
// nothing, never sleeps, and reads no status code.
package retry

import (
	"cmp"
	"math"
	"math/rand/v2"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Policy decides after every attempt whether another attempt follows. It is a value and may be
// copied. The zero value is the default policy.
type Policy struct {
	// Attempts is the maximum number of attempts per notification; default 6. Attempts that the
	// provider provably never processed do not count. 1 disables retries.
	Attempts int
	// AttemptTimeout is how long an endpoint may take to answer one attempt; default 5s. If it is
	// shorter than the provider's slowest normal response, outcomes become unknown, and on_unknown
	// "always" sends duplicates.
	AttemptTimeout time.Duration
	// Transient is the maximum wait before the second attempt after a transient failure; default
	// 50ms. It doubles with every attempt.
	Transient time.Duration
	// Throttled is the same after a quota refusal; default 1s.
	Throttled time.Duration
	// Cap is the maximum backoff; default 20s.
	Cap time.Duration
	// RetryAfter says how to treat a Retry-After of the provider; default Comply.
	RetryAfter Strategy
	// MaxRetryAfter is the longest wait that a provider or its quota can impose on a send; default
	// 20s. If the wait would be longer, the send ends and its receipt names the wait.
	MaxRetryAfter time.Duration
	// Rules are exceptions. The first rule that matches an outcome applies.
	Rules []Rule
	// Rand returns a number in [0, 1) for the jitter; default math/rand/v2.
	Rand func() float64
}

// Strategy says how to treat a Retry-After of the provider.
type Strategy string

// The strategies; the zero value means Comply. None of them opens a scope that a quota.RateLimiter
// has closed.
const (
	Comply Strategy = "comply" // wait at least that long
	Ignore Strategy = "ignore" // use the policy's backoff; many providers respond with longer bans
	Stop   Strategy = "stop"   // end the send and report the wait to the caller
)

// Rule is an exception to a Policy for some outcomes. A rule can forbid an attempt or change its
// wait. It never allows an attempt that the outcome forbids.
type Rule struct {
	// Verdict is the verdict to match; zero matches every verdict.
	Verdict push.Verdict
	// Reason is the reason to match; empty matches every reason.
	Reason string
	// Stop ends the send.
	Stop bool
	// MinWait is the minimum wait before the next attempt; default none.
	MinWait time.Duration
	// Base and Cap replace the base backoff and the maximum backoff of the policy; zero keeps them.
	Base, Cap time.Duration
}

// FCMBulk returns the rules that Google asks bulk senders to follow: after 500 and 503, wait at
// least ten seconds and back off up to a minute. The wait after a 429 comes with its outcome. The
// rules delay every failed send and are therefore not the default. Source: "Best practices when
// sending FCM messages at scale".
func FCMBulk() []Rule {
	return []Rule{{Verdict: push.Unavailable, MinWait: 10 * time.Second, Base: 10 * time.Second, Cap: time.Minute}}
}

// After reports whether n gets another attempt after an attempt that ended in o, and how long to
// wait first. attempt is the number of attempts so far that count. Limits in n can only lower the
// policy's number of attempts. The result depends only on the arguments and the jitter. The wait is
// at most MaxRetryAfter plus the maximum backoff.
func (p Policy) After(n *push.Notification, attempt int, o push.Outcome) (wait time.Duration, ok bool) {
	rule := p.rule(o)
	if attempt >= cmp.Or(p.Attempts, 6) || !n.MayRetry(attempt) || !o.Retryable() || rule.Stop {
		return 0, false
	}
	switch o.Verdict {
	case push.Unsent, push.Unauthorized:
		return 0, true // the attempt was not processed or the credential is renewed: waiting does not help
	case push.Unknown:
		if !n.MayRetryUnknown() {
			return 0, false
		}
	}
	minWait, ok := p.minWait(o, rule)
	if !ok {
		return 0, false
	}
	return minWait + p.backoff(attempt, o, rule), true
}

// Timeout returns AttemptTimeout or its default.
func (p Policy) Timeout() time.Duration { return cmp.Or(p.AttemptTimeout, 5*time.Second) }

// MaxWait returns MaxRetryAfter or its default.
func (p Policy) MaxWait() time.Duration { return cmp.Or(p.MaxRetryAfter, 20*time.Second) }

// rule returns the first rule that matches o, or the zero Rule, which changes nothing.
func (p Policy) rule(o push.Outcome) Rule {
	for _, r := range p.Rules {
		if (r.Verdict == 0 || r.Verdict == o.Verdict) && (r.Reason == "" || r.Reason == o.Reason) {
			return r
		}
	}
	return Rule{}
}

// minWait returns the minimum wait after o, and false if it exceeds MaxWait or the strategy is
// Stop.
func (p Policy) minWait(o push.Outcome, rule Rule) (wait time.Duration, ok bool) {
	wait = rule.MinWait
	switch p.RetryAfter {
	case Stop:
		if o.RetryAfter > 0 {
			return 0, false
		}
	case Ignore:
	default:
		wait = max(wait, o.RetryAfter)
	}
	return wait, wait <= p.MaxWait()
}

// backoff returns a random wait between zero and a maximum that doubles with every attempt. This
// "full jitter" spreads the retries of senders that failed together better than jitter around a
// fixed wait (Brooker, "Exponential Backoff And Jitter", 2015). Added to a Retry-After, it spreads
// senders that were given the same time.
func (p Policy) backoff(attempt int, o push.Outcome, rule Rule) time.Duration {
	base := cmp.Or(p.Transient, 50*time.Millisecond)
	if o.Verdict == push.Throttled {
		base = cmp.Or(p.Throttled, time.Second)
	}
	base = cmp.Or(rule.Base, base)
	limit := cmp.Or(rule.Cap, p.Cap, 20*time.Second)
	maxBackoff := min(math.Ldexp(float64(base), attempt-1), float64(limit))
	return time.Duration(maxBackoff * random(p.Rand))
}

// random returns a number in [0, 1) from source, which may be nil.
func random(source func() float64) float64 {
	if source != nil {
		return source()
	}
	return rand.Float64()
}
