// SPDX-License-Identifier: Apache-2.0

// Package proxy connects through HTTP CONNECT and SOCKS5 proxies. The proxy resolves the names of the
// peers; this process does not. Neither an error nor a Proxy's text contains credentials.
package proxy

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// connectTimeout limits the time to connect to the proxy and through it. Callers usually have a
// shorter limit.
const connectTimeout = 15 * time.Second

// Config says which proxy connects to what.
type Config struct {
	// URL is http://host:port or https://host:port for HTTP CONNECT, or socks5://host:port. It may
	// contain user and password. nil means no proxy.
	URL *url.URL
	// RootCAs are the certificate authorities of an https proxy. nil means those of the system.
	RootCAs *x509.CertPool
	// NoProxy lists what is connected to directly, separated by commas as in the environment variable
	// NO_PROXY: names with all their subdomains, IP addresses, networks, each with an optional port.
	// localhost and loopback addresses are always connected to directly.
	NoProxy string
}

// Proxy connects to some addresses through a proxy and to the others directly. A nil Proxy connects
// to all directly.
type Proxy struct {
	url     *url.URL // nil without a proxy
	address string   // of the proxy, host:port
	noProxy string
	roots   *x509.CertPool
	proxied func(*url.URL) (*url.URL, error)
}

// defaultPorts are the ports of proxies whose URL has none.
var defaultPorts = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}

var errURL = errors.New("must be http://host:port, https://host:port or socks5://host:port")

// New returns a proxy. It connects to nothing. Its error does not contain the URL.
func New(cfg Config) (*Proxy, error) {
	p := &Proxy{url: cfg.URL, roots: cfg.RootCAs, noProxy: cfg.NoProxy}
	if p.url == nil {
		return p, nil
	}
	port := defaultPorts[p.url.Scheme]
	if port == "" || p.url.Hostname() == "" || strings.Trim(p.url.Path, "/") != "" || p.url.RawQuery != "" {
		return nil, errURL
	}
	if p.url.Port() != "" {
		port = p.url.Port()
	}
	if password, _ := p.url.User.Password(); strings.HasPrefix(p.url.Scheme, "socks5") && (len(p.url.User.Username()) > 255 || len(password) > 255) {
		return nil, errors.New("SOCKS5 allows a user and a password of up to 255 bytes each")
	}
	p.address = net.JoinHostPort(p.url.Hostname(), port)
	p.proxied = (&httpproxy.Config{HTTPSProxy: "http://" + p.address, NoProxy: cfg.NoProxy}).ProxyFunc()
	return p, nil
}

// FromEnvironment returns the proxy of HTTPS_PROXY and NO_PROXY (or https_proxy and no_proxy), or nil
// if there is none.
func FromEnvironment() (*Proxy, error) {
	env := httpproxy.FromEnvironment()
	text := env.HTTPSProxy
	if text == "" {
		return nil, nil
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil { // its text contains the URL
		return nil, fmt.Errorf("environment variable HTTPS_PROXY: %w", errURL)
	}
	p, err := New(Config{URL: u, NoProxy: env.NoProxy})
	if err != nil {
		return nil, fmt.Errorf("environment variable HTTPS_PROXY: %w", err)
	}
	return p, nil
}

// String returns the URL of the proxy without credentials, or "none".
func (p *Proxy) String() string {
	if p == nil || p.url == nil {
		return "none"
	}
	return p.url.Scheme + "://" + p.address
}

// NoProxy returns Config.NoProxy.
func (p *Proxy) NoProxy() string { return p.noProxy }

// Use reports whether the proxy connects to address, which is host:port.
func (p *Proxy) Use(address string) bool {
	if p == nil || p.url == nil {
		return false
	}
	via, err := p.proxied(&url.URL{Scheme: "https", Host: address})
	return via != nil && err == nil
}

// DialContext connects to address, which is host:port: through the proxy, or directly if the proxy is
// not used for it. If the proxy cannot be reached or refuses, the error is an *Error.
func (p *Proxy) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if !p.Use(address) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if strings.HasPrefix(p.url.Scheme, "socks5") {
		return p.dialSOCKS(ctx, address)
	}
	return p.dialHTTP(ctx, address)
}

// Verify connects to the proxy itself and closes the connection.
func (p *Proxy) Verify(ctx context.Context) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	return conn.Close()
}

// Error reports why a proxy did not connect to an address.
type Error struct {
	// Proxy is the host and port of the proxy.
	Proxy string
	// Address is what it should connect to, or empty if the proxy cannot be reached.
	Address string
	// Status is the HTTP status of the proxy's response, or 0 without one.
	Status int
	// Err is the cause. It contains no credentials.
	Err error
}

// Error names the proxy and the cause.
func (e *Error) Error() string {
	if e.Address == "" {
		return fmt.Sprintf("cannot connect to the proxy %s: %v", e.Proxy, e.Err)
	}
	return fmt.Sprintf("the proxy %s does not connect to %s: %v", e.Proxy, e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

var _ net.Error = (*Error)(nil)

// Timeout reports whether the proxy did not respond in time.
func (e *Error) Timeout() bool {
	return errors.Is(e.Err, context.DeadlineExceeded) || errors.Is(e.Err, os.ErrDeadlineExceeded)
}

// Temporary is part of net.Error, and deprecated there.
func (e *Error) Temporary() bool { return false }
