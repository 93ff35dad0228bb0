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

// maxHTTP1Conns limits the connections, and so the concurrent requests, of an endpoint without
// HTTP/2.
const maxHTTP1Conns = 8

// dialerWithHTTP1 returns a dialer that uses HTTP/2, or HTTP/1.1 if the peer does not support
// HTTP/2. Subscriptions of untrusted users name these peers, so the connection goes only to the
// address that the resolver has allowed, or to a proxy: there is no second lookup and no redirect.
func dialerWithHTTP1(cfg wire.Config) func(context.Context, netip.AddrPort) (pool.Conn, error) {
	h2 := dialer(cfg)
	return func(ctx context.Context, addr netip.AddrPort) (pool.Conn, error) {
		conn, err := h2(ctx, addr)
		if wireErr, ok := errors.AsType[*wire.Error](err); ok && wireErr.Reason == wire.ALPNNotH2 {
			return newHTTP1(addr, cfg), nil
		}
		return conn, err
	}
}

// http1 is a pool.Conn for an endpoint that uses HTTP/1.1. It opens up to maxHTTP1Conns
// connections.
type http1 struct {
	wire.Doer
	transport *http.Transport
	done      chan struct{} // closed when it is draining and nothing is in flight

	mu       sync.Mutex
	inFlight int
	draining bool
}

var _ pool.Conn = (*http1)(nil)

func newHTTP1(addr netip.AddrPort, cfg wire.Config) *http1 {
	tlsConfig := cfg.TLS.Clone()
	tlsConfig.ServerName, tlsConfig.NextProtos = hostname(cfg.Authority), []string{"http/1.1"}
	tlsConfig.MinVersion = tls.VersionTLS12
	dial := cfg.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	h := &http1{done: make(chan struct{})}
	h.transport = &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, addr.String())
		},
		TLSClientConfig: tlsConfig, MaxConnsPerHost: maxHTTP1Conns, MaxIdleConnsPerHost: maxHTTP1Conns, DisableCompression: true,
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

// bodyLimiter limits the size of response bodies.
type bodyLimiter struct {
	next     http.RoundTripper
	maxBytes int64
}

func (b bodyLimiter) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(r)
	if err == nil {
		response.Body = http.MaxBytesReader(nil, response.Body, b.maxBytes)
	}
	return response, err
}

// Do makes one request.
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

// closeIfDrained closes done if h is draining and nothing is in flight. The caller holds h.mu.
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

// Run returns when ctx ends, or when Drain has been called and nothing is in flight.
func (h *http1) Run(ctx context.Context) error {
	select {
	case <-h.done:
	case <-ctx.Done():
	}
	h.transport.CloseIdleConnections()
	return nil
}

// Drain makes Run return when nothing is in flight.
func (h *http1) Drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.draining = true
	h.closeIfDrained()
}

// State returns the current state.
func (h *http1) State() wire.State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return wire.State{InFlight: h.inFlight, MaxStreams: maxHTTP1Conns, Draining: h.draining}
}
