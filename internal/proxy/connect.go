// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/proxy"
)

// maxResponse limits the header of the proxy's response.
const maxResponse = 64 << 10

// aLongTimeAgo is a deadline that cancels pending reads and writes.
var aLongTimeAgo = time.Unix(1, 0)

const credentialsHint = " (set credentials_file, or correct its contents)"

// connect returns a connection to the proxy itself.
func (p *Proxy) connect(ctx context.Context) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.address)
	if err != nil {
		return nil, &Error{Proxy: p.address, Err: err}
	}
	if p.url.Scheme != "https" {
		return conn, nil
	}
	secured := tls.Client(conn, &tls.Config{ServerName: p.url.Hostname(), RootCAs: p.roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, &Error{Proxy: p.address, Err: err}
	}
	return secured, nil
}

// dialHTTP connects to address with the method CONNECT (RFC 9110 §9.3.6).
func (p *Proxy) dialHTTP(ctx context.Context, address string) (net.Conn, error) {
	conn, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(aLongTimeAgo) })
	status, err := p.requestTunnel(conn, address)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, &Error{Proxy: p.address, Address: address, Status: status, Err: err}
	}
	return conn, nil
}

// requestTunnel sends the request and reads the response. status is 0 without a response.
func (p *Proxy) requestTunnel(conn net.Conn, address string) (status int, err error) {
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{"User-Agent": {"sluice"}}}
	if user := p.url.User; user != nil {
		password, _ := user.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := request.Write(conn); err != nil {
		return 0, err
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxResponse))
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return 0, fmt.Errorf("no HTTP response to CONNECT: %w", err)
	}
	_ = response.Body.Close()
	switch {
	case response.StatusCode == http.StatusProxyAuthRequired:
		return response.StatusCode, errors.New(statusText(response.StatusCode) + credentialsHint)
	case response.StatusCode/100 != 2:
		return response.StatusCode, errors.New("CONNECT is answered with " + statusText(response.StatusCode))
	case reader.Buffered() > 0:
		return response.StatusCode, errors.New("it sent data before the TLS handshake")
	}
	return response.StatusCode, nil
}

// statusText returns a status with its standard text. The text of the response is not trusted.
func statusText(status int) string {
	return strings.TrimSpace(fmt.Sprint(status, " ", http.StatusText(status)))
}

// dialSOCKS connects to address with SOCKS5 (RFC 1928).
func (p *Proxy) dialSOCKS(ctx context.Context, address string) (net.Conn, error) {
	var auth *proxy.Auth
	if user := p.url.User; user != nil {
		password, _ := user.Password()
		auth = &proxy.Auth{User: user.Username(), Password: password}
	}
	raw := &rawDialer{connect: p.connect}
	dialer, err := proxy.SOCKS5("tcp", p.address, auth, raw)
	if err == nil {
		if _, err = dialer.(proxy.ContextDialer).DialContext(ctx, "tcp", address); err == nil {
			return raw.conn, nil // without a wrapper that hides the methods of a TCP connection
		}
	}
	if unreachable, ok := errors.AsType[*Error](err); ok {
		return nil, unreachable
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && strings.HasPrefix(op.Op, "socks") { // its text repeats the addresses
		err = op.Err
	}
	if strings.Contains(err.Error(), "authentication") {
		err = fmt.Errorf("%w%s", err, credentialsHint)
	}
	return nil, &Error{Proxy: p.address, Address: address, Err: err}
}

// rawDialer is the proxy.Dialer that connects to the proxy itself, once.
type rawDialer struct {
	connect func(context.Context) (net.Conn, error)
	conn    net.Conn
}

// Dial connects to the proxy.
func (d *rawDialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to the proxy.
func (d *rawDialer) DialContext(ctx context.Context, _, _ string) (conn net.Conn, err error) {
	d.conn, err = d.connect(ctx)
	return d.conn, err
}
