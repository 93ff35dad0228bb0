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
	pingIdle    = 5 * time.Second // silence after which a gateway that owes no answer is pinged
	greeting    = 5 * time.Second // for its first sign of life
	maxResponse = 1 << 20
	grace       = 2 * time.Second // that a gateway is given beyond the longest time that it tells
)

// link is the way to one gateway: an HTTP/2 connection for calls, and HTTP/1.1 for what streams.
type link struct {
	*wire.Conn
	base    *url.URL
	http    *http.Transport
	told    atomic.Pointer[signals]
	learn   func(zone string)
	leaving chan struct{} // closed when it is to take nothing new
	leave   func()
	lost    chan struct{} // closed when the connection has broken
}

var _ pool.Conn = (*link)(nil)

var errDraining = errors.New("the gateway is draining")

// dial makes a link. Before it stands, the gateway says what it grants, and whether it takes anything at all.
func (c *Client) dial(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
	g := c.fleet.origin(addr)
	if g.base == nil {
		return nil, fmt.Errorf("%s is no gateway's address", addr)
	}
	l := &link{
		base: g.base, leaving: make(chan struct{}), lost: make(chan struct{}),
		learn: func(zone string) { c.fleet.learnt.Store(addr, zone) },
		http:  c.transport(addr),
	}
	l.leave = sync.OnceFunc(func() { close(l.leaving) })
	l.told.Store(new(signals))
	if err := l.greet(ctx); err != nil {
		return nil, err
	}
	conn, err := connect(ctx, addr, g.base, wire.Config{
		Authority: g.base.Host, TLS: c.cfg.TLS, ActivePingInterval: c.cfg.Silence / 2, PingTimeout: c.cfg.Silence / 2,
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

// greet asks the gateway for a sign of life, and so for its signals.
func (l *link) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, greeting)
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
	l.hear(answer.Header.Get(signalHeader))
	switch {
	case answer.StatusCode != http.StatusOK:
		err = fmt.Errorf("GET /livez is answered %s; is that a gateway?", answer.Status)
	case l.told.Load().draining:
		err = errDraining
	}
	if err != nil {
		l.http.CloseIdleConnections()
	}
	return err
}

// hear takes note of the signals in an answer.
func (l *link) hear(text string) {
	if text == "" || text == l.told.Load().text {
		return
	}
	now := parseSignals(text)
	if before := l.told.Swap(&now); before.zone != now.zone {
		l.learn(now.zone)
	}
}

// Do makes one attempt. The gateway gets as long as it says that it takes at most.
func (l *link) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	if longest := l.told.Load().max; longest > 0 {
		bounded := *r
		bounded.Timeout = longest + grace
		r = &bounded
	}
	answer, err := l.Conn.Do(ctx, r)
	if err == nil {
		l.hear(answer.Get(signalHeader))
	}
	return answer, err
}

// State is the connection's, within what the gateway grants.
func (l *link) State() wire.State {
	state, told := l.Conn.State(), l.told.Load()
	if told.concurrency > 0 {
		state.MaxStreams = min(state.MaxStreams, told.concurrency)
	}
	state.Draining = state.Draining || told.draining
	return state
}

// Drain takes nothing new. Streams are told to end.
func (l *link) Drain() {
	l.leave()
	l.Conn.Drain()
}

// Run ends with the connection. Streams outlive one that ends in good order, and no other.
func (l *link) Run(ctx context.Context) error {
	err := l.Conn.Run(ctx)
	l.leave()
	if err != nil || ctx.Err() != nil {
		close(l.lost)
	}
	l.http.CloseIdleConnections()
	return err
}
