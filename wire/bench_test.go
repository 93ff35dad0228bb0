// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/wire"
)

// serveEnv turns the test binary into the benchmark server. A separate process is used so that only
// the CPU time of the client is measured.
const serveEnv = "WIRE_BENCH_SERVE"

func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) != "" {
		serveBench()
		return
	}
	goleak.VerifyTestMain(m)
}

// serveBench responds 200 to every request on a loopback port until its standard input ends.
func serveBench() {
	cert, der := selfSigned("push.example")
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, DynamicRecordSizingDisabled: true,
	})
	if err != nil {
		panic(err)
	}
	info, _ := json.Marshal(serverInfo{Addr: l.Addr().String(), Cert: der})
	fmt.Println(string(info))
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serveAll(nc)
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// serverInfo is the first line that the server process prints.
type serverInfo struct {
	Addr string
	Cert []byte
}

// serveAll is a minimal HTTP/2 server: it responds 200 to every request that it has read in one
// write.
func serveAll(nc net.Conn) {
	defer func() { _ = nc.Close() }()
	in := bufio.NewReaderSize(nc, 64<<10)
	var out bytes.Buffer
	fr := http2.NewFramer(&out, in)
	fr.SetReuseFrames()
	if _, err := in.Discard(len(http2.ClientPreface)); err != nil {
		return
	}
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000})
	head := responseBlock()
	got := 0
	for {
		if in.Buffered() < 9 && out.Len() > 0 {
			if _, err := nc.Write(out.Bytes()); err != nil {
				return
			}
			out.Reset()
		}
		f, err := fr.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				writeResponse(fr, f.StreamID, head)
			}
		case *http2.DataFrame:
			if got += int(f.Length); got > 16<<10 {
				_ = fr.WriteWindowUpdate(0, uint32(got))
				got = 0
			}
			if f.StreamEnded() {
				writeResponse(fr, f.StreamID, head)
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = fr.WritePing(true, f.Data)
			}
		}
	}
}

// responseBlock is the header block of a 200 response with an apns-id. It does not use the dynamic
// table.
func responseBlock() []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	_ = enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = enc.WriteField(hpack.HeaderField{Name: "apns-id", Value: "123e4567-e89b-42d3-a456-426614174000", Sensitive: true})
	return b.Bytes()
}

func writeResponse(fr *http2.Framer, id uint32, head []byte) {
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head, EndHeaders: true, EndStream: true})
}

// benchServer starts the server process.
func benchServer(b *testing.B) (netip.AddrPort, *tls.Config) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"=1")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	var info serverInfo
	if err := json.NewDecoder(stdout).Decode(&info); err != nil {
		b.Fatal(err)
	}
	cert, err := x509.ParseCertificate(info.Cert)
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return netip.MustParseAddrPort(info.Addr), &tls.Config{RootCAs: roots}
}

const benchBody = `{"aps":{"alert":{"title":"Your parcel","body":"It will be with you between 14:00 and 15:00."},"sound":"default"}}`

var benchJWT = "bearer " + strings.Repeat("eyJhbGciOiJFUzI1NiJ9", 9)

// benchRequest returns a small APNs request to device i.
func benchRequest(i int) *wire.Request {
	return &wire.Request{
		Method: "POST", Path: "/3/device/" + benchToken(i), Body: []byte(benchBody),
		Header: []wire.Field{
			{Name: "authorization", Value: benchJWT},
			{Name: "apns-topic", Value: "com.example.shop"},
			{Name: "apns-push-type", Value: "alert"},
			{Name: "apns-priority", Value: "10"},
			{Name: "apns-id", Value: benchID(i), NeverIndexed: true},
		},
	}
}

func benchToken(i int) string { return fmt.Sprintf("%064x", i*0x9E3779B97F4A7C1) }
func benchID(i int) string    { return fmt.Sprintf("123e4567-e89b-42d3-a456-%012x", i) }

// BenchmarkConn measures one Conn with a caller of Do for each request in flight.
func BenchmarkConn(b *testing.B) {
	for _, inFlight := range []int{64, 100, 1000} {
		b.Run("inflight="+strconv.Itoa(inFlight), func(b *testing.B) {
			c := benchConn(b, inFlight)
			measure(b, inFlight, 1, func(ctx context.Context, rs []*wire.Request) error {
				_, err := c.Do(ctx, rs[0])
				return err
			})
		})
	}
}

// BenchmarkStart measures one Conn with runs of 64 requests. One run at a time compares with
// BenchmarkConn/inflight=64, and 16 with inflight=1000.
func BenchmarkStart(b *testing.B) {
	const size = 64
	for _, runs := range []int{1, 16} {
		b.Run("runs="+strconv.Itoa(runs), func(b *testing.B) {
			c := benchConn(b, runs*size)
			measure(b, runs, size, func(_ context.Context, rs []*wire.Request) error {
				h := &runWaiter{pending: len(rs), ended: make(chan error, 1)}
				c.Start(rs, h)
				return <-h.ended
			})
		})
	}
}

// runWaiter is a Handler that reports the end of a run.
type runWaiter struct {
	pending int
	err     error
	ended   chan error
}

func (h *runWaiter) Complete(results []wire.Result) {
	for i := range results {
		if err := results[i].Err; err != nil {
			h.err = err
		}
	}
	if h.pending -= len(results); h.pending == 0 {
		h.ended <- h.err
	}
}

// benchConn starts a server and returns a running connection to it.
func benchConn(b *testing.B, maxStreams int) *wire.Conn {
	b.Helper()
	addr, t := benchServer(b)
	c, err := wire.Dial(b.Context(), addr, wire.Config{
		Authority: "push.example", TLS: t, MaxStreams: maxStreams,
		ResponseTimeout: time.Minute, PingTimeout: time.Minute, WriteTimeout: time.Minute, // tolerate a busy machine
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) })
	b.Cleanup(func() {
		stop()
		running.Wait()
	})
	return c
}

// BenchmarkHTTPClientConn measures one connection of net/http, for comparison.
func BenchmarkHTTPClientConn(b *testing.B) {
	for _, inFlight := range []int{100, 1000} {
		b.Run("inflight="+strconv.Itoa(inFlight), func(b *testing.B) {
			addr, t := benchServer(b)
			t.ServerName = "push.example"
			protocols := new(http.Protocols)
			protocols.SetHTTP2(true)
			rt := &http.Transport{TLSClientConfig: t, Protocols: protocols}
			c, err := rt.NewClientConn(b.Context(), "https", addr.String())
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			measure(b, inFlight, 1, func(ctx context.Context, rs []*wire.Request) error {
				return roundTrip(ctx, c, addr, rs[0])
			})
		})
	}
}

// roundTrip sends r with net/http.
func roundTrip(ctx context.Context, c *http.ClientConn, addr netip.AddrPort, r *wire.Request) error {
	req, err := http.NewRequestWithContext(ctx, r.Method, "https://"+addr.String()+r.Path, bytes.NewReader(r.Body))
	if err != nil {
		return err
	}
	req.Host = "push.example"
	for _, f := range r.Header {
		req.Header[http.CanonicalHeaderKey(f.Name)] = []string{f.Value}
	}
	res, err := c.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

// measure sends b.N requests with concurrent calls of do, each with the given number of requests.
func measure(b *testing.B, callers, perCall int, do func(context.Context, []*wire.Request) error) {
	requests := make([]*wire.Request, 4096)
	for i := range requests {
		requests[i] = benchRequest(i)
	}
	for i := range 32 { // fill the HPACK table and the stream pool
		if err := do(b.Context(), requests[i:i+1]); err != nil {
			b.Fatal(err)
		}
	}
	took := make([]time.Duration, (b.N+perCall-1)/perCall)
	var next atomic.Int64
	var running sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	before, start := cpu(), time.Now()
	for range callers {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(took); i = int(next.Add(1)) - 1 {
				first := i * perCall % len(requests)
				n := min(perCall, b.N-i*perCall)
				at := time.Now()
				if err := do(b.Context(), requests[first:first+n]); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(at)
			}
		})
	}
	running.Wait()
	b.StopTimer()
	used, elapsed := cpu()-before, time.Since(start)
	b.ReportMetric(float64(b.N)/used.Seconds(), "req/cpu-s")
	b.ReportMetric(float64(b.N)/elapsed.Seconds(), "req/s")
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}

// cpu returns the CPU time of this process, user plus system.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
