// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"math/rand/v2"
	"time"

	"github.com/sluice-push/sluice/push"
)

// The backoff doubles with every reschedule. It is drawn from the upper half, so that tasks that
// failed together are not retried together. A task that no provider was asked about is not at fault, and
// waits only as long as its flow pauses.
const (
	minBackoff = time.Second
	maxBackoff = 5 * time.Minute
)

// retryAt returns when t is retried after receipt, and whether it is retried at all. tried is set if
// attempts have led to the receipt. If the TTL expires before, retryAt changes the receipt to Expired.
func (c *Config) retryAt(t *task, receipt *push.Receipt, tried bool) (at time.Time, retry bool) {
	if !receipt.Retryable() || !t.Notification.MayRetry(t.AttemptsStarted) || receipt.Verdict == push.Unknown && !t.Notification.MayRetryUnknown() {
		return time.Time{}, false
	}
	wait := backoff(t.Reschedules)
	if !tried {
		wait = min(wait, maxPause)
	}
	at = time.Now().UTC().Add(max(receipt.RetryAfter, wait))
	if expiry, ok := t.Notification.Expiry(); ok && at.After(expiry) {
		if receipt.Verdict != push.Unknown { // Unknown stays, because the notification may have arrived
			receipt.Outcome = push.Outcome{Verdict: push.Expired, Reason: reasonTTLExpired}
		}
		return time.Time{}, false
	}
	return at, at.Before(t.Notification.Due().Add(c.RetryFor))
}

func backoff(reschedules int) time.Duration {
	wait := maxBackoff
	if reschedules < 16 {
		wait = min(maxBackoff, minBackoff<<reschedules)
	}
	return wait/2 + rand.N(wait/2)
}
