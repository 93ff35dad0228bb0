// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/sluice-push/sluice/push"
)

// docs/tracing.md lists the names of all spans and attributes. They follow the semantic conventions of
// OpenTelemetry where these have one; the others start with sluice.

// Tracer makes spans with the pipeline in use. Without one, and if it is nil, it makes none. It is safe
// for concurrent use.
type Tracer struct{ pipeline atomic.Pointer[Pipeline] }

// Use replaces the pipeline. nil makes no spans any more.
func (t *Tracer) Use(p *Pipeline) { t.pipeline.Store(p) }

// of returns the pipeline if a notification is traced, else nil.
func (t *Tracer) of(n *push.Notification) *Pipeline {
	if t == nil || !n.Trace.Sampled() {
		return nil
	}
	return t.pipeline.Load()
}

// maxItems bounds the notifications of one call that are traced: receivers refuse larger traces.
const maxItems = 1000

// Call is a call of the API. The zero value is one that is not traced.
type Call struct {
	// Trace is the trace context of the call's notifications.
	Trace push.TraceContext
	span  trace.Span // nil if the call is not traced
	ratio float64
	items int
}

// StartCall starts the span of a call, if it is sampled. parent is the trace context that it came with,
// or zero.
func (t *Tracer) StartCall(parent push.TraceContext, start time.Time) Call {
	if t == nil {
		return Call{Trace: parent}
	}
	p := t.pipeline.Load()
	switch {
	case p == nil:
		return Call{Trace: parent}
	case !p.samples(&parent):
		return Call{Trace: notSampled(parent)}
	}
	span := p.start(&parent, "call", trace.SpanKindServer, start)
	return Call{Trace: traceContext(span), span: span, ratio: p.cfg.SampleRatio}
}

// Item returns the trace context of the next notification of a batch. In a batch that is traced, the
// first notification is, and of the others a share that is the sample ratio: the traces of large batches
// must remain readable, and cheap.
func (c *Call) Item() push.TraceContext {
	c.items++
	if c.span == nil || c.items == 1 || c.items <= maxItems && rand.Float64() < c.ratio {
		return c.Trace
	}
	return notSampled(c.Trace)
}

// SetNotification records the ID of the only notification of the call.
func (c *Call) SetNotification(id string) {
	if c.span != nil {
		c.span.SetAttributes(attribute.String("messaging.message.id", id))
	}
}

// End ends the span. route is the pattern that matched, because paths can contain secrets. status is 0 if
// the client disconnected before there was a response.
func (c *Call) End(r *http.Request, route, app, requestID string, status int) {
	if c.span == nil {
		return
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	c.span.SetName(r.Method + " " + route)
	c.span.SetAttributes(
		attribute.String("http.request.method", r.Method), attribute.String("http.route", route), attribute.String("url.scheme", scheme),
		attribute.String("network.protocol.version", strings.TrimSuffix(strings.TrimPrefix(r.Proto, "HTTP/"), ".0")), attribute.String("sluice.request_id", requestID),
	)
	if app != "" {
		c.span.SetAttributes(attribute.String("sluice.app", app))
	}
	if c.items > 0 {
		c.span.SetAttributes(attribute.Int("messaging.batch.message_count", c.items))
	}
	setHTTPStatus(c.span, status, http.StatusInternalServerError)
	if status == 0 {
		c.span.SetAttributes(attribute.String("error.type", "disconnected"))
	}
	c.span.End()
}

// setHTTPStatus records the status of a response, and that it is an error from failure on.
func setHTTPStatus(span trace.Span, status, failure int) {
	if status == 0 {
		span.SetStatus(codes.Error, "")
		return
	}
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= failure {
		span.SetAttributes(attribute.String("error.type", strconv.Itoa(status)))
		span.SetStatus(codes.Error, "")
	}
}

// Queued makes the span of the time that calls have waited in the queue.
func (t *Tracer) Queued(calls ...*push.Call) {
	if t == nil || t.pipeline.Load() == nil {
		return
	}
	for _, c := range calls {
		if p := t.of(c.Notification); p != nil && !c.QueuedSince.IsZero() {
			p.wait(c.Notification, "queue", c.QueuedSince)
		}
	}
}

// Waited makes the span of a wait that ends now.
func (t *Tracer) Waited(n *push.Notification, place string, since time.Time) {
	if p := t.of(n); p != nil {
		p.wait(n, place, since)
	}
}

func (p *Pipeline) wait(n *push.Notification, place string, since time.Time) {
	span := p.start(&n.Trace, "wait "+place, trace.SpanKindInternal, since)
	span.SetAttributes(notificationAttributes(n)...)
	span.End()
}

// notificationAttributes returns what spans say about their notification.
func notificationAttributes(n *push.Notification) []attribute.KeyValue {
	return append(make([]attribute.KeyValue, 0, 20), attribute.String("messaging.system", string(n.Platform)), attribute.String("messaging.message.id", n.ID),
		attribute.String("sluice.app", n.App), attribute.String("sluice.lane", string(n.EffectiveLane())))
}

// Attempted makes the span of an attempt. If conn has a LocalAddr, that identifies the connection.
func (t *Tracer) Attempted(n *push.Notification, number int, a *push.Attempt, conn any) {
	p := t.of(n)
	if p == nil {
		return
	}
	span := p.start(&n.Trace, "send "+string(n.Platform), trace.SpanKindClient, a.Started)
	attributes := append(notificationAttributes(n),
		attribute.String("messaging.operation.type", "send"), attribute.Int("sluice.attempt", number),
		attribute.String("sluice.endpoint", a.Endpoint), attribute.String("sluice.verdict", a.Verdict.String()))
	if addr, err := netip.ParseAddrPort(a.Endpoint); err == nil {
		attributes = append(attributes, attribute.String("server.address", addr.Addr().String()), attribute.Int("server.port", int(addr.Port())))
	}
	if c, ok := conn.(interface{ LocalAddr() net.Addr }); ok {
		if tcp, ok := c.LocalAddr().(*net.TCPAddr); ok {
			attributes = append(attributes, attribute.String("network.local.address", tcp.IP.String()), attribute.Int("network.local.port", tcp.Port))
		}
	}
	if a.Environment != "" {
		attributes = append(attributes, attribute.String("sluice.environment", string(a.Environment)))
	}
	if number > 1 {
		attributes = append(attributes, attribute.Int("http.request.resend_count", number-1))
	}
	if a.HTTP != 0 {
		attributes = append(attributes, attribute.Int("http.response.status_code", a.HTTP))
	}
	if a.Reason != "" {
		attributes = append(attributes, attribute.String("sluice.reason", a.Reason))
	}
	if a.Verdict != push.Accepted {
		attributes = append(attributes, attribute.String("error.type", a.Verdict.String()))
		span.SetStatus(codes.Error, a.Reason)
	}
	span.SetAttributes(attributes...)
	span.End(trace.WithTimestamp(a.Started.Add(a.Took)))
}

// StartPost starts the spans of an attempt to post events to a webhook: one in each of the traces that
// are sampled. It returns the trace context to send, which is zero if there is no span, and a function
// that ends the spans with the status of the response, or 0 without one.
func (t *Tracer) StartPost(webhook string, events int, traces []push.TraceContext) (sent push.TraceContext, end func(status int)) {
	p := t.pipeline.Load()
	if p == nil {
		return sent, func(int) {}
	}
	var spans []trace.Span
	now := time.Now()
	for i := range traces {
		if traces[i].Sampled() {
			spans = append(spans, p.start(&traces[i], "webhook "+webhook, trace.SpanKindClient, now))
		}
	}
	if len(spans) > 0 {
		sent = traceContext(spans[0])
	}
	return sent, func(status int) {
		for _, span := range spans {
			span.SetAttributes(attribute.String("http.request.method", http.MethodPost), attribute.String("sluice.webhook", webhook),
				attribute.Int("messaging.batch.message_count", events))
			setHTTPStatus(span, status, http.StatusMultipleChoices)
			if status == 0 {
				span.SetAttributes(attribute.String("error.type", "no_response"))
			}
			span.End()
		}
	}
}
