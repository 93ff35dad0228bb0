// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"github.com/sluice-push/sluice/internal/testwait"
	"github.com/sluice-push/sluice/wire"
)

// listenTCP serves every connection to a loopback port with serve.
func listenTCP(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serve(nc)
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// listenTLS is like listenTCP, but calls serve after a TLS handshake.
func listenTLS(t *testing.T, cfg *tls.Config, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	return listenTCP(t, func(nc net.Conn) {
		secured := tls.Server(nc, cfg)
		if secured.Handshake() == nil {
			serve(secured)
		}
		_ = nc.Close()
	})
}

// serverIdentity returns a server certificate and a pool of roots that trusts it.
func serverIdentity(name string) (cert tls.Certificate, roots *x509.CertPool) {
	cert, der := selfSigned(name)
	roots = x509.NewCertPool()
	if parsed, err := x509.ParseCertificate(der); err == nil {
		roots.AddCert(parsed)
	}
	return cert, roots
}

// withLongTimeouts returns cfg with timeouts that a busy machine does not reach.
func withLongTimeouts(cfg wire.Config) wire.Config {
	cfg.DialTimeout, cfg.ResponseTimeout, cfg.PingTimeout, cfg.WriteTimeout = time.Minute, time.Minute, time.Minute, time.Minute
	return cfg
}

func wantDialError(t *testing.T, addr netip.AddrPort, cfg wire.Config, reason wire.Reason, atFault bool) {
	t.Helper()
	if cfg.Authority == "" {
		cfg.Authority = "push.example:443"
	}
	c, err := wire.Dial(t.Context(), addr, withLongTimeouts(cfg))
	if c != nil {
		t.Fatal("Dial succeeded; want an error")
	}
	wantError(t, result{err: err}, reason, wire.Never, atFault)
}

func TestRequestsOverTLS(t *testing.T) {
	cert, roots := serverIdentity("push.example")
	addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, serveAll)
	c, err := wire.Dial(t.Context(), addr, withLongTimeouts(wire.Config{Authority: "push.example", TLS: &tls.Config{RootCAs: roots}}))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	for i := range 100 {
		res, err := c.Do(t.Context(), benchRequest(i))
		wantStatus(t, result{res, err}, 200)
	}
	c.Drain()
	if err := testwait.For(t, ended, "the end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestDialRequiresServerName(t *testing.T) {
	cert, roots := serverIdentity("other.example")
	addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, serveAll)
	wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots}}, wire.TLSServerUntrusted, false)
}

func TestDialRequiresTrustedServer(t *testing.T) {
	cert, _ := serverIdentity("push.example")
	_, others := serverIdentity("push.example")
	addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, serveAll)
	wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: others}}, wire.TLSServerUntrusted, false)
	wantDialError(t, addr, wire.Config{}, wire.TLSServerUntrusted, false)
}

func TestDialRequiresH2(t *testing.T) {
	cert, roots := serverIdentity("push.example")
	for name, protocols := range map[string][]string{"silent": nil, "another": {"http/1.1"}} {
		t.Run(name, func(t *testing.T) {
			addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols}, func(nc net.Conn) {
				_, _ = io.Copy(io.Discard, nc)
			})
			wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots}}, wire.ALPNNotH2, true)
		})
	}
}

func TestDialRequiresTLS(t *testing.T) {
	addr := listenTCP(t, func(nc net.Conn) {
		_, _ = io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n\r\n")
		_, _ = io.Copy(io.Discard, nc)
	})
	wantDialError(t, addr, wire.Config{}, wire.ALPNNotH2, true)
}

func TestDialClosedPortIsConnectRefused(t *testing.T) {
	wantDialError(t, netip.MustParseAddrPort("127.0.0.1:1"), wire.Config{}, wire.ConnectRefused, true)
}

func TestDialContextConnects(t *testing.T) {
	cert, roots := serverIdentity("push.example")
	addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, serveAll)
	other := netip.MustParseAddrPort("192.0.2.1:443")
	cfg := withLongTimeouts(wire.Config{Authority: "push.example", TLS: &tls.Config{RootCAs: roots}})
	cfg.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != other.String() {
			t.Errorf("called with %s", address)
		}
		return new(net.Dialer).DialContext(ctx, network, addr.String())
	}
	c, err := wire.Dial(t.Context(), other, cfg)
	if err != nil {
		t.Fatal(err)
	}
	closing, cancel := context.WithCancel(t.Context())
	cancel()
	_ = c.Run(closing)
	failure := &wire.Error{Reason: wire.ProxyFailed, Processed: wire.Never, EndpointAtFault: true, Err: errors.New("x")}
	cfg.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, failure }
	if _, err := wire.Dial(t.Context(), other, cfg); err != error(failure) {
		t.Errorf("got %v, want the error of DialContext", err)
	}
}

func TestCloseDuringHandshakeIsConnectRefused(t *testing.T) {
	addr := listenTCP(t, func(nc net.Conn) { _ = nc.Close() })
	wantDialError(t, addr, wire.Config{}, wire.ConnectRefused, true)
}

// wantTimeout connects over a pipe to a peer that becomes silent after serve returns.
func wantTimeout(t *testing.T, cfg wire.Config, serve func(net.Conn), reason wire.Reason) {
	t.Helper()
	clientSide, serverSide := net.Pipe()
	go func() {
		serve(serverSide)
		_, _ = io.Copy(io.Discard, serverSide)
	}()
	start := time.Now()
	cfg.Authority = "push.example"
	_, err := wire.Client(t.Context(), clientSide, cfg)
	wantError(t, result{err: err}, reason, wire.Never, true)
	if took := time.Since(start); took != 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wantTimeout(t, wire.Config{TLS: &tls.Config{}}, func(net.Conn) {}, wire.TLSHandshakeTimeout)
	})
}

func TestSettingsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, roots := serverIdentity("push.example")
		wantTimeout(t, wire.Config{TLS: &tls.Config{RootCAs: roots}}, func(nc net.Conn) {
			_ = tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}).Handshake()
		}, wire.ConnectTimeout)
	})
}

func TestDialCancelIsNotEndpointFault(t *testing.T) {
	accepted := make(chan struct{})
	addr := listenTCP(t, func(nc net.Conn) {
		close(accepted)
		_, _ = io.Copy(io.Discard, nc)
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-accepted
		cancel()
	}()
	_, err := wire.Dial(ctx, addr, withLongTimeouts(wire.Config{Authority: "push.example"}))
	wantError(t, result{err: err}, wire.Canceled, wire.Never, false)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the error does not wrap the context's error: %v", err)
	}
}

func TestDialReportsRejectedClientCertificate(t *testing.T) {
	cert, roots := serverIdentity("push.example")
	trustedCert, clientCAs := serverIdentity("client.example")
	otherCert, _ := serverIdentity("other.example")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			addr := listenTLS(t, &tls.Config{
				Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MaxVersion: version,
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clientCAs,
			}, serveAll)
			untrustedCert := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &otherCert, nil }
			for range 20 { // the alert races with the client's preface
				wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots, GetClientCertificate: untrustedCert}}, wire.TLSClientRejected, false)
			}
			if version == tls.VersionTLS13 { // TLS 1.2 reports a missing certificate with an unspecific alert
				wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots}}, wire.TLSClientRejected, false)
			}
			c, err := wire.Dial(t.Context(), addr, withLongTimeouts(wire.Config{
				Authority: "push.example", TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{trustedCert}},
			}))
			if err != nil {
				t.Fatal(err)
			}
			runAndClose(c)
		})
	}
}

// runAndClose closes a connection that is not needed.
func runAndClose(c *wire.Conn) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_ = c.Run(ctx)
}

func TestOldTLSVersionFails(t *testing.T) {
	cert, roots := serverIdentity("push.example")
	addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, serveAll)
	wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10}}, wire.ConnectRefused, true)
}

// serveFirstFrames starts an HTTP/2 server that begins each connection with write.
func serveFirstFrames(t *testing.T, write func(fr *http2.Framer)) (netip.AddrPort, wire.Config) {
	cert, roots := serverIdentity("push.example")
	addr := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, func(nc net.Conn) {
		write(http2.NewFramer(nc, bufio.NewReader(nc)))
		_, _ = io.Copy(io.Discard, nc)
	})
	return addr, wire.Config{TLS: &tls.Config{RootCAs: roots}, Authority: "push.example"}
}

func TestDialRequiresSettingsFirst(t *testing.T) {
	addr, cfg := serveFirstFrames(t, func(fr *http2.Framer) { _ = fr.WritePing(false, [8]byte{}) })
	wantDialError(t, addr, cfg, wire.ConnectRefused, true)
}

func TestDialReturnsGoAwayDebugData(t *testing.T) {
	addr, cfg := serveFirstFrames(t, func(fr *http2.Framer) {
		_ = fr.WriteGoAway(0, http2.ErrCodeProtocol, []byte(`{"reason":"BadCertificate"}`))
	})
	_, err := wire.Dial(t.Context(), addr, withLongTimeouts(cfg))
	e := requireError(t, result{err: err}, wire.GoAwayErrorCode, wire.Never, true)
	if string(e.DebugData) != `{"reason":"BadCertificate"}` {
		t.Errorf("the debug data is %q", e.DebugData)
	}
}

func TestClientOverTLS(t *testing.T) {
	cert, roots := serverIdentity("push.example")
	clientSide, serverSide := net.Pipe()
	go func() {
		secured := tls.Server(serverSide, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		serveAll(secured)
	}()
	c, err := wire.Client(t.Context(), clientSide, withLongTimeouts(wire.Config{Authority: "push.example", TLS: &tls.Config{RootCAs: roots}}))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	res, err := c.Do(t.Context(), post("/"))
	wantStatus(t, result{res, err}, 200)
	c.Drain()
	if err := testwait.For(t, ended, "the end of Run"); err != nil {
		t.Errorf("Run returned %v", err)
	}
}
