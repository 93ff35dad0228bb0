// SPDX-License-Identifier: Apache-2.0

package quota_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
)

// A refusal by the provider closes its scope; other scopes stay open.
func ExampleRateLimiter_Acquire() {
	limiter := quota.New(quota.Config{Total: quota.Limit{Rate: 10_000}}) // FCM: 600,000 per minute
	one := &push.Notification{Target: push.Target{Token: "one"}}
	other := &push.Notification{Target: push.Target{Token: "other"}}

	_, err := limiter.Acquire(context.Background(), one, time.Second)
	fmt.Println("one:", err)

	limiter.Record(one, push.Outcome{Verdict: push.Throttled, Scope: push.ScopeDevice, RetryAfter: time.Minute})

	_, err = limiter.Acquire(context.Background(), one, time.Second)
	if rejected, ok := errors.AsType[*push.RejectedError](err); ok {
		fmt.Println("one: retry after", rejected.RetryAfter.Round(time.Second))
	}
	_, err = limiter.Acquire(context.Background(), other, time.Second)
	fmt.Println("other:", err)
	// Output:
	// one: <nil>
	// one: retry after 1m0s
	// other: <nil>
}

// A run of notifications takes its tokens at once, and gives back what it does not use.
func ExampleRateLimiter_TryAcquireN() {
	limiter := quota.New(quota.Config{Total: quota.Limit{Rate: 1, Burst: 3}})
	var run []*push.Notification
	for _, token := range []string{"a", "b", "c", "d"} {
		run = append(run, &push.Notification{Target: push.Target{Token: token}})
	}
	allowed := limiter.TryAcquireN(run)
	fmt.Println(allowed, "of", len(run))

	limiter.Return(run[1:allowed]) // only one could be sent
	fmt.Println(limiter.TryAcquireN(run[1:]), "of", len(run[1:]))
	// Output:
	// 3 of 4
	// 2 of 3
}
