// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/grpclog"
)

const (
	// maxBuffered bounds the memory of spans that wait for their export, to about 8 MiB.
	maxBuffered = 4096
	// maxBatch and exportInterval bound what is exported together.
	maxBatch       = 512
	exportInterval = time.Second
	// exportTimeout bounds an export, with its retries.
	exportTimeout = 10 * time.Second
	// flushTimeout is how long Run may take after its context has ended.
	flushTimeout = 2 * time.Second
	// verifyTimeout bounds Verify.
	verifyTimeout = 5 * time.Second
	maxErrorText  = 300 // bytes
)

// silence turns off what the libraries log themselves: they know no limit, and errors of exports are
// logged by the pipeline.
var silence = sync.OnceFunc(func() {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	otel.SetLogger(logr.Discard())
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard))
})

// OnStart implements sdktrace.SpanProcessor.
func (p *Pipeline) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor. It does not block.
func (p *Pipeline) OnEnd(s sdktrace.ReadOnlySpan) {
	select {
	case p.ended <- s:
	default:
		p.cfg.Counts.BufferFull.Add(1)
	}
}

// Shutdown implements sdktrace.SpanProcessor. The end of Run is the end of the pipeline.
func (p *Pipeline) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor.
func (p *Pipeline) ForceFlush(context.Context) error { return nil }

// Run exports spans until ctx ends. Then it exports those that have ended by then, for at most two
// seconds.
func (p *Pipeline) Run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(flushTimeout, cancel) })()
	exporter := otlptrace.NewUnstarted(p.client(true))
	if err := exporter.Start(work); err != nil {
		return err
	}
	defer func() { _ = exporter.Shutdown(work) }()
	timer := time.NewTimer(exportInterval)
	defer timer.Stop()
	timer.Stop() // until there is a span
	var batch []sdktrace.ReadOnlySpan
	for ctx.Err() == nil {
		select {
		case s := <-p.ended:
			if batch = append(batch, s); len(batch) < maxBatch {
				if len(batch) == 1 {
					timer.Reset(exportInterval)
				}
				continue
			}
		case <-timer.C:
		case <-ctx.Done():
			continue
		}
		p.export(work, exporter, batch)
		batch = nil
		timer.Stop()
	}
	for {
		batch = p.takeEnded(batch)
		if len(batch) == 0 {
			return nil
		}
		p.export(work, exporter, batch)
		batch = nil
	}
}

// takeEnded adds spans that have ended to a batch, up to its maximum size.
func (p *Pipeline) takeEnded(batch []sdktrace.ReadOnlySpan) []sdktrace.ReadOnlySpan {
	for len(batch) < maxBatch {
		select {
		case s := <-p.ended:
			batch = append(batch, s)
		default:
			return batch
		}
	}
	return batch
}

// export exports a batch, and drops it after an error.
func (p *Pipeline) export(ctx context.Context, exporter *otlptrace.Exporter, batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	err := exporter.ExportSpans(ctx, batch)
	if err == nil {
		p.cfg.Counts.Exported.Add(uint64(len(batch)))
		return
	}
	p.cfg.Counts.ExportFailed.Add(uint64(len(batch)))
	if skipped, ok := p.failed.Allow(); ok {
		p.cfg.Logger.Warn("traces not exported", "endpoint", p.cfg.Endpoint.Host, "err", shorten(err), "spans", len(batch), "not_logged", skipped)
	}
}

// shorten returns the text of an error without most of what a receiver has answered.
func shorten(err error) string {
	text := err.Error()
	return text[:min(len(text), maxErrorText)]
}

// Verify sends an empty request to the receiver.
func (p *Pipeline) Verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	c := p.client(false)
	if err := c.Start(ctx); err != nil {
		return err
	}
	err := c.UploadTraces(ctx, nil)
	_ = c.Stop(ctx)
	if err != nil {
		return errors.New(shorten(err))
	}
	return nil
}

// client returns the client for the protocol, with or without retries. All options are set, so that no environment variable of
// OpenTelemetry changes them.
func (p *Pipeline) client(retry bool) otlptrace.Client {
	dial := p.cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	if p.cfg.HTTP {
		return p.httpClient(dial, retry)
	}
	address := p.cfg.Endpoint.Host
	if p.cfg.Endpoint.Port() == "" {
		address = net.JoinHostPort(p.cfg.Endpoint.Hostname(), map[string]string{"http": "80", "https": "443"}[p.cfg.Endpoint.Scheme])
	}
	security := otlptracegrpc.WithInsecure()
	if p.cfg.Endpoint.Scheme == "https" {
		security = otlptracegrpc.WithTLSCredentials(credentials.NewTLS(p.cfg.TLS.Clone()))
	}
	return otlptracegrpc.NewClient(
		otlptracegrpc.WithEndpoint("passthrough:///"+address), // a proxy resolves the name
		otlptracegrpc.WithHeaders(p.cfg.Headers), otlptracegrpc.WithTimeout(exportTimeout), otlptracegrpc.WithCompressor("gzip"),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: retry, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout}),
		otlptracegrpc.WithDialOption(
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "tcp", address) }),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: exportTimeout, Backoff: backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: exportTimeout}}),
		),
		security,
	)
}

func (p *Pipeline) httpClient(dial func(ctx context.Context, network, address string) (net.Conn, error), retry bool) otlptrace.Client {
	endpoint := *p.cfg.Endpoint
	if endpoint.Path == "" || endpoint.Path == "/" {
		endpoint.Path = "/v1/traces"
	}
	return otlptracehttp.NewClient(
		otlptracehttp.WithEndpointURL(endpoint.String()),
		otlptracehttp.WithHeaders(p.cfg.Headers), otlptracehttp.WithTimeout(exportTimeout), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: retry, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: exportTimeout}),
		otlptracehttp.WithHTTPClient(&http.Client{
			Timeout: exportTimeout,
			Transport: &http.Transport{
				DialContext: dial, TLSClientConfig: p.cfg.TLS.Clone(), ForceAttemptHTTP2: true, MaxIdleConns: 2, IdleConnTimeout: time.Minute,
				TLSHandshakeTimeout: exportTimeout,
			},
		}),
	)
}
