// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/push"
)

// BenchmarkRoute measures the metrics of a notification with one attempt.
func BenchmarkRoute(b *testing.B) {
	route := metrics.New(nil).Route("shop", push.APNs)
	n, a := &push.Notification{}, push.Attempt{Took: 40 * time.Millisecond, Outcome: accepted}
	r := push.Receipt{Outcome: accepted, Attempts: []push.Attempt{a}}
	notification := func() {
		route.Attempted(n, 1, &a, nil)
		route.Ended(n, &r, 41*time.Millisecond)
	}
	b.Run("single", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			notification()
		}
	})
	b.Run("contended", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				notification()
			}
		})
	})
}
