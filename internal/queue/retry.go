// SPDX-License-Identifier: Apache-2.0

package queue

import (
	"math/rand/v2"
	"time"

	"github.com/sluice-push/sluice/push"
)

// The wait before a task is tried again: it doubles with every try, and is drawn at random from its upper half, so that
// what failed together does not come back together.
const (
	minBackoff = time.Second
	maxBackoff = 5 * time.Minute
)

// retryAt tells when t is tried again after receipt and so many attempts, if at all. Where it is its ttl that ends it, receipt says so then.
func (q *Queue) retryAt(t *task, receipt *push.Receipt, attempts int) (at time.Time, again bool) {
	if !receipt.Retryable() || !t.Notification.MayRetry(attempts) || receipt.Verdict == push.Unknown && !t.Notification.MayRetryUnknown() {
		return time.Time{}, false
	}
	at = time.Now().UTC().Add(max(receipt.RetryAfter, backoff(t.Reschedules)))
	if expiry, ok := t.Notification.Expiry(); ok && at.After(expiry) {
		if receipt.Verdict != push.Unknown { // which stays the truth
			receipt.Outcome = push.Outcome{Verdict: push.Expired, Reason: reasonTTLExpired}
		}
		return time.Time{}, false
	}
	return at, at.Before(t.Notification.Due().Add(q.cfg.RetryFor))
}

func backoff(tries int) time.Duration {
	wait := maxBackoff
	if tries < 16 {
		wait = min(maxBackoff, minBackoff<<tries)
	}
	return wait/2 + rand.N(wait/2)
}
