// SPDX-License-Identifier: Apache-2.0

// Package tracing makes OpenTelemetry spans of calls, waits and attempts, and exports them with OTLP. It
// never blocks its callers: spans that cannot be exported are dropped and counted. No span contains a
// target, text of a notification or a secret.
package tracing

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-push/sluice/internal/loglimit"
	"github.com/sluice-push/sluice/push"
)

// Config configures a pipeline. Endpoint is required.
type Config struct {
	// Endpoint is the http or https URL of the receiver. http means without TLS.
	Endpoint *url.URL
	// HTTP selects OTLP over HTTP, with the path of Endpoint or, if it has none, /v1/traces. Otherwise it
	// is OTLP over gRPC.
	HTTP bool
	// TLS is the configuration for https; nil means the system's root certificates.
	TLS *tls.Config
	// Headers are sent with each request; they can contain credentials.
	Headers map[string]string
	// Dial connects to the receiver, host:port. nil dials directly.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// SampleRatio is the share of the calls that are traced, from 0 to 1. ParentBased leaves the decision
	// to the caller if the call has a trace context.
	SampleRatio float64
	ParentBased bool
	// ServiceName, Version and Zone describe the gateway, together with the name of the machine and the
	// environment variable OTEL_RESOURCE_ATTRIBUTES. Zone can be empty.
	ServiceName, Version, Zone string
	// Counts counts the spans; nil counts nothing.
	Counts *Counts
	// Logger gets one line a minute while spans cannot be exported; nil discards them.
	Logger *slog.Logger
}

// Counts counts spans.
type Counts struct {
	Exported     atomic.Uint64
	BufferFull   atomic.Uint64 // dropped because the receiver was too slow or unreachable
	ExportFailed atomic.Uint64 // dropped after the receiver did not take them
}

// Pipeline exports spans while Run runs.
type Pipeline struct {
	cfg    Config
	tracer trace.Tracer
	ended  chan sdktrace.ReadOnlySpan
	failed loglimit.Limit
	byID   sdktrace.Sampler // decides for calls with a trace context, unless their callers do
}

var _ sdktrace.SpanProcessor = (*Pipeline)(nil)

// New returns a pipeline. It starts nothing.
func New(cfg Config) *Pipeline {
	silence()
	if cfg.Counts == nil {
		cfg.Counts = new(Counts)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pipeline{cfg: cfg, ended: make(chan sdktrace.ReadOnlySpan, maxBuffered), byID: sdktrace.TraceIDRatioBased(cfg.SampleRatio)}
	// Spans are only started after the decision to sample the call.
	provider := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithSpanProcessor(p), sdktrace.WithResource(cfg.resource()))
	p.tracer = provider.Tracer("github.com/sluice-push/sluice")
	return p
}

// resource describes the gateway. The environment overrides the other attributes.
func (c *Config) resource() *resource.Resource {
	host, _ := os.Hostname()
	attributes := []attribute.KeyValue{
		attribute.String("service.name", c.ServiceName), attribute.String("service.version", c.Version),
		attribute.String("service.instance.id", fmt.Sprintf("%s/%d", host, os.Getpid())), attribute.String("host.name", host),
	}
	if c.Zone != "" {
		attributes = append(attributes, attribute.String("cloud.availability_zone", c.Zone))
	}
	described, err := resource.New(context.Background(), resource.WithTelemetrySDK(), resource.WithAttributes(attributes...), resource.WithFromEnv())
	if err != nil { // what is valid is in described
		c.Logger.Warn("environment variable OTEL_RESOURCE_ATTRIBUTES is invalid", "err", err)
	}
	return described
}

// samples decides whether a call is traced. parent is its trace context, or zero.
func (p *Pipeline) samples(parent *push.TraceContext) bool {
	switch {
	case parent.TraceParent == "":
		return rand.Float64() < p.cfg.SampleRatio
	case p.cfg.ParentBased:
		return parent.Sampled()
	default:
		id, _ := trace.TraceIDFromHex(parent.TraceID())
		return p.byID.ShouldSample(sdktrace.SamplingParameters{TraceID: id}).Decision == sdktrace.RecordAndSample
	}
}

// start starts a span. parent can be zero.
func (p *Pipeline) start(parent *push.TraceContext, name string, kind trace.SpanKind, at time.Time) trace.Span {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), spanContext(parent))
	_, span := p.tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithTimestamp(at))
	return span
}

// spanContext returns a trace context in the form of OpenTelemetry. A tracestate that it does not accept
// is left out.
func spanContext(t *push.TraceContext) trace.SpanContext {
	id, err := trace.TraceIDFromHex(t.TraceID())
	if err != nil { // there is none
		return trace.SpanContext{}
	}
	span, _ := trace.SpanIDFromHex(t.TraceParent[36:52])
	state, _ := trace.ParseTraceState(t.TraceState)
	cfg := trace.SpanContextConfig{TraceID: id, SpanID: span, TraceState: state, Remote: true}
	if t.Sampled() {
		cfg.TraceFlags = trace.FlagsSampled
	}
	return trace.NewSpanContext(cfg)
}

// traceContext returns the trace context of a span, for its children.
func traceContext(span trace.Span) push.TraceContext {
	c := span.SpanContext()
	return push.TraceContext{
		TraceParent: "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String(), TraceState: c.TraceState().String(),
	}
}

// notSampled returns t with the flag that says that no spans are recorded.
func notSampled(t push.TraceContext) push.TraceContext {
	if t.Sampled() {
		t.TraceParent = t.TraceParent[:53] + "00"
	}
	return t
}
