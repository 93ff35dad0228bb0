// SPDX-License-Identifier: Apache-2.0

// Package retry decides, and only decides: again or not, and after how long.
// It sends nothing, waits for nothing, and reads no status code.
package retry

import (
	"cmp"
	"time"

	"github.com/sluice-push/sluice/push"
)

// Policy decides after every attempt whether there is another. It is a value:
// copy it, change a field, use it. The zero value is the default policy.
type Policy struct {
	// Attempts is how many attempts a notification gets in all, but for those
	// that were provably never processed; default 3. 1 never retries.
	Attempts int
	// AttemptTimeout is how long an endpoint may take to answer one attempt;
	// default 5s. Below the provider's slowest honest answer it makes unknown
	// ends, and with on_unknown "always" duplicates.
	AttemptTimeout time.Duration
	// Transient is the longest wait before the second attempt after a passing
	// trouble; it doubles with every attempt. Default 50ms.
	Transient time.Duration
	// Throttled is the same after a refusal for quota; default 1s.
	Throttled time.Duration
	// Cap is the longest that a backoff grows; default 20s.
	Cap time.Duration
	// RetryAfter says what the provider's own wait counts for; default Comply.
	RetryAfter Strategy
	// MaxRetryAfter is the longest wait that a provider or its quota can impose
	// on a send; default 20s. When it would be more, the send ends and its
	// receipt says how long.
	MaxRetryAfter time.Duration
	// Rules are exceptions. The first that matches an outcome counts.
	Rules []Rule
	// Rand returns a number in [0, 1) for the jitter; nil is math/rand/v2.
	Rand func() float64
}

// Strategy is what the wait that a provider asks for counts for.
type Strategy string

// The strategies. The zero value means Comply. A scope that a quota's gate
// holds closed stays closed under any of them.
const (
	Comply Strategy = "comply" // wait at least that long
	Ignore Strategy = "ignore" // back off by our own numbers: many providers answer this with longer bans
	Stop   Strategy = "stop"   // end the send and report it to the caller
)

// Rule is an exception to a Policy for some outcomes. It can forbid an attempt
// or change its wait; it never allows what the outcome forbids.
type Rule struct {
	// Verdict is that of the outcomes meant; zero means every verdict.
	Verdict push.Verdict
	// Reason is the word of the outcomes meant; empty means every reason.
	Reason string
	// Stop ends the send.
	Stop bool
	// Least is a wait that no backoff goes below; default none.
	MinWait time.Duration
	// Base and Cap stand in for the policy's own; zero leaves those.
	Base, Cap time.Duration
}

// FCMBulk returns what Google asks of senders in bulk: after 500 and 503, no
// second try within ten seconds, backing off to a minute. The waits for a 429
// come with its outcome. It slows every failed send down, so it is no default.
// Source: "Best practices when sending FCM messages at scale".
func FCMBulk() []Rule {
	return []Rule{{Verdict: push.Unavailable, MinWait: 10 * time.Second, Base: 10 * time.Second, Cap: time.Minute}}
}

// After tells whether n gets another attempt after its attempt-th (from 1; the
// caller says which count) ended in o, and how long to wait first. What n asks for can only lower the policy's count. It is
// a function of its arguments and the jitter alone. A wait is at most MaxRetryAfter and a full backoff.
func (p Policy) After(n *push.Notification, attempt int, o push.Outcome) (wait time.Duration, again bool) {
	rule := p.rule(o)
	if attempt >= cmp.Or(p.Attempts, 3) || !n.MayRetry(attempt) || !o.Retryable() || rule.Stop {
		return 0, false
	}
	switch o.Verdict {
	case push.Unsent, push.Unauthorized:
		return 0, true // nothing was spoilt, or the cause is mended: a wait would help nobody
	case push.Unknown:
		if !n.MayRetryUnknown() {
			return 0, false
		}
	}
	least, bearable := p.minWait(o, rule)
	if !bearable {
		return 0, false
	}
	return least + p.backoff(attempt, o, rule), true
}

// Timeout returns AttemptTimeout or its default.
func (p Policy) Timeout() time.Duration { return cmp.Or(p.AttemptTimeout, 5*time.Second) }

// MaxWait returns MaxRetryAfter or its default.
func (p Policy) MaxWait() time.Duration { return cmp.Or(p.MaxRetryAfter, 20*time.Second) }

// rule returns the first rule that matches o, or one that changes nothing.
func (p Policy) rule(o push.Outcome) Rule {
	for _, r := range p.Rules {
		if (r.Verdict == 0 || r.Verdict == o.Verdict) && (r.Reason == "" || r.Reason == o.Reason) {
			return r
		}
	}
	return Rule{}
}

// minWait returns the wait that o imposes, and false where it cannot be borne.
func (p Policy) minWait(o push.Outcome, rule Rule) (time.Duration, bool) {
	least := rule.MinWait
	switch p.RetryAfter {
	case Stop:
		if o.RetryAfter > 0 {
			return 0, false
		}
	case Ignore:
	default:
		least = max(least, o.RetryAfter)
	}
	return least, least <= p.MaxWait()
}
