// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"time"
)

// Config configures one connection. Only Authority is required; the zero value of every other field
// means its default.
type Config struct {
	// Authority is the host name of the service, followed by the port unless that is 443. It is
	// sent as :authority. The host is the SNI server name, and the peer's certificate must be valid
	// for it.
	Authority string
	// TLS holds the client certificate and the root CAs; nil means no client certificate and the
	// system's roots. It is cloned. The connection sets ServerName and NextProtos itself and
	// requires at least TLS 1.2.
	TLS *tls.Config
	// DialContext establishes the TCP connection, for instance through a proxy; nil means that of
	// net.Dialer. address is ip:port. If its error is an *Error, Dial returns it unchanged.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// DialTimeout limits the time from the TCP connect to the peer's first SETTINGS frame. Default
	// 5 s.
	DialTimeout time.Duration
	// ResponseTimeout is the timeout of a Request that sets none. Default 5 s.
	ResponseTimeout time.Duration
	// ActivePingInterval is how long the peer may be silent before it is pinged while requests are
	// in flight. Default 1 s. ActivePingInterval plus PingTimeout limits how long requests are sent
	// to a peer that no longer responds.
	ActivePingInterval time.Duration
	// IdlePingInterval is how long the peer may be silent before it is pinged while no request is
	// in flight. Default 30 s. With shorter intervals some services close the connection with
	// "too_many_pings".
	IdlePingInterval time.Duration
	// PingTimeout is how long the peer may stay silent after a ping before the connection is
	// closed. Default 1 s; use 3 s for intercontinental connections.
	PingTimeout time.Duration
	// WriteTimeout is how long one write may block before the connection is closed. Default 1 s.
	WriteTimeout time.Duration

	// MaxStreams is the maximum number of requests in flight, in addition to the peer's own limit.
	// Zero means only the peer's limit applies. FCM closes a connection that has more than 100
	// requests in flight.
	MaxStreams int
	// MaxWaiting is the maximum number of requests that wait for a stream. Further requests fail
	// with QueueFull, and the last ones do when the peer lowers its limit. Default 1000; a negative
	// value disables waiting.
	MaxWaiting int
	// MaxResponseBytes is the maximum size of a response body. Default 64 KiB, at most 1 GiB.
	MaxResponseBytes int
	// SerializeFirst sends one request at a time until the peer has responded to one. It is needed
	// for APNs connections that authenticate with a token.
	SerializeFirst bool
}

const maxResponseLimit = 1 << 30

func (c Config) withDefaults() Config {
	c.DialTimeout = cmp.Or(c.DialTimeout, 5*time.Second)
	c.ResponseTimeout = cmp.Or(c.ResponseTimeout, 5*time.Second)
	c.ActivePingInterval = cmp.Or(c.ActivePingInterval, time.Second)
	c.IdlePingInterval = cmp.Or(c.IdlePingInterval, 30*time.Second)
	c.PingTimeout = cmp.Or(c.PingTimeout, time.Second)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, time.Second)
	if c.DialContext == nil {
		c.DialContext = new(net.Dialer).DialContext
	}
	c.MaxWaiting = max(cmp.Or(c.MaxWaiting, 1000), 0)
	c.MaxResponseBytes = min(cmp.Or(c.MaxResponseBytes, 64<<10), maxResponseLimit)
	return c
}

// tlsConfig returns the client's TLS configuration (RFC 9113 §3.2, §9.2): ALPN h2, TLS 1.2 or
// later, and the server name from Authority.
func (c Config) tlsConfig() *tls.Config {
	t := &tls.Config{}
	if c.TLS != nil {
		t = c.TLS.Clone()
	}
	t.ServerName = c.host()
	t.NextProtos = []string{"h2"}
	t.MinVersion = max(t.MinVersion, tls.VersionTLS12)
	t.DynamicRecordSizingDisabled = true // one write holds many requests; send it as one record
	return t
}

func (c Config) host() string {
	if host, _, err := net.SplitHostPort(c.Authority); err == nil {
		return host
	}
	return c.Authority
}
