// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/wire"
)

const (
	pingIdle        = 5 * time.Second // an idle connection is pinged after this time
	livenessTimeout = 5 * time.Second // for the response of /livez
	maxResponse     = 4 << 20         // enough for the receipts of 1,000 targets
	responseGrace   = 2 * time.Second // added to the gateway's maximum response time
)

// gatewayConn is the connection to one gateway: HTTP/2 for single calls, and HTTP/1.1 for streams.
type gatewayConn struct {
	*wire.Conn
	base       *url.URL
	http       *http.Transport
	state      atomic.Pointer[loadReport]
	reportZone func(zone string)
	draining   chan struct{} // closed when no new calls or streams may start
	startDrain func()
	lost       chan struct{} // closed when the connection breaks
}

var _ pool.Conn = (*gatewayConn)(nil)

var errDraining = errors.New("the gateway is draining")

// dial connects to a gateway. It first gets the load report, and fails if the gateway is draining.
func (c *Client) dial(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
	g := c.resolver.gatewayAt(addr)
	if g.base == nil {
		return nil, fmt.Errorf("%s is not the address of a gateway", addr)
	}
	gc := &gatewayConn{
		base: g.base, draining: make(chan struct{}), lost: make(chan struct{}),
		reportZone: func(zone string) { c.resolver.reportedZones.Store(addr, zone) },
		http:       c.transport(addr),
	}
	gc.startDrain = sync.OnceFunc(func() { close(gc.draining) })
	gc.state.Store(new(loadReport))
	if err := gc.checkLive(ctx); err != nil {
		return nil, err
	}
	conn, err := connect(ctx, addr, g.base, wire.Config{
		Authority: g.base.Host, TLS: c.cfg.TLS, ActivePingInterval: c.cfg.KeepaliveTimeout / 2, PingTimeout: c.cfg.KeepaliveTimeout / 2,
		IdlePingInterval: pingIdle, MaxResponseBytes: maxResponse, MaxWaiting: -1, // they wait in the pool
	})
	if err != nil {
		gc.http.CloseIdleConnections()
		return nil, err
	}
	gc.Conn = conn
	return gc, nil
}

// transport returns an HTTP transport that dials addr for every host name.
func (c *Client) transport(addr netip.AddrPort) *http.Transport {
	dialer := net.Dialer{Timeout: 5 * time.Second, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 2 * time.Second, Interval: time.Second, Count: 3,
	}}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, addr.String())
		},
		TLSClientConfig: c.cfg.TLS.Clone(), TLSHandshakeTimeout: 5 * time.Second, DisableCompression: true,
		IdleConnTimeout: 30 * time.Second, MaxIdleConnsPerHost: 1,
	}
}

// connect starts HTTP/2: with ALPN if the gateway uses TLS, otherwise with prior knowledge.
func connect(ctx context.Context, addr netip.AddrPort, base *url.URL, cfg wire.Config) (*wire.Conn, error) {
	if base.Scheme == "https" {
		return wire.Dial(ctx, addr, cfg)
	}
	cfg.TLS = nil
	nc, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return wire.Client(ctx, nc, cfg)
}

// checkLive requests /livez and stores the load report in its response.
func (c *gatewayConn) checkLive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, livenessTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String()+"/livez", nil)
	if err != nil {
		return err
	}
	res, err := c.http.RoundTrip(request)
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted {
		err = &wire.Error{Reason: wire.TLSServerUntrusted, Processed: wire.Never, Err: err}
	}
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxResponse)) // otherwise the connection cannot be reused
	_ = res.Body.Close()
	c.update(res.Header.Get(loadReportHeader))
	switch {
	case res.StatusCode != http.StatusOK:
		err = fmt.Errorf("GET /livez returned %s: check that it is a gateway", res.Status)
	case c.state.Load().raw == "":
		err = fmt.Errorf("%s to GET /livez is not from a gateway: it has no header Sluice-Gateway",
			describeResponse(res.StatusCode, res.Header.Get("Content-Type"), ""))
	case c.state.Load().draining:
		err = errDraining
	}
	if err != nil {
		c.http.CloseIdleConnections()
	}
	return err
}

// update stores the load report of a response.
func (c *gatewayConn) update(text string) {
	if text == "" || text == c.state.Load().raw {
		return
	}
	report := parseLoadReport(text)
	if old := c.state.Swap(&report); old.zone != report.zone {
		c.reportZone(report.zone)
	}
}

// Do makes one attempt. Its timeout is the gateway's maximum response time plus responseGrace.
func (c *gatewayConn) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	if limit := c.state.Load().maxDuration; limit > 0 {
		limited := *r
		limited.Timeout = limit + responseGrace
		r = &limited
	}
	res, err := c.Conn.Do(ctx, r)
	if err == nil {
		c.update(res.Get(loadReportHeader))
	}
	return res, err
}

// State returns the state of the connection, limited by the load report.
func (c *gatewayConn) State() wire.State {
	state, report := c.Conn.State(), c.state.Load()
	if report.concurrency > 0 {
		state.MaxStreams = min(state.MaxStreams, report.concurrency)
	}
	state.Draining = state.Draining || report.draining
	return state
}

// Drain stops new calls and ends streams as soon as their receipts have arrived.
func (c *gatewayConn) Drain() {
	c.startDrain()
	c.Conn.Drain()
}

// Run runs the connection until it ends. Streams continue if the connection ends normally, and are
// cancelled if it breaks.
func (c *gatewayConn) Run(ctx context.Context) error {
	err := c.Conn.Run(ctx)
	c.startDrain()
	if err != nil || ctx.Err() != nil {
		close(c.lost)
	}
	c.http.CloseIdleConnections()
	return err
}
