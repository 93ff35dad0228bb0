// SPDX-License-Identifier: Apache-2.0

package push_test

import (
	"testing"
	"time"

	"github.com/sluice-push/sluice/push"
)

// BenchmarkReceipt encodes the receipt of a notification that was accepted at the first attempt.
func BenchmarkReceipt(b *testing.B) {
	index, outcome := 217, push.Outcome{Verdict: push.Accepted, HTTP: 200, ProviderID: "0190c5d8-8a3b-7c4d-9e2f-1a2b3c4d5e6f"}
	r := push.Receipt{ID: "0190c5d8-8a3b-7c4d-9e2f-1a2b3c4d5e6f", Index: &index, Outcome: outcome, Attempts: []push.Attempt{
		{Endpoint: "17.188.143.34:443", Environment: push.Production, Started: time.Date(2026, 11, 22, 7, 8, 9, 123_456_789, time.UTC), Took: 41_234_567, Outcome: outcome},
	}}
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = r.AppendJSON(buf[:0])
	}
}
