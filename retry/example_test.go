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
	budget := new(retry.Budget) // one for each credential
	n := &push.Notification{ID: "2f3c…"}

	budget.Deposit() // before the first attempt is sent
	outcome := push.Outcome{Verdict: push.Unsent, Reason: "GOAWAY_UNPROCESSED"}
	wait, again := policy.After(n, 1, outcome)
	fmt.Println(outcome.Reason, again && budget.Withdraw(outcome), wait)

	outcome = push.Outcome{Verdict: push.Throttled, RetryAfter: time.Minute}
	_, again = policy.After(n, 2, outcome)
	fmt.Println("asked to wait a minute:", again)

	outcome = push.Outcome{Verdict: push.Unknown, Reason: "RESPONSE_TIMEOUT"}
	_, again = policy.After(n, 2, outcome)
	fmt.Println("may have arrived:", again)
	// Output:
	// GOAWAY_UNPROCESSED true 0s
	// asked to wait a minute: false
	// may have arrived: false
}
