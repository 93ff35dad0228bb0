// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"bufio"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/mockprovider"
)

// BenchmarkPushes sends pushes on one connection, up to 500 concurrently. The client does almost
// nothing, so the benchmark measures the mock and TLS. cpu-s/100k is the CPU time of both sides.
func BenchmarkPushes(b *testing.B) {
	m := mockprovider.Start(b, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}})
	c := open(b, m, m.APNsAddrs()[0])
	_ = c.Raw.SetDeadline(time.Now().Add(10 * time.Minute))
	c.push(deviceToken)
	c.Response()
	out := bufio.NewWriterSize(c.TLS, 16<<10)
	c.Frames = http2.NewFramer(out, bufio.NewReaderSize(c.TLS, 16<<10))
	c.Frames.SetReuseFrames()
	before := processTime()
	b.ReportAllocs()
	b.ResetTimer()
	for sent, got := 0, 0; got < b.N; {
		for ; sent < b.N && sent-got < 500; sent++ {
			c.pushUnindexed()
		}
		_ = out.Flush()
		got += readResponses(c, min(250, b.N-got))
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric((processTime()-before).Seconds()/float64(b.N)*100_000, "cpu-s/100k")
}

// pushUnindexed sends a push without an entry in the compression table for the path and the ID, as an
// efficient client does.
func (c *frameClient) pushUnindexed() {
	id := c.HeaderBlock(false, c.EncodeFields(
		hpack.HeaderField{Name: ":method", Value: "POST"}, hpack.HeaderField{Name: ":scheme", Value: "https"},
		hpack.HeaderField{Name: ":authority", Value: "api.push.apple.com"},
		hpack.HeaderField{Name: ":path", Value: "/3/device/" + deviceToken, Sensitive: true},
		hpack.HeaderField{Name: "authorization", Value: c.authorization}, hpack.HeaderField{Name: "apns-topic", Value: "com.example.app"},
		hpack.HeaderField{Name: "apns-push-type", Value: "alert"}, hpack.HeaderField{Name: "apns-id", Value: apnsID, Sensitive: true}))
	_ = c.Frames.WriteData(id, true, []byte(payload))
}

// readResponses reads n responses and returns how many there were before the end.
func readResponses(c *frameClient, n int) int {
	for got := 0; got < n; {
		f, err := c.Frames.ReadFrame()
		if err == io.EOF {
			return got
		}
		c.Must(err)
		if _, ok := f.(*http2.HeadersFrame); ok {
			got++
		}
	}
	return n
}

func processTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
