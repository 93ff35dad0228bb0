// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"testing"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
)

// BenchmarkSend measures a send with all limiters and without a network.
func BenchmarkSend(b *testing.B) {
	r := newRouteWithPool(b, &service{discard: true}, pool.Config{Resolver: fixedResolver(8), Limiter: new(pool.AdaptiveLimiter)}, 8)
	r.Budget = new(retry.Budget)
	r.Throttler = new(retry.AdaptiveThrottler)
	r.RateLimiter = quota.New(quota.Config{Total: quota.Limit{Rate: 1e9}})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		n := newNotification("a")
		for pb.Next() {
			r.Send(b.Context(), &push.Call{Notification: n})
		}
	})
}
