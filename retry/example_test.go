// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"fmt"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

func Example() {
	policy := retry.Policy{Attempts: 3}
	budget := new(retry.Budget) // one per credential
	n := &push.Notification{ID: "2f3c…"}

	budget.Deposit() // before the first attempt is sent
	outcome := push.Outcome{Verdict: push.Unsent, Reason: "GOAWAY_UNPROCESSED"}
	wait, ok := policy.After(n, 1, outcome)
	fmt.Println(outcome.Reason, ok && budget.Withdraw(outcome), wait)

	outcome = push.Outcome{Verdict: push.Throttled, RetryAfter: time.Minute}
	_, ok = policy.After(n, 2, outcome)
	fmt.Println("Retry-After of a minute:", ok)

	outcome = push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT"}
	_, ok = policy.After(n, 2, outcome)
	fmt.Println("outcome unknown:", ok)
	// Output:
	// GOAWAY_UNPROCESSED true 0s
	// Retry-After of a minute: false
	// outcome unknown: false
}
