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

	"github.com/sluice-push/sluice/wire"
)

// listen serves every connection on a loopback port with serve.
func listen(t *testing.T, serve func(net.Conn)) netip.AddrPort {
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

// secure serves with TLS: serve gets the connection once hands are shaken.
func secure(t *testing.T, cfg *tls.Config, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	return listen(t, func(nc net.Conn) {
		secured := tls.Server(nc, cfg)
		if secured.Handshake() == nil {
			serve(secured)
		}
		_ = nc.Close()
	})
}

// identity is a server's certificate and the roots that trust it.
func identity(name string) (cert tls.Certificate, roots *x509.CertPool) {
	cert, der := selfSigned(name)
	roots = x509.NewCertPool()
	if parsed, err := x509.ParseCertificate(der); err == nil {
		roots.AddCert(parsed)
	}
	return cert, roots
}

// patient is cfg on a machine that may be busy: its being slow is nobody's fault.
func patient(cfg wire.Config) wire.Config {
	cfg.DialTimeout, cfg.ResponseTimeout, cfg.PingTimeout, cfg.WriteTimeout = time.Minute, time.Minute, time.Minute, time.Minute
	return cfg
}

func wantDialError(t *testing.T, addr netip.AddrPort, cfg wire.Config, reason wire.Reason, endpoint bool) {
	t.Helper()
	if cfg.Authority == "" {
		cfg.Authority = "push.example:443"
	}
	c, err := wire.Dial(t.Context(), addr, patient(cfg))
	if c != nil {
		t.Fatal("it connected")
	}
	wantError(t, result{err: err}, reason, wire.Never, endpoint)
}

func TestARealConnectionCarriesRequestsOverTLS(t *testing.T) {
	cert, roots := identity("push.example")
	addr := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, answerAll)
	c, err := wire.Dial(t.Context(), addr, patient(wire.Config{Authority: "push.example", TLS: &tls.Config{RootCAs: roots}}))
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
	if err := <-ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
}

func TestThePeerMustBearTheServicesName(t *testing.T) {
	cert, roots := identity("other.example")
	addr := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, answerAll)
	wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots}}, wire.TLSServerUntrusted, false)
}

func TestThePeerMustBeTrusted(t *testing.T) {
	cert, _ := identity("push.example")
	_, others := identity("push.example")
	addr := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, answerAll)
	wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: others}}, wire.TLSServerUntrusted, false)
	wantDialError(t, addr, wire.Config{}, wire.TLSServerUntrusted, false)
}

func TestThePeerMustAgreeToH2(t *testing.T) {
	cert, roots := identity("push.example")
	for name, protocols := range map[string][]string{"silent": nil, "another": {"http/1.1"}} {
		t.Run(name, func(t *testing.T) {
			addr := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: protocols}, func(nc net.Conn) {
				_, _ = io.Copy(io.Discard, nc)
			})
			wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots}}, wire.ALPNNotH2, true)
		})
	}
}

func TestThePeerMustSpeakTLS(t *testing.T) {
	addr := listen(t, func(nc net.Conn) {
		_, _ = io.WriteString(nc, "HTTP/1.1 400 Bad Request\r\n\r\n")
		_, _ = io.Copy(io.Discard, nc)
	})
	wantDialError(t, addr, wire.Config{}, wire.ALPNNotH2, true)
}

func TestAPortThatNobodyListensOnRefuses(t *testing.T) {
	wantDialError(t, netip.MustParseAddrPort("127.0.0.1:1"), wire.Config{}, wire.ConnectRefused, true)
}

func TestAPeerThatClosesInTheMiddleOfTheHandshakeRefuses(t *testing.T) {
	addr := listen(t, func(nc net.Conn) { _ = nc.Close() })
	wantDialError(t, addr, wire.Config{}, wire.ConnectRefused, true)
}

// wantTimeout connects over a pipe to a peer that falls silent after what serve does.
func wantTimeout(t *testing.T, cfg wire.Config, serve func(net.Conn), reason wire.Reason) {
	t.Helper()
	ours, theirs := net.Pipe()
	go func() {
		serve(theirs)
		_, _ = io.Copy(io.Discard, theirs)
	}()
	began := time.Now()
	cfg.Authority = "push.example"
	_, err := wire.Client(t.Context(), ours, cfg)
	wantError(t, result{err: err}, reason, wire.Never, true)
	if took := time.Since(began); took != 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestASilentHandshakeTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wantTimeout(t, wire.Config{TLS: &tls.Config{}}, func(net.Conn) {}, wire.TLSHandshakeTimeout)
	})
}

func TestSettingsThatNeverComeTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cert, roots := identity("push.example")
		wantTimeout(t, wire.Config{TLS: &tls.Config{RootCAs: roots}}, func(nc net.Conn) {
			_ = tls.Server(nc, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}).Handshake()
		}, wire.ConnectTimeout)
	})
}

func TestADialThatItsCallerLeavesIsNobodysFault(t *testing.T) {
	shaking := make(chan struct{})
	addr := listen(t, func(nc net.Conn) {
		close(shaking)
		_, _ = io.Copy(io.Discard, nc)
	})
	ctx, leave := context.WithCancel(t.Context())
	go func() {
		<-shaking
		leave()
	}()
	_, err := wire.Dial(ctx, addr, patient(wire.Config{Authority: "push.example"}))
	wantError(t, result{err: err}, wire.Cancelled, wire.Never, false)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the context's error is lost: %v", err)
	}
}

func TestAClientCertificateIsJudgedWhileDialling(t *testing.T) {
	cert, roots := identity("push.example")
	mine, trusted := identity("me")
	others, _ := identity("someone else")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			addr := secure(t, &tls.Config{
				Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MaxVersion: version,
				ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: trusted,
			}, answerAll)
			stubborn := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &others, nil }
			for range 20 { // the alert races with our preface
				wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots, GetClientCertificate: stubborn}}, wire.TLSClientRejected, false)
			}
			if version == tls.VersionTLS13 { // before it the alert for having none does not name the certificate
				wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots}}, wire.TLSClientRejected, false)
			}
			c, err := wire.Dial(t.Context(), addr, patient(wire.Config{
				Authority: "push.example", TLS: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{mine}},
			}))
			if err != nil {
				t.Fatal(err)
			}
			abandon(c)
		})
	}
}

// abandon closes a connection that nobody runs.
func abandon(c *wire.Conn) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	_ = c.Run(ctx)
}

func TestOldTLSIsRefused(t *testing.T) {
	cert, roots := identity("push.example")
	addr := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, answerAll)
	wantDialError(t, addr, wire.Config{TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10}}, wire.ConnectRefused, true)
}

// greet serves h2 whose first words are these.
func greet(t *testing.T, say func(fr *http2.Framer)) (netip.AddrPort, wire.Config) {
	cert, roots := identity("push.example")
	addr := secure(t, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}, func(nc net.Conn) {
		say(http2.NewFramer(nc, bufio.NewReader(nc)))
		_, _ = io.Copy(io.Discard, nc)
	})
	return addr, wire.Config{TLS: &tls.Config{RootCAs: roots}, Authority: "push.example"}
}

func TestThePeersFirstFrameMustBeSettings(t *testing.T) {
	addr, cfg := greet(t, func(fr *http2.Framer) { _ = fr.WritePing(false, [8]byte{}) })
	wantDialError(t, addr, cfg, wire.ConnectRefused, true)
}

func TestAPeerThatSaysGoodbyeFirstIsQuoted(t *testing.T) {
	addr, cfg := greet(t, func(fr *http2.Framer) {
		_ = fr.WriteGoAway(0, http2.ErrCodeProtocol, []byte(`{"reason":"BadCertificate"}`))
	})
	_, err := wire.Dial(t.Context(), addr, patient(cfg))
	e := theError(t, result{err: err}, wire.GoAwayErrorCode, wire.Never, true)
	if string(e.Debug) != `{"reason":"BadCertificate"}` {
		t.Errorf("the debug data is %q", e.Debug)
	}
}

func TestAStandingConnectionCanBeSecuredToo(t *testing.T) {
	cert, roots := identity("push.example")
	ours, theirs := net.Pipe()
	go func() {
		secured := tls.Server(theirs, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		answerAll(secured)
	}()
	c, err := wire.Client(t.Context(), ours, patient(wire.Config{Authority: "push.example", TLS: &tls.Config{RootCAs: roots}}))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	res, err := c.Do(t.Context(), post("/"))
	wantStatus(t, result{res, err}, 200)
	c.Drain()
	if err := <-ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
}
