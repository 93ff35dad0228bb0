// SPDX-License-Identifier: Apache-2.0

package delivery_test

import (
	"testing"

	"github.com/sluice-push/sluice/delivery"
	"github.com/sluice-push/sluice/quota"
	"github.com/sluice-push/sluice/retry"
)

// BenchmarkSend is the road without the wire: gate, pick, attempt, receipt.
func BenchmarkSend(b *testing.B) {
	r := house(b, &service{quiet: true}, 8)
	r.Budget = new(retry.Budget)
	r.Brake = new(retry.Brake)
	r.Admission = new(delivery.Admission)
	r.Gate = quota.New(quota.Config{Total: quota.Limit{Rate: 1e9}})
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		n := note("a")
		for pb.Next() {
			r.Send(b.Context(), n)
		}
	})
}
