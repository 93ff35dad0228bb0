// SPDX-License-Identifier: Apache-2.0

package push

import (
	"fmt"
	"time"
)

// RejectedError is the error of a limit that does not admit a notification. Its outcome is that of the
// notification, with the time after which to try again in RetryAfter.
type RejectedError struct{ Outcome }

// Reject returns a *RejectedError.
func Reject(v Verdict, reason string, retryAfter time.Duration) error {
	return &RejectedError{Outcome{Verdict: v, Reason: reason, RetryAfter: retryAfter}}
}

// Error implements error.
func (e *RejectedError) Error() string {
	return fmt.Sprintf("%s: %s, retry after %v", e.Verdict, e.Reason, e.RetryAfter)
}
