// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/sluice-push/sluice/internal/buildinfo"
	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/delivery"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/proxy"
	"github.com/sluice-push/sluice/internal/tracing"
	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/push"
)

// traceExport is the export of traces, with the settings that it was built from.
type traceExport struct {
	*tracing.Pipeline
	config config.Tracing
	files  string // digest
	roots  *rootCAs
	proxy  *proxy.Proxy
	linger time.Duration

	stop context.CancelFunc // nil before it runs
}

// newTraceExport builds the export of traces, or reuses an unchanged one. It returns nil if tracing is off.
func (b *builder) newTraceExport(c *config.Tracing) (*traceExport, error) {
	const path = "tracing"
	if c.Endpoint == "" {
		return nil, nil
	}
	files := b.next.files
	roots, err := files.rootCAs(path, c.CAFile)
	if err != nil {
		return nil, err
	}
	endpoint, err := url.Parse(string(c.Endpoint))
	if err != nil {
		return nil, keyError(path, "endpoint", err)
	}
	headers, contents, err := traceHeaders(path, c)
	if err != nil {
		return nil, err
	}
	security := &tls.Config{RootCAs: roots.certPool(), MinVersion: tls.VersionTLS12}
	if c.CertFile != "" {
		pair, err := readCertificate(path, "key_file", c.CertFile, c.KeyFile)
		if err != nil {
			return nil, err
		}
		security.Certificates = []tls.Certificate{*pair}
		contents = append(contents, pair.Certificate...)
	}
	e := &traceExport{config: *c, files: digest(contents...), roots: roots, proxy: files.fileProxy, linger: b.next.cfg.Limits.SendTimeout}
	if known := b.previous.traceExport; known != nil && known.config == *c && known.files == e.files && known.roots == roots && known.proxy == e.proxy {
		return known, nil
	}
	cfg := tracing.Config{
		Endpoint: endpoint, HTTP: c.Protocol == "http", TLS: security, Headers: headers, SampleRatio: float64(c.SampleRatio), ParentBased: c.ParentBased,
		ServiceName: c.ServiceName, Version: buildinfo.Read().Version, Zone: b.next.cfg.Zone, Counts: &b.traceCounts, Logger: b.log,
	}
	if target := net.JoinHostPort(endpoint.Hostname(), tracePort(endpoint)); e.proxy.Use(target) {
		cfg.Dial = e.proxy.DialContext
	}
	e.Pipeline = tracing.New(cfg)
	return e, nil
}

// tracePort returns the port of the receiver.
func tracePort(endpoint *url.URL) string {
	switch {
	case endpoint.Port() != "":
		return endpoint.Port()
	case endpoint.Scheme == "http":
		return "80"
	default:
		return "443"
	}
}

// traceHeaders reads the headers file. Its error contains no value.
func traceHeaders(path string, c *config.Tracing) (headers map[string]string, contents [][]byte, err error) {
	if c.HeadersFile == "" {
		return nil, nil, nil
	}
	text, err := readFile(path, "headers_file", c.HeadersFile)
	if err != nil {
		return nil, nil, err
	}
	headers = map[string]string{}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		name, value, found := strings.Cut(strings.TrimSpace(string(line)), ":")
		value = strings.TrimSpace(value)
		switch {
		case name == "" && !found:
		case !found, !httpguts.ValidHeaderFieldName(name), !httpguts.ValidHeaderFieldValue(value):
			return nil, nil, keyError(path, "headers_file", fmt.Errorf("%q, line %d: must be a header as Name: value", string(c.HeadersFile), number))
		default:
			headers[strings.ToLower(name)] = value
		}
	}
	if len(headers) == 0 {
		return nil, nil, keyError(path, "headers_file", fmt.Errorf("%q: must contain a header as Name: value", string(c.HeadersFile)))
	}
	return headers, [][]byte{text}, nil
}

// start runs the export in the background until it is replaced or the gateway ends. The caller holds
// g.mu.
func (e *traceExport) start(g *Gateway) {
	if e == nil || e.stop != nil {
		return
	}
	var ctx context.Context
	ctx, e.stop = context.WithCancel(g.background.ctx)
	g.background.start(func(context.Context) error { return panics.Restart(ctx, g.log, "export of traces", e.Run) })
	g.traceMetrics()
}

// end stops the export when the calls in progress have had the time to end, with their spans.
func (e *traceExport) end() {
	if e.stop != nil {
		time.AfterFunc(e.linger, e.stop)
	}
}

// pipeline returns the pipeline, or nil if tracing is off.
func (e *traceExport) pipeline() *tracing.Pipeline {
	if e == nil {
		return nil
	}
	return e.Pipeline
}

func (e *traceExport) checks() []Check {
	if e == nil {
		return nil
	}
	return []Check{{Key: "tracing.endpoint", Verify: func(ctx context.Context) (string, error) {
		if err := e.Verify(ctx); err != nil {
			return "", errors.New("the receiver does not accept traces: " + err.Error())
		}
		return fmt.Sprintf("%s accepts traces with %s", e.config.Endpoint, e.config.Protocol), nil
	}}}
}

// observer returns the observer of the route of an app on a platform.
func (g *Gateway) observer(app string, platform push.Platform) delivery.Observer {
	o := g.metrics.Route(app, platform)
	count := o.Attempted
	o.Attempted = func(n *push.Notification, number int, a *push.Attempt, conn pool.Conn) {
		count(n, number, a, conn)
		g.tracer.Attempted(n, number, a, conn)
	}
	o.Waited = func(n *push.Notification, at delivery.WaitingPlace, since time.Time) {
		g.tracer.Waited(n, string(at), since)
	}
	return o
}
