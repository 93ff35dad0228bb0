// SPDX-License-Identifier: Apache-2.0

package delivery

import (
	"context"
	"errors"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/wire"
)

// Reasons of outcomes that the gateway itself decides, in addition to those of the packages wire,
// pool, quota and retry.
const (
	reasonGatewayFull   = "GATEWAY_FULL" // the concurrency limit of the gateway, or the app's part of it, is reached
	reasonTTLExpired    = "TTL_EXPIRED"
	reasonProviderPanic = "PROVIDER_PANIC" // a bug in a provider
	reasonNotRecorded   = "NOT_RECORDED"   // BeforeAttempt or BeforeRun failed: the queue could not record the attempt
)

// setReceipt sets the receipt of a call that ended in o, and returns its address. Inlined, it would
// enlarge frames that each call in flight keeps.
//
//go:noinline
func setReceipt(c *push.Call, o *push.Outcome, attempts ...push.Attempt) *push.Receipt {
	c.Receipt = push.Receipt{ID: c.ID, Outcome: *o, Warnings: c.Warnings, Attempts: attempts}
	if c.DryRun {
		c.Receipt.DryRun = dryRunResult(o, len(attempts) > 0)
	}
	return &c.Receipt
}

// dryRunResult says what a dry run has checked. validated is true if the provider has validated the
// notification.
func dryRunResult(o *push.Outcome, validated bool) *push.DryRun {
	d := &push.DryRun{Checked: []push.DryRunCheck{}}
	if o.Verdict == push.Accepted {
		d.Checked = append(d.Checked, push.CheckedFields, push.CheckedPayload, push.CheckedCredential)
		if validated {
			d.Checked = append(d.Checked, push.CheckedProvider)
		}
	}
	return d
}

// refuse sets the receipt of a call that failed validation with err, and returns its address.
func refuse(c *push.Call, err error) *push.Receipt {
	o := push.InvalidNotification(err)
	return setReceipt(c, &o)
}

// finalOutcome returns the outcome of a notification after the given attempts. cause is what ended
// it: the outcome of the last attempt, or what prevented another attempt.
//
//   - If the provider accepted or rejected the notification itself, that is the outcome.
//   - Otherwise, if the result of any attempt is unknown, the outcome is unknown: the notification may have
//     been delivered, whatever happened later.
//   - Otherwise it is the outcome of the last attempt, with the longer Retry-After.
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

// noLease returns the outcome of a notification for which the pool had no lease.
func noLease(err error) *push.Outcome {
	o := push.NoResponse(err)
	if e, ok := errors.AsType[*pool.Error](err); ok {
		o.Detail, o.RetryAfter = e.Detail, e.RetryAfter
	}
	return &o
}

// orAbandoned returns Abandoned if the caller has cancelled ctx, and o otherwise.
func orAbandoned(ctx context.Context, o *push.Outcome) *push.Outcome {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &push.Outcome{Verdict: push.Abandoned, Reason: string(wire.Canceled)}
	}
	return o
}

// rateLimited returns the outcome of a notification that a rate limit rejects for the given time.
func rateLimited(wait time.Duration) *push.Outcome {
	return &push.Outcome{Verdict: push.Throttled, Reason: quota.ReasonClosed, RetryAfter: wait}
}

// expiredOutcome must not be modified.
var expiredOutcome = push.Outcome{Verdict: push.Expired, Reason: reasonTTLExpired}

// minTTL is the minimum lifetime of a notification in the gateway. It gives a notification with TTL
// 0 time for its first attempt.
const minTTL = time.Second

// sendDeadline returns the earlier of ctx's deadline and n's expiry, or the zero time if there is
// neither.
func sendDeadline(ctx context.Context, n *push.Notification) time.Time {
	deadline, ok := ctx.Deadline()
	if at, expires := expiry(n); expires && (!ok || at.Before(deadline)) {
		return at
	}
	return deadline
}

// expiry returns when n expires, and false if it does not or if the time of its acceptance is not
// set.
func expiry(n *push.Notification) (time.Time, bool) {
	at, ok := n.Expiry()
	if !ok || n.AcceptedAt.IsZero() {
		return time.Time{}, false
	}
	if earliest := n.Due().Add(minTTL); at.Before(earliest) {
		return earliest, true
	}
	return at, true
}

func expired(n *push.Notification) bool {
	at, ok := expiry(n)
	return ok && !time.Now().Before(at)
}
