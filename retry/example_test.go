// SPDX-License-Identifier: Apache-2.0

package retry_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/retry"
)

func Example() {
	policy := retry.Policy{Attempts: 3}
	budget := new(retry.Budget) // one per credential
	n := &push.Notification{ID: "2f3c…"}

	budget.Deposit(1) // before the first attempt is sent
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

// The throttler rejects notifications while nothing is answered.
func ExampleAdaptiveThrottler() {
	throttler := &retry.AdaptiveThrottler{PerSecond: 1, Window: 10 * time.Second} // 10 are always allowed
	unavailable := push.Outcome{Verdict: push.Unavailable}
	var sent, rejected int
	var wait time.Duration
	for range 100 {
		permit, err := throttler.Acquire(1)
		if err, ok := errors.AsType[*push.RejectedError](err); ok {
			wait, rejected = err.RetryAfter, rejected+1
			continue
		}
		sent++
		permit.Release(unavailable, 1)
	}
	fmt.Println("most are rejected:", rejected > sent)
	fmt.Println("retry after", wait)
	// Output:
	// most are rejected: true
	// retry after 5s
}

// Several notifications share a permit. It is released for each one.
func ExampleAdaptiveThrottler_Acquire() {
	throttler := new(retry.AdaptiveThrottler)
	permit, err := throttler.Acquire(64)
	fmt.Println(err)
	permit.Release(push.Outcome{Verdict: push.Accepted}, 63)
	permit.Release(push.Outcome{Verdict: push.Unavailable}, 1)
	// Output: <nil>
}

// Retries are bounded by the number of first attempts.
func ExampleBudget() {
	budget := &retry.Budget{Ratio: 0.1, PerSecond: -1} // a retry for every ten first attempts
	budget.Deposit(20)
	unavailable := push.Outcome{Verdict: push.Unavailable}
	fmt.Println(budget.Withdraw(unavailable), budget.Withdraw(unavailable), budget.Withdraw(unavailable))
	fmt.Println("not processed, so free:", budget.Withdraw(push.Outcome{Verdict: push.Unsent}))
	// Output:
	// true true false
	// not processed, so free: true
}

// The wait is at least the provider's Retry-After, plus jitter.
func ExamplePolicy_After() {
	policy := retry.Policy{Rand: func() float64 { return 0.5 }}
	n := &push.Notification{ID: "2f3c…"}
	wait, ok := policy.After(n, 1, push.Outcome{Verdict: push.Throttled, RetryAfter: 3 * time.Second})
	fmt.Println(wait, ok)
	_, ok = policy.After(n, 1, push.Outcome{Verdict: push.Refused, Reason: "BadDeviceToken"})
	fmt.Println(ok)
	// Output:
	// 3.5s true
	// false
}
