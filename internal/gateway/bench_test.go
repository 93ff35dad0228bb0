// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// BenchmarkEndToEnd measures the whole path of a notification: caller, API, route, pool, HTTP/2
// over TLS, mock provider and back. All of it runs in this process, so cpu-s/100k is the sum for
// the caller, the gateway and the mock.
func BenchmarkEndToEnd(b *testing.B) {
	b.Run("single/callers=64", func(b *testing.B) {
		r := newShopGateway(b, mockprovider.Config{}, "")
		var n atomic.Uint64
		b.SetParallelism(32) // times GOMAXPROCS
		used := cpu()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				got := r.send(b, exampleNotification(n.Add(1)))
				if got.Status != "accepted" {
					b.Errorf("%+v", got)
				}
			}
		})
		report(b, b.N, cpu()-used)
	})
	b.Run("batch=500", func(b *testing.B) {
		const size = 500
		r := newShopGateway(b, mockprovider.Config{}, "")
		var lines bytes.Buffer
		for i := range size {
			fmt.Fprintln(&lines, exampleNotification(uint64(i)))
		}
		used := cpu()
		b.ResetTimer()
		for range b.N {
			if got := r.batch(b, lines.Bytes()); len(got) != size {
				b.Fatalf("%d receipts", len(got))
			}
		}
		report(b, b.N*size, cpu()-used)
	})
}

func exampleNotification(n uint64) string {
	return fmt.Sprintf(`{"platform":"apns","token":"5a%062x","title":"Your parcel is on its way","body":"%s"}`, n, strings.Repeat("It should be with you soon. ", 4))
}

func report(b *testing.B, notifications int, used time.Duration) {
	b.ReportMetric(float64(notifications)/b.Elapsed().Seconds(), "notifications/s")
	b.ReportMetric(used.Seconds()/float64(notifications)*100_000, "cpu-s/100k")
}

// cpu returns the user and system CPU time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
