// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-push/sluice/client"
	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/push"
)

// fakeGateway starts a gateway with this handler and returns its URL.
func fakeGateway(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	return fakeGatewayWithReport(t, "max=5", h)
}

// fakeGatewayWithReport is fakeGateway with a load report in the response of /livez.
func fakeGatewayWithReport(t *testing.T, signals string, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/livez" {
			w.Header().Set("Sluice-Gateway", signals)
			return
		}
		h(w, r)
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); testwait.For(t, ended, "the end") })
	return "http://" + l.Addr().String()
}

const (
	acceptedBody          = `{"id":"1","status":"accepted","attempts":[{"endpoint":"e","status":"accepted","ms":1}]}`
	notSent               = `{"type":"https://sluice-push.github.io/problems/unavailable","status":503,"detail":"OVERLOADED","receipt":{"status":"unavailable","reason":"OVERLOADED","attempts":[]}}`
	unavailableUnsentBody = `{"type":"https://sluice-push.github.io/problems/unavailable","status":503,"receipt":{"status":"unavailable","attempts":[{"endpoint":"e","status":"unsent","ms":1}]}}`
	unavailableTriedBody  = `{"type":"https://sluice-push.github.io/problems/unavailable","status":503,"receipt":{"status":"unavailable","attempts":[{"endpoint":"e","status":"unavailable","ms":1}]}}`
	throttledBody         = `{"type":"https://sluice-push.github.io/problems/throttled","status":429,"receipt":{"status":"throttled","retry_after":7,"attempts":[]}}`
	unknownBody           = `{"type":"https://sluice-push.github.io/problems/unknown","status":504,"receipt":{"status":"unknown","attempts":[{"endpoint":"e","status":"unknown","ms":1}]}}`
	internalBody          = `{"type":"https://sluice-push.github.io/problems/internal","status":500}`
	bodyTimeoutBody       = `{"type":"https://sluice-push.github.io/problems/body-timeout","status":408}`
)

func TestFailoverOnlyIfNothingWasSent(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		status   int
		body     string
		repeat   push.OnUnknown
		failover bool
		verdict  push.Verdict
	}{
		{"no attempt", 503, notSent, "", true, push.Accepted},
		{"all attempts unsent", 503, unavailableUnsentBody, "", true, push.Accepted},
		{"body timeout", 408, bodyTimeoutBody, "", true, push.Accepted},
		{"attempts failed", 503, unavailableTriedBody, push.RepeatAlways, false, push.Unavailable},
		{"throttled", 429, throttledBody, push.RepeatAlways, false, push.Throttled},
		{"unknown", 504, unknownBody, push.RepeatAlways, false, push.Unknown},
		{"internal error", 500, internalBody, push.RepeatNever, false, push.Unknown},
		{"internal error, repeat allowed", 500, internalBody, push.RepeatAlways, true, push.Accepted},
		{"response of a proxy", 503, "<html>", push.RepeatNever, false, push.Unknown},
		{"response of a proxy, repeat allowed", 502, "<html>", push.RepeatAlways, true, push.Accepted},
	} {
		t.Run(c.name, func(t *testing.T) {
			var requests atomic.Int32
			var mu sync.Mutex
			keys := map[string]bool{}
			gateway := func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				keys[r.Header.Get("Idempotency-Key")] = true
				mu.Unlock()
				if requests.Add(1) == 1 {
					w.WriteHeader(c.status)
					_, _ = io.WriteString(w, c.body)
					return
				}
				_, _ = io.WriteString(w, acceptedBody)
			}
			env := &testEnv{t: t, key: "slk_test"}
			cl := env.newClient(client.Config{}, fakeGateway(t, gateway), fakeGateway(t, gateway))
			waitConnected(cl, 2)
			n := testNotification(1)
			n.OnUnknown, n.Retry = c.repeat, &push.Retry{Attempts: 1} // limits attempts at the push service only
			receipt, err := cl.Send(t.Context(), n)
			if (requests.Load() == 2) != c.failover || receipt.Verdict != c.verdict || (err == nil) != (c.verdict == push.Accepted) {
				t.Errorf("%d gateways got the request; %+v %v", requests.Load(), receipt, err)
			}
			if len(keys) != 1 || keys[""] {
				t.Errorf("the requests had the Idempotency-Keys %v, want one", keys)
			}
		})
	}
}

func TestRetryAfterReachesCaller(t *testing.T) {
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{}, fakeGateway(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, throttledBody)
	}))
	_, err := c.Send(t.Context(), testNotification(1))
	if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "throttled" || problem.RetryAfter != 7*time.Second {
		t.Errorf("%#v", err)
	}
}

func TestConcurrencyGrantIsRespected(t *testing.T) {
	var current, maxSeen atomic.Int32
	release := make(chan struct{})
	url := fakeGateway(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Sluice-Gateway", "concurrency=3, max=5")
		if n := current.Add(1); n > maxSeen.Load() {
			maxSeen.Store(n)
		}
		<-release
		current.Add(-1)
		_, _ = io.WriteString(w, acceptedBody)
	})
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{}, url)
	close(release)
	if _, err := c.Send(t.Context(), testNotification(0)); err != nil { // the client knows the grant after the first response
		t.Fatal(err)
	}
	maxSeen.Store(0)
	var sending sync.WaitGroup
	for i := range 100 {
		sending.Go(func() {
			if _, err := c.Send(t.Context(), testNotification(i)); err != nil {
				t.Error(err)
			}
		})
	}
	testwait.Call(t, sending.Wait, "the end of all sends")
	if maxSeen.Load() > 3 {
		t.Errorf("%d requests in flight, the gateway granted 3", maxSeen.Load())
	}
}

func TestRequestHeaders(t *testing.T) {
	var got http.Header
	url := fakeGateway(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		_, _ = io.WriteString(w, acceptedBody)
	})
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{Propagate: func(_ context.Context, h http.Header) { h.Set("Traceparent", "00-aa-bb-01") }}, url)
	n := testNotification(1)
	n.ID = "order-17"
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if _, err := c.Send(ctx, n); err != nil {
		t.Fatal(err)
	}
	if seconds, err := strconv.Atoi(strings.TrimPrefix(got.Get("Prefer"), "wait=")); err != nil || seconds < 1 || seconds > 3599 {
		t.Errorf("Prefer: %s, want a wait of less than an hour", got.Get("Prefer"))
	}
	if got.Get("Traceparent") != "00-aa-bb-01" || got.Get("Authorization") != "Bearer slk_test" || got.Get("Idempotency-Key") != "order-17" {
		t.Errorf("%v", got)
	}
}

// TestTraceContextIsPropagated sends the trace context of a span with OpenTelemetry's propagator, in a
// single call and in a batch.
func TestTraceContextIsPropagated(t *testing.T) {
	headers := make(chan http.Header, 2)
	url := fakeGateway(t, func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		body := acceptedBody
		if strings.HasSuffix(r.URL.Path, "/batch") {
			w.Header().Set("Content-Type", "application/x-ndjson")
			body = strings.Replace(body, "{", `{"index":0,`, 1) + "\n"
		}
		_, _ = io.WriteString(w, body)
	})
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{Propagate: func(ctx context.Context, h http.Header) {
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(h))
	}}, url)
	state, err := trace.ParseTraceState("vendor=1")
	if err != nil {
		t.Fatal(err)
	}
	ctx := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state,
	}))
	if _, err := c.Send(ctx, testNotification(1)); err != nil {
		t.Fatal(err)
	}
	for _, err := range c.SendBatch(ctx, slices.Values([]*push.Notification{testNotification(2)})) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		h := testwait.For(t, headers, "a request")
		if h.Get("Traceparent") != "00-01000000000000000000000000000000-0200000000000000-01" || h.Get("Tracestate") != "vendor=1" {
			t.Errorf("%v", h)
		}
	}
}

func TestInvalidIDIsRejectedLocally(t *testing.T) {
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{}, fakeGateway(t, func(http.ResponseWriter, *http.Request) { t.Error("the notification was sent") }))
	n := testNotification(1)
	n.ID = "a\r\nb: c"
	_, err := c.Send(t.Context(), n)
	if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Field != "ID" {
		t.Errorf("%v", err)
	}
}

func TestEventsResumeAfterLostConnection(t *testing.T) {
	t.Parallel()
	var cursors []string
	var mu sync.Mutex
	gateway := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "type=unregistered" {
			t.Errorf("the query is %q", r.URL.RawQuery)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		after := r.Header.Get("Last-Event-ID")
		mu.Lock()
		cursors = append(cursors, after)
		mu.Unlock()
		first := 1
		if after != "" {
			_, _ = fmt.Sscan(after, &first)
			first++
		}
		for i := first; i < first+2; i++ {
			_, _ = fmt.Fprintf(w, ":\nid: %d\nevent: unregistered\ndata: {\"id\":\"n%d\",\"status\":\"unregistered\"}\n\n", i, i)
		}
		_, _ = io.WriteString(w, "id: 99\nevent: unregistered\ndata: {\"id\":") // and the connection breaks
	}
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{}, fakeGateway(t, gateway), fakeGateway(t, gateway))
	var got []string
	for event, err := range c.Events(t.Context(), "", push.StatusUnregistered) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, event.ID+"/"+event.Cursor); len(got) == 5 {
			break
		}
	}
	if s := strings.Join(got, " "); s != "n1/1 n2/2 n3/3 n4/4 n5/5" {
		t.Errorf("%s; the cursors were %v", s, cursors)
	}
}

func TestEventsRefused(t *testing.T) {
	env := &testEnv{t: t, key: "slk_test"}
	c := env.newClient(client.Config{}, fakeGateway(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"type":"https://sluice-push.github.io/problems/missing-scope","status":403,"detail":"read"}`)
	}))
	for _, err := range c.Events(t.Context(), "") {
		if problem, ok := errors.AsType[*client.Error](err); !ok || problem.Type != "missing-scope" {
			t.Errorf("%v", err)
		}
	}
}
