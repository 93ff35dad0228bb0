// SPDX-License-Identifier: Apache-2.0

package tracing_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/internal/tracing"
	"github.com/sluice-push/sluice/internal/tracing/tracingtest"
	"github.com/sluice-push/sluice/push"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTracer returns a tracer that traces everything, and a function that exports until stop is called.
func newTracer(t testing.TB, cfg tracing.Config, r *tracingtest.Receiver) (tracer *tracing.Tracer, run func() (stop func())) {
	t.Helper()
	var err error
	if cfg.Endpoint, err = url.Parse(r.URL); err != nil {
		t.Fatal(err)
	}
	cfg.SampleRatio = 1
	p, tracer := tracing.New(cfg), new(tracing.Tracer)
	tracer.Use(p)
	return tracer, func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		return func() {
			cancel()
			if err := testwait.For(t, ended, "the end of Run"); err != nil {
				t.Error(err)
			}
		}
	}
}

func endCall(c *tracing.Call) {
	r := &http.Request{Method: "POST", Proto: "HTTP/2.0"}
	c.End(r, "/v1/apps/{app}/notifications", "shop", "request", 200)
}

// TestSpansThatAreNotExportedAreDropped makes more spans than the buffer holds while the receiver does
// not answer. It then fails, and works again.
func TestSpansThatAreNotExportedAreDropped(t *testing.T) {
	for _, http := range []bool{false, true} {
		r := tracingtest.Start(t, false)
		var log bytes.Buffer
		counts := new(tracing.Counts)
		tracer, run := newTracer(t, tracing.Config{HTTP: http, Counts: counts, Logger: slog.New(slog.NewTextHandler(&log, nil))}, r)
		const spans = 10_000
		start := time.Now()
		for range spans {
			c := tracer.StartCall(push.TraceContext{}, start)
			endCall(&c)
		}
		if dropped := counts.BufferFull.Load(); dropped != spans-4096 {
			t.Errorf("%d spans dropped", dropped)
		}
		r.Stalled.Store(true)
		stop := run()
		testwait.Until(t, func() bool { return len(r.Headers()) > 0 }, "a request")
		stop()
		if n := counts.ExportFailed.Load(); n != 4096 || counts.Exported.Load() != 0 {
			t.Errorf("%d spans not exported", n)
		}
		if n := strings.Count(log.String(), "traces not exported"); n != 1 {
			t.Errorf("%d lines: %s", n, &log)
		}
		r.Stalled.Store(false)
		c := tracer.StartCall(push.TraceContext{}, time.Now())
		endCall(&c)
		run()()
		if n := counts.Exported.Load(); n != 1 || len(r.Spans()) != 1 {
			t.Errorf("%d spans exported: %+v", n, r.Spans())
		}
	}
}

// TestNothingIsAllocatedWithoutSpans measures calls and attempts without tracing, and those that are not
// sampled.
func TestNothingIsAllocatedWithoutSpans(t *testing.T) {
	none, idle := (*tracing.Tracer)(nil), new(tracing.Tracer)
	unsampled := new(tracing.Tracer)
	unsampled.Use(tracing.New(tracing.Config{Endpoint: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, ParentBased: true}))
	now := time.Now()
	for name, tracer := range map[string]*tracing.Tracer{"nil": none, "off": idle, "not sampled": unsampled} {
		for _, parent := range []string{"", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"} {
			n := &push.Notification{Trace: push.TraceContext{TraceParent: parent}}
			calls, a := []*push.Call{{Notification: n, QueuedSince: now}}, &push.Attempt{}
			var conn any = &net.TCPConn{}
			if allocs := testing.AllocsPerRun(100, func() {
				c := tracer.StartCall(n.Trace, now)
				c.SetNotification("id")
				n.Trace = c.Item()
				tracer.Queued(calls...)
				tracer.Waited(n, "endpoint", now)
				tracer.Attempted(n, 1, a, conn)
				endCall(&c)
			}); allocs > 1 { // the request of endCall
				t.Errorf("%s, %q: %g allocations", name, parent, allocs)
			}
		}
	}
}

// TestErrorsOfCalls checks which responses are errors.
func TestErrorsOfCalls(t *testing.T) {
	r := tracingtest.Start(t, false)
	tracer, run := newTracer(t, tracing.Config{}, r)
	request := &http.Request{Method: "GET", Proto: "HTTP/1.1"}
	want := map[string]string{"200": "", "404": "", "503": "503", "": "disconnected"}
	for _, status := range []int{200, 404, 503, 0} {
		c := tracer.StartCall(push.TraceContext{}, time.Now())
		c.End(request, "/v1/apps/{app}/notifications/{id}", "", "request", status)
	}
	run()()
	spans := r.Spans()
	if len(spans) != len(want) {
		t.Errorf("%+v", spans)
	}
	for _, s := range spans {
		if failure := want[s.Attributes["http.response.status_code"]]; s.Attributes["error.type"] != failure || s.Failed != (failure != "") || s.Name != "GET /v1/apps/{app}/notifications/{id}" {
			t.Errorf("%+v", s)
		}
	}
}

// BenchmarkUnsampledCall measures what tracing adds to a call that is not traced, and BenchmarkTracedCall
// to one that is, with one attempt.
func BenchmarkUnsampledCall(b *testing.B) { benchmarkCall(b, 0) }

func BenchmarkTracedCall(b *testing.B) { benchmarkCall(b, 1) }

func benchmarkCall(b *testing.B, ratio float64) {
	tracer := new(tracing.Tracer)
	tracer.Use(tracing.New(tracing.Config{Endpoint: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, SampleRatio: ratio}))
	n, a := &push.Notification{ID: "id", App: "shop", Platform: push.APNs}, &push.Attempt{Endpoint: "127.0.0.1:443", Started: time.Now()}
	r := &http.Request{Method: "POST", Proto: "HTTP/2.0"}
	b.ReportAllocs()
	for b.Loop() {
		c := tracer.StartCall(push.TraceContext{}, a.Started)
		n.Trace = c.Trace
		tracer.Attempted(n, 1, a, nil)
		c.End(r, "/v1/apps/{app}/notifications", "shop", "request", 200)
	}
}
