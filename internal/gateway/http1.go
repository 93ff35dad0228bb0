// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"sync"

	"github.com/sluice-push/sluice/pool"
	"github.com/sluice-push/sluice/wire"
)

// maxHTTP1Conns is how many requests an endpoint that knows no HTTP/2 gets at a time, a connection each.
const maxHTTP1Conns = 8

// dialerWithHTTP1 dials the endpoints of services that anybody may have named: HTTP/2, or HTTP/1.1 where the peer knows no
// other. The address is the one that the resolver found fit, and is asked for nowhere else: no proxy, no second look-up,
// no redirect.
func dialerWithHTTP1(cfg wire.Config) func(context.Context, netip.AddrPort) (pool.Conn, error) {
	h2 := dialer(cfg)
	return func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
		conn, err := h2(ctx, addr)
		if why, ok := errors.AsType[*wire.Error](err); ok && why.Reason == wire.ALPNNotH2 {
			return newHTTP1(addr, cfg), nil
		}
		return conn, err
	}
}

// http1 is an endpoint by HTTP/1.1: a connection to the pool, a few of them to the peer.
type http1 struct {
	wire.Doer
	transport *http.Transport
	done      chan struct{} // closed once it drains and nothing is in flight

	mu       sync.Mutex
	inFlight int
	draining bool
}

var _ pool.Conn = (*http1)(nil)

func newHTTP1(addr netip.AddrPort, cfg wire.Config) *http1 {
	secure := cfg.TLS.Clone()
	secure.ServerName, secure.NextProtos = hostname(cfg.Authority), []string{"http/1.1"}
	secure.MinVersion = tls.VersionTLS12
	h := &http1{done: make(chan struct{})}
	h.transport = &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, addr.String())
		},
		TLSClientConfig: secure, MaxConnsPerHost: maxHTTP1Conns, MaxIdleConnsPerHost: maxHTTP1Conns, DisableCompression: true,
		MaxResponseHeaderBytes: int64(cfg.MaxResponseBytes),
	}
	h.Doer = wire.FromTransport(bodyLimiter{h.transport, int64(cfg.MaxResponseBytes)}, &url.URL{Scheme: "https", Host: cfg.Authority})
	return h
}

func hostname(authority string) string {
	if host, _, err := net.SplitHostPort(authority); err == nil {
		return host
	}
	return authority
}

// bodyLimiter reads no more of an answer than it may have.
type bodyLimiter struct {
	next     http.RoundTripper
	maxBytes int64
}

func (c bodyLimiter) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.next.RoundTrip(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, c.maxBytes)
	}
	return answer, err
}

// Do makes one attempt.
func (h *http1) Do(ctx context.Context, r *wire.Request) (*wire.Response, error) {
	h.addInFlight(1)
	defer h.addInFlight(-1)
	return h.Doer.Do(ctx, r)
}

func (h *http1) addInFlight(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.inFlight += n
	h.closeIfDrained()
}

// closeIfDrained closes gone when the end has come. h.mu is held.
func (h *http1) closeIfDrained() {
	if !h.draining || h.inFlight > 0 {
		return
	}
	select {
	case <-h.done:
	default:
		close(h.done)
	}
}

// Run returns once Drain was called and what was in flight has ended, or when ctx ends.
func (h *http1) Run(ctx context.Context) error {
	select {
	case <-h.done:
	case <-ctx.Done():
	}
	h.transport.CloseIdleConnections()
	return nil
}

// Drain takes nothing new.
func (h *http1) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
	h.closeIfDrained()
}

// State tells how it stands.
func (h *http1) State() wire.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return wire.State{InFlight: h.inFlight, MaxStreams: maxHTTP1Conns, Draining: h.draining}
}
