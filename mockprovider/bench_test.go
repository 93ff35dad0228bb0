// SPDX-License-Identifier: Apache-2.0

package mockprovider_test

import (
	"bufio"
	"bytes"
	"io"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/mockprovider"
)

// BenchmarkPushes drives one connection with 500 pushes in flight by a client that does almost nothing, so that what is
// measured is the mock and TLS. cpu-s/100k is of both sides.
func BenchmarkPushes(b *testing.B) {
	m := mockprovider.Start(b, mockprovider.Config{Streams: mockprovider.Streams{Start: 1000}})
	l := open(b, m, m.APNsAddrs()[0])
	_ = l.raw.SetDeadline(time.Now().Add(10 * time.Minute))
	l.push(goodToken)
	l.answer()
	out := bufio.NewWriterSize(l.nc, 16<<10)
	l.frames = http2.NewFramer(out, bufio.NewReaderSize(l.nc, 16<<10))
	l.frames.SetReuseFrames()
	before := processTime()
	b.ReportAllocs()
	b.ResetTimer()
	for sent, got := 0, 0; got < b.N; {
		for ; sent < b.N && sent-got < 500; sent++ {
			l.pushOnce()
		}
		_ = out.Flush()
		got += l.drain(min(250, b.N-got))
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric((processTime()-before).Seconds()/float64(b.N)*100_000, "cpu-s/100k")
}

// pushOnce writes a push whose path and ID are not indexed, as a good client does.
func (l *line) pushOnce() {
	l.buf.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "api.push.apple.com"},
		{Name: ":path", Value: "/3/device/" + goodToken, Sensitive: true}, {Name: "authorization", Value: l.auth},
		{Name: "apns-topic", Value: "com.example.app"}, {Name: "apns-push-type", Value: "alert"},
		{Name: "apns-id", Value: goodID, Sensitive: true},
	} {
		_ = l.enc.WriteField(f)
	}
	_ = l.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: l.next, BlockFragment: bytes.Clone(l.buf.Bytes()), EndHeaders: true})
	_ = l.frames.WriteData(l.next, true, []byte(hello))
	l.next += 2
}

// drain reads n answers.
func (l *line) drain(n int) int {
	for got := 0; got < n; {
		f, err := l.frames.ReadFrame()
		if err == io.EOF {
			return got
		}
		l.must(err)
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
