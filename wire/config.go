// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"cmp"
	"crypto/tls"
	"net"
	"time"
)

// Config is how one connection is made and kept. Its zero value works, but for
// Authority.
type Config struct {
	// Authority is the service's name, with its port where that is not 443. It
	// is :authority, and its host is asked for by SNI and must be named by the
	// peer's certificate.
	Authority string
	// TLS is cloned. A client certificate and the trusted roots come in here;
	// nil means the system's roots. Name, protocol and the lowest version are
	// set by this package.
	TLS *tls.Config

	// DialTimeout is for everything up to the peer's first SETTINGS. Default 5 s.
	DialTimeout time.Duration
	// ResponseTimeout is for a Request that names none. Default 5 s.
	ResponseTimeout time.Duration
	// PingBusy is the silence after which the peer is pinged while it owes an
	// answer. Default 1 s: with PingTimeout it bounds how long a black hole is
	// fed.
	ActivePingInterval time.Duration
	// PingIdle is the same while it owes none. Default 30 s. Less makes some
	// services say "too many pings".
	IdlePingInterval time.Duration
	// PingTimeout is how long a ping may bring nothing at all before the
	// connection is given up. Default 1 s; use 3 s across an ocean.
	PingTimeout time.Duration
	// WriteTimeout is how long one write may block before the connection is
	// given up. Default 1 s.
	WriteTimeout time.Duration

	// MaxStreams is our own cap on requests in flight; FCM closes a connection
	// that has more than 100. Zero means the peer's alone.
	MaxStreams int
	// MaxWaiting is how many requests may wait for a stream; one more fails
	// with QueueFull. Default 1000; negative means none.
	MaxWaiting int
	// MaxResponse is the largest body, in bytes. Default 64 KiB, at most 1 GiB.
	MaxResponseBytes int
	// FirstAlone sends one request alone until the peer has answered one. An
	// APNs connection with a token needs it.
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
	c.MaxWaiting = max(cmp.Or(c.MaxWaiting, 1000), 0)
	c.MaxResponseBytes = min(cmp.Or(c.MaxResponseBytes, 64<<10), maxResponseLimit)
	return c
}

// tlsConfig returns the client's side of RFC 9113 §3.2 and §9.2: h2 by ALPN, TLS
// 1.2 or later, the service's name.
func (c Config) tlsConfig() *tls.Config {
	t := &tls.Config{}
	if c.TLS != nil {
		t = c.TLS.Clone()
	}
	t.ServerName = c.host()
	t.NextProtos = []string{"h2"}
	t.MinVersion = max(t.MinVersion, tls.VersionTLS12)
	t.DynamicRecordSizingDisabled = true // many requests go out in one write: let them be one record
	return t
}

func (c Config) host() string {
	if host, _, err := net.SplitHostPort(c.Authority); err == nil {
		return host
	}
	return c.Authority
}
