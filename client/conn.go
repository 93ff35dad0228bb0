// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
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
	pingIdle        = 5 * time.Second // silence after which a gateway that owes no answer is pinged
	livenessTimeout = 5 * time.Second // for its first sign of life
	maxResponse     = 1 << 20
	responseGrace   = 2 * time.Second // that a gateway is given beyond the longest time that it tells
)

// gatewayConn is the way to one gateway: an HTTP/2 connection for calls, and HTTP/1.1 for what streams.
type gatewayConn struct {
	*wire.Conn
	base       *url.URL
	http       *http.Transport
	state      atomic.Pointer[loadReport]
	reportZone func(zone string)
	draining   chan struct{} // closed when it is to take nothing new
	startDrain func()
	lost       chan struct{} // closed when the connection has broken
}

var _ pool.Conn = (*gatewayConn)(nil)

var errDraining = errors.New("the gateway is draining")

// dial makes a link. Before it stands, the gateway says what it grants, and whether it takes anything at all.
func (c *Client) dial(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
	g := c.resolver.gatewayAt(addr)
	if g.base == nil {
		return nil, fmt.Errorf("%s is no gateway's address", addr)
	}
	l := &gatewayConn{
		base: g.base, draining: make(chan struct{}), lost: make(chan struct{}),
		reportZone: func(zone string) { c.resolver.reportedZones.Store(addr, zone) },
		http:       c.transport(addr),
	}
	l.startDrain = sync.OnceFunc(func() { close(l.draining) })
	l.state.Store(new(loadReport))
	if err := l.checkLive(ctx); err != nil {
		return nil, err
	}
	conn, err := connect(ctx, addr, g.base, wire.Config{
		Authority: g.base.Host, TLS: c.cfg.TLS, ActivePingInterval: c.cfg.KeepaliveTimeout / 2, PingTimeout: c.cfg.KeepaliveTimeout / 2,
		IdlePingInterval: pingIdle, MaxResponseBytes: maxResponse,
	})
	if err != nil {
		l.http.CloseIdleConnections()
		return nil, err
	}
	l.Conn = conn
	return l, nil
}

// transport streams to one address, whatever a URL's name resolves to.
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

// connect begins HTTP/2: by ALPN where there is TLS, by its preface where there is none.
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

// checkLive asks the gateway for a sign of life, and so for its signals.
func (l *gatewayConn) checkLive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, livenessTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base.String()+"/livez", nil)
	if err != nil {
		return err
	}
	answer, err := l.http.RoundTrip(request)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, maxResponse)) // else the connection could not serve a stream
	_ = answer.Body.Close()
	l.update(answer.Header.Get(loadReportHeader))
	switch {
	case answer.StatusCode != http.StatusOK:
		err = fmt.Errorf("GET /livez is answered %s; is that a gateway?", answer.Status)
	case l.state.Load().draining:
		err = errDraining
	}
	if err != nil {
		l.http.CloseIdleConnections()
	}
	return err
}

// update takes note of the signals in an answer.
func (l *gatewayConn) update(text string) {
	if text == "" || text == l.state.Load().raw {
		return
	}
	now := parseLoadReport(text)
	if before := l.state.Swap(&now); before.zone != now.zone {
		l.reportZone(now.zone)
	}
}

// Do makes one attempt. The gateway gets as long as it says that it takes at most.
func (l *gatewayConn) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	if longest := l.state.Load().maxDuration; longest > 0 {
		bounded := *r
		bounded.Timeout = longest + responseGrace
		r = &bounded
	}
	answer, err := l.Conn.Do(ctx, r)
	if err == nil {
		l.update(answer.Get(loadReportHeader))
	}
	return answer, err
}

// State is the connection's, within what the gateway grants.
func (l *gatewayConn) State() wire.State {
	state, told := l.Conn.State(), l.state.Load()
	if told.concurrency > 0 {
		state.MaxStreams = min(state.MaxStreams, told.concurrency)
	}
	state.Draining = state.Draining || told.draining
	return state
}

// Drain takes nothing new. Streams are told to end.
func (l *gatewayConn) Drain() {
	l.startDrain()
	l.Conn.Drain()
}

// Run ends with the connection. Streams outlive one that ends in good order, and no other.
func (l *gatewayConn) Run(ctx context.Context) error {
	err := l.Conn.Run(ctx)
	l.startDrain()
	if err != nil || ctx.Err() != nil {
		close(l.lost)
	}
	l.http.CloseIdleConnections()
	return err
}
