// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"fmt"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

func Example() {
	limiter := quota.New(quota.Config{Total: quota.Limit{Rate: 10_000}}) // FCM: 600,000 per minute
	n := &push.Notification{Target: push.Target{Token: "one"}}
	other := &push.Notification{Target: push.Target{Token: "other"}}

	_, wait, ok := limiter.Reserve(n, time.Second)
	fmt.Println("one:", ok, wait)

	limiter.Record(n, push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: time.Minute})

	_, wait, ok = limiter.Reserve(n, time.Second)
	fmt.Println("one:", ok, wait.Round(time.Second))
	_, wait, ok = limiter.Reserve(other, time.Second)
	fmt.Println("other:", ok, wait)
	// Output:
	// one: true 0s
	// one: false 1m0s
	// other: true 0s
}
