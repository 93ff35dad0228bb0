// SPDX-License-Identifier: Apache-2.0

// Package tracingtest receives traces in tests, with OTLP over gRPC and HTTP on one socket.
package tracingtest

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // decompresses requests
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sluice-push/sluice/internal/testwait"
)

// Span is a span that was received.
type Span struct {
	TraceID, ID, Parent string // in hex; Parent is empty for a span without one
	State               string // tracestate
	Name                string
	Kind                string // server, client or internal
	Start, End          time.Time
	Failed              bool   // the status is an error
	Message             string // of the status
	Attributes          map[string]string
	Resource            map[string]string
}

// Receiver receives traces.
type Receiver struct {
	*httptest.Server
	// Failing makes the receiver answer that it is unavailable, and Stalled makes it answer nothing.
	Failing, Stalled atomic.Bool

	collector.UnimplementedTraceServiceServer
	released chan struct{} // closed at the end of the test

	mu      sync.Mutex
	spans   []Span
	headers []http.Header
}

// Start starts a receiver with or without TLS, which ends with the test.
func Start(t testing.TB, tls bool) *Receiver {
	r := &Receiver{released: make(chan struct{})}
	service := grpc.NewServer()
	collector.RegisterTraceServiceServer(service, r)
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r.mu.Lock()
		r.headers = append(r.headers, request.Header)
		r.mu.Unlock()
		if strings.HasPrefix(request.Header.Get("Content-Type"), "application/grpc") {
			service.ServeHTTP(w, request)
			return
		}
		r.serveHTTP(w, request)
	}))
	if tls {
		r.EnableHTTP2 = true
		r.StartTLS()
	} else {
		r.Config.Protocols = new(http.Protocols)
		r.Config.Protocols.SetHTTP1(true)
		r.Config.Protocols.SetUnencryptedHTTP2(true)
		r.Server.Start()
	}
	t.Cleanup(func() {
		close(r.released)
		service.Stop()
		r.CloseClientConnections()
		r.Close()
	})
	return r
}

// serveHTTP serves OTLP over HTTP.
func (r *Receiver) serveHTTP(w http.ResponseWriter, request *http.Request) {
	if request.Method != http.MethodPost || request.URL.Path != "/v1/traces" || request.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, "not a request of OTLP", http.StatusNotFound)
		return
	}
	var body io.Reader = request.Body
	if request.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	data, err := io.ReadAll(body)
	in := new(collector.ExportTraceServiceRequest)
	if err := errors.Join(err, proto.Unmarshal(data, in)); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if _, err := r.Export(request.Context(), in); err != nil {
		http.Error(w, "unavailable", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // the empty response is an empty message
}

// Export implements the service of the collector.
func (r *Receiver) Export(ctx context.Context, in *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	if r.Stalled.Load() {
		select {
		case <-r.released:
		case <-ctx.Done():
		}
		return nil, status.Error(codes.DeadlineExceeded, "stalled")
	}
	if r.Failing.Load() {
		return nil, status.Error(codes.Unavailable, "failing")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, from := range in.GetResourceSpans() {
		resource := attributes(from.GetResource().GetAttributes())
		for _, scope := range from.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				r.spans = append(r.spans, newSpan(s, resource))
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

func newSpan(s *tracepb.Span, resource map[string]string) Span {
	return Span{
		TraceID: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()), State: s.GetTraceState(),
		Name: s.GetName(), Kind: strings.ToLower(strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_")),
		Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Failed: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR, Message: s.GetStatus().GetMessage(),
		Attributes: attributes(s.GetAttributes()), Resource: resource,
	}
}

func attributes(list []*common.KeyValue) map[string]string {
	all := map[string]string{}
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			all[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			all[kv.GetKey()] = fmt.Sprint(v.IntValue)
		default:
			all[kv.GetKey()] = kv.GetValue().String()
		}
	}
	return all
}

// Spans returns the spans that were received, in the order of their starts.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	spans := slices.Clone(r.spans)
	slices.SortStableFunc(spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return spans
}

// Headers returns the headers of the requests.
func (r *Receiver) Headers() []http.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.headers)
}

// Wait waits until at least count spans with a name have been received, and returns all spans.
func (r *Receiver) Wait(t testing.TB, name string, count int) []Span {
	t.Helper()
	testwait.Until(t, func() bool { return len(Named(r.Spans(), name)) >= count }, fmt.Sprintf("%d spans %q", count, name))
	return r.Spans()
}

// Named returns the spans with a name.
func Named(spans []Span, name string) []Span {
	return slices.DeleteFunc(slices.Clone(spans), func(s Span) bool { return s.Name != name })
}

// CAFile writes the certificate of a receiver with TLS to a file.
func (r *Receiver) CAFile(t testing.TB) string {
	file := filepath.Join(t.TempDir(), "collector-ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Text returns the tree of the spans of a trace, as text. Times are relative to the first span.
func Text(spans []Span, traceID string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "trace %s\n", traceID)
	known, start := map[string]bool{}, time.Time{}
	for _, s := range spans {
		if known[s.ID] = true; s.TraceID == traceID && (start.IsZero() || s.Start.Before(start)) {
			start = s.Start
		}
	}
	var write func(parent, indent string)
	write = func(parent, indent string) {
		for _, s := range spans {
			isRoot := parent == "" && !known[s.Parent]
			if s.TraceID != traceID || !isRoot && (parent == "" || s.Parent != parent) {
				continue
			}
			failed := ""
			if s.Failed {
				failed = "  ERROR " + s.Message
			}
			fmt.Fprintf(&b, "%s%s  (%s)  at %s, took %s%s\n", indent, s.Name, s.Kind, s.Start.Sub(start).Round(10*time.Microsecond), s.End.Sub(s.Start).Round(10*time.Microsecond), failed)
			names := make([]string, 0, len(s.Attributes))
			for name := range s.Attributes {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				fmt.Fprintf(&b, "%s    %s = %s\n", indent, name, s.Attributes[name])
			}
			write(s.ID, indent+"  ")
		}
	}
	write("", "")
	return b.String()
}
