// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/sluice-push/sluice/internal/proxy"
	"github.com/sluice-push/sluice/internal/proxy/proxytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listenEcho runs a server that returns what it receives.
func listenEcho(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// peer is a name that only the proxies of these tests can resolve.
const peer = "push.peer.invalid:443"

func newProxy(t *testing.T, server *proxytest.Proxy, user *url.Userinfo, noProxy string) *proxy.Proxy {
	t.Helper()
	u, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = user
	cfg := proxy.Config{URL: u, NoProxy: noProxy}
	if cert := server.Certificate(); cert != nil {
		cfg.RootCAs = x509.NewCertPool()
		cfg.RootCAs.AddCert(cert)
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, %v", got, err)
	}
}

var schemes = []string{"http", "https", "socks5"}

func TestProxyResolvesNames(t *testing.T) {
	for _, scheme := range schemes {
		for name, user := range map[string]*url.Userinfo{"open": nil, "credentials": url.UserPassword("gateway", "p:ss wörd")} {
			t.Run(scheme+"/"+name, func(t *testing.T) {
				cfg := proxytest.Config{Scheme: scheme, Hosts: map[string]string{peer: listenEcho(t)}, User: user.Username()}
				cfg.Password, _ = user.Password()
				server := proxytest.Start(t, cfg)
				p := newProxy(t, server, user, "")
				conn, err := p.DialContext(t.Context(), "tcp", peer)
				if err != nil {
					t.Fatal(err)
				}
				echo(t, conn)
				if seen := server.Seen(); len(seen) != 1 || seen[0] != peer {
					t.Errorf("the proxy was asked for %q", seen)
				}
				if err := p.Verify(t.Context()); err != nil {
					t.Error(err)
				}
				if text := p.String(); text != server.URL() {
					t.Errorf("String returns %q", text)
				}
			})
		}
	}
}

func TestErrorsNameProxyAndCause(t *testing.T) {
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) {
			server := proxytest.Start(t, proxytest.Config{Scheme: scheme, User: "gateway", Password: "right-secret"})
			dial := func(user *url.Userinfo) *proxy.Error {
				t.Helper()
				_, err := newProxy(t, server, user, "").DialContext(t.Context(), "tcp", peer)
				e, ok := errors.AsType[*proxy.Error](err)
				if !ok || e.Proxy != server.Address() || !strings.Contains(e.Error(), server.Address()) || strings.Contains(e.Error(), "secret") {
					t.Fatalf("got %v", err)
				}
				return e
			}
			for _, user := range []*url.Userinfo{nil, url.UserPassword("gateway", "wrong-secret")} {
				if e := dial(user); !strings.Contains(e.Error(), "credentials_file") || e.Address != peer || scheme != "socks5" && e.Status != http.StatusProxyAuthRequired {
					t.Errorf("refused credentials: %v, status %d", e, e.Status)
				}
			}
			right := url.UserPassword("gateway", "right-secret")
			server.Refuse(http.StatusForbidden)
			if e := dial(right); scheme == "socks5" && !strings.Contains(e.Error(), "not allowed") || scheme != "socks5" && !strings.Contains(e.Error(), "CONNECT is answered with 403 Forbidden") {
				t.Error(e)
			}
			server.Refuse(0)
			if e := dial(right); scheme == "socks5" && !strings.Contains(e.Error(), "connection refused") || scheme != "socks5" && e.Status != http.StatusBadGateway {
				t.Error(e)
			}
		})
	}
}

func TestUnreachableProxy(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for _, scheme := range schemes {
		p, err := proxy.New(proxy.Config{URL: &url.URL{Scheme: scheme, Host: l.Addr().String(), User: url.UserPassword("gateway", "secret")}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.DialContext(t.Context(), "tcp", peer)
		if e, ok := errors.AsType[*proxy.Error](err); !ok || e.Address != "" || !strings.HasPrefix(e.Error(), "cannot connect to the proxy "+l.Addr().String()+": ") ||
			!strings.Contains(e.Error(), "connection refused") || strings.Contains(e.Error(), "secret") {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestUntrustedProxy(t *testing.T) {
	server := proxytest.Start(t, proxytest.Config{Scheme: "https"})
	u, _ := url.Parse(server.URL())
	p, err := proxy.New(proxy.Config{URL: u})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = p.DialContext(t.Context(), "tcp", peer); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	if len(server.Seen()) != 0 {
		t.Error("CONNECT was sent to an untrusted proxy")
	}
}

// TestSilentProxyTimesOut uses proxies that accept and never respond.
func TestSilentProxyTimesOut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, scheme := range schemes {
		p, err := proxy.New(proxy.Config{URL: &url.URL{Scheme: scheme, Host: l.Addr().String()}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20_000_000)
		_, err = p.DialContext(ctx, "tcp", peer)
		cancel()
		if e, ok := errors.AsType[*proxy.Error](err); !ok || !e.Timeout() {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

func TestNoProxy(t *testing.T) {
	u := &url.URL{Scheme: "http", Host: "proxy.example:3128"}
	p, err := proxy.New(proxy.Config{URL: u, NoProxy: "internal.example,.sub.example,10.0.0.0/8,192.0.2.1:443"})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"api.push.apple.com:443": true, "internal.example:443": false, "a.internal.example:443": false, "sub.example:443": true, "a.sub.example:443": false,
		"10.1.2.3:443": false, "11.1.2.3:443": true, "192.0.2.1:443": false, "192.0.2.1:444": true, "127.0.0.1:443": false, "[::1]:443": false, "localhost:443": false,
	} {
		if got := p.Use(address); got != want {
			t.Errorf("Use(%q) is %v", address, got)
		}
	}
	none, err := proxy.New(proxy.Config{})
	if err != nil || none.Use("api.push.apple.com:443") || none.String() != "none" {
		t.Error("a Proxy without URL is used")
	}
}

func TestDirectConnection(t *testing.T) {
	var p *proxy.Proxy
	conn, err := p.DialContext(t.Context(), "tcp", listenEcho(t))
	if err != nil {
		t.Fatal(err)
	}
	echo(t, conn)
}

func TestFromEnvironment(t *testing.T) {
	set := func(value string) {
		for _, name := range []string{"HTTPS_PROXY", "https_proxy"} {
			t.Setenv(name, "")
		}
		t.Setenv("NO_PROXY", "internal.example")
		t.Setenv("no_proxy", "")
		t.Setenv("HTTPS_PROXY", value)
	}
	set("")
	if p, err := proxy.FromEnvironment(); p != nil || err != nil {
		t.Error(p, err)
	}
	for value, want := range map[string]string{
		"proxy.example:3128": "http://proxy.example:3128", "http://gateway:secret@proxy.example": "http://proxy.example:80",
		"socks5://proxy.example": "socks5://proxy.example:1080", "https://proxy.example": "https://proxy.example:443",
	} {
		set(value)
		p, err := proxy.FromEnvironment()
		if err != nil || p.String() != want || !p.Use("api.push.apple.com:443") || p.Use("a.internal.example:443") || p.NoProxy() != "internal.example" {
			t.Errorf("%s: %v, %v", value, p, err)
		}
	}
	for _, value := range []string{"ftp://gateway:secret@proxy.example", "http://gateway:secret@proxy.example:port", "http://gateway:secret@/", "http://proxy.example/secret"} {
		set(value)
		if _, err := proxy.FromEnvironment(); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "HTTPS_PROXY") {
			t.Errorf("%s: %v", value, err)
		}
	}
}
