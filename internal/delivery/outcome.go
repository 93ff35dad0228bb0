// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/wire"
)

// Our own words for an end without a provider's, beside those of wire and pool.
const (
	reasonGateClosed    = "GATE_CLOSED"    // its quota has no place in time
	reasonProviderDown  = "PROVIDER_DOWN"  // the brake holds it back
	reasonOverloaded    = "OVERLOADED"     // more is on the way than the endpoints can bear
	reasonOverShare     = "APP_OVER_SHARE" // and this app has more of it than its share
	reasonGatewayFull   = "GATEWAY_FULL"   // the gateway carries all that it is to, or all that it is to of this app's
	reasonTTLExpired    = "TTL_EXPIRED"
	reasonProviderPanic = "PROVIDER_PANIC" // a defect of ours
	reasonNotNoted      = "NOT_NOTED"      // the queue could not write down that it was leaving
)

// finalOutcome is the honest end of a notification after these attempts, when
// cause is what stopped it: the last attempt's outcome, or what kept a further
// attempt from being made.
//
//   - A provider's word on the notification itself stands, whatever went before.
//   - Otherwise one attempt whose end is unknown makes the end unknown: it may
//     have arrived, and no later failure can take that back.
//   - Otherwise it is what the last attempt met, and the longest wait asked for.
func finalOutcome(attempts []push.Attempt, cause push.Outcome) push.Outcome {
	switch cause.Verdict {
	case push.Accepted, push.Unregistered, push.Refused:
		return cause
	}
	for i := range attempts {
		if attempts[i].Verdict == push.Unknown {
			return attempts[i].Outcome
		}
	}
	if len(attempts) == 0 || cause.Verdict == push.Abandoned {
		return cause
	}
	last := attempts[len(attempts)-1].Outcome
	last.RetryAfter = max(last.RetryAfter, cause.RetryAfter)
	return last
}

// orAbandoned is o, or Abandoned where the caller has left: then nobody is to
// blame.
func orAbandoned(ctx context.Context, o push.Outcome) push.Outcome {
	if errors.Is(ctx.Err(), context.Canceled) {
		return push.Outcome{Verdict: push.Abandoned, Reason: string(wire.Canceled)}
	}
	return o
}

func rateLimited(wait time.Duration) push.Outcome {
	return push.Outcome{Verdict: push.Throttled, Reason: reasonGateClosed, RetryAfter: wait}
}

var expiredOutcome = push.Outcome{Verdict: push.Expired, Reason: reasonTTLExpired}

// minTTL is how long "now or never" (TTL 0) lasts for us: the first attempt
// must find such a notification still alive.
const minTTL = time.Second

// sendDeadline returns when the caller stops waiting or n loses its worth, whichever
// comes first, or zero.
func sendDeadline(ctx context.Context, n *push.Notification) time.Time {
	deadline, bounded := ctx.Deadline()
	if at, ok := expiry(n); ok && (!bounded || at.Before(deadline)) {
		return at
	}
	return deadline
}

// expiry is n's, or false where it has none or nobody said when it was accepted.
func expiry(n *push.Notification) (time.Time, bool) {
	at, ok := n.Expiry()
	if !ok || n.AcceptedAt.IsZero() {
		return time.Time{}, false
	}
	if soonest := n.Due().Add(minTTL); at.Before(soonest) {
		return soonest, true
	}
	return at, true
}

func expired(n *push.Notification) bool {
	at, ok := expiry(n)
	return ok && !time.Now().Before(at)
}
