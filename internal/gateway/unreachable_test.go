// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
)

// brokenServer is an address that the gateway cannot connect to.
type brokenServer struct {
	addr   string
	caFile string
}

// startBrokenServer starts a TLS server that accepts connections and sends nothing.
func startBrokenServer(t *testing.T, cfg *tls.Config, template *x509.Certificate) brokenServer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = conn.(*tls.Conn).Handshake()
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
			}()
		}
	}()
	return brokenServer{listener.Addr().String(), caFile}
}

// serverCertificate returns the template of a self-signed certificate for 127.0.0.1.
func serverCertificate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
}

// TestCauseOfConnectionFailureIsReported: if no endpoint can be reached, a send fails immediately,
// and the receipt, the status, the check and one warning name the cause.
func TestCauseOfConnectionFailureIsReported(t *testing.T) {
	h2 := func() *tls.Config { return &tls.Config{NextProtos: []string{"h2"}} }
	for name, c := range map[string]struct {
		server       func(t *testing.T) brokenServer
		reason, text string
		settings     string
	}{
		"expired certificate": {func(t *testing.T) brokenServer {
			cert := serverCertificate()
			cert.NotAfter = time.Now().Add(-time.Minute)
			return startBrokenServer(t, h2(), cert)
		}, "TLS_SERVER_UNTRUSTED", "certificate has expired", ""},
		"wrong host name": {func(t *testing.T) brokenServer {
			cert := serverCertificate()
			cert.IPAddresses, cert.DNSNames = nil, []string{"elsewhere.test"}
			return startBrokenServer(t, h2(), cert)
		}, "TLS_SERVER_UNTRUSTED", "cannot validate certificate for 127.0.0.1", ""},
		"wrong CA": {func(t *testing.T) brokenServer {
			s, other := startBrokenServer(t, h2(), serverCertificate()), startBrokenServer(t, h2(), serverCertificate())
			return brokenServer{s.addr, other.caFile}
		}, "TLS_SERVER_UNTRUSTED", "certificate signed by unknown authority", ""},
		"wrong ALPN": {func(t *testing.T) brokenServer {
			return startBrokenServer(t, &tls.Config{NextProtos: []string{"http/1.1"}}, serverCertificate())
		}, "ALPN_NOT_H2", "no application protocol", ""},
		"no ALPN": {func(t *testing.T) brokenServer {
			return startBrokenServer(t, &tls.Config{}, serverCertificate())
		}, "ALPN_NOT_H2", "did not negotiate h2", ""},
		"client certificate required": {func(t *testing.T) brokenServer {
			cfg := h2()
			cfg.ClientAuth = tls.RequireAnyClientCert
			return startBrokenServer(t, cfg, serverCertificate())
		}, "TLS_CLIENT_CERT_REJECTED", "certificate required", ""},
		"no listener": {func(t *testing.T) brokenServer {
			return brokenServer{"127.0.0.1:1", startBrokenServer(t, h2(), serverCertificate()).caFile}
		}, "CONNECT_REFUSED", "connection refused", ""},
		"no name server": {func(t *testing.T) brokenServer {
			return brokenServer{"apns.test", startBrokenServer(t, h2(), serverCertificate()).caFile}
		}, "DNS_FAILURE", "127.0.0.1:1", "dns: {servers: ['127.0.0.1:1']}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s, server := newMockEnv(t), c.server(t)
			config := listenConfig + c.settings + "limits: {send_timeout: 10m}\napps:\n" + s.appBlock("shop",
				fmt.Sprintf("apns: {url: 'https://%s', ca_file: %q, key_file: %q, key_id: %s, team_id: %s, topic: %s}",
					server.addr, server.caFile, s.ready.APNsKeyFile, s.ready.APNsKeyID, s.ready.APNsTeamID, s.ready.APNsTopic))
			warnings := newLeakDetector()
			h := s.startLogging(t, config, slog.New(slog.NewJSONHandler(warnings, &slog.HandlerOptions{Level: slog.LevelWarn})))
			start := time.Now()
			for range 3 {
				status, response := h.post("shop", apnsNotification(deviceToken))
				receipt, _ := response["receipt"].(map[string]any)
				if text, _ := receipt["detail"].(string); status != http.StatusServiceUnavailable || receipt["reason"] != c.reason || !strings.Contains(text, c.text) {
					t.Errorf("%d %v; want reason %s and %q", status, response, c.reason, c.text)
				}
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("the calls took %s", took)
			}
			status, err := json.Marshal(h.gw.Status())
			if err != nil || !strings.Contains(string(status), c.text) {
				t.Errorf("the status does not contain the cause: %s", status)
			}
			if err := checkError(t, h.gw, "apps.shop.apns"); !strings.Contains(err, c.text) {
				t.Errorf("the check does not name the cause: %s", err)
			}
			if err := h.stop(); err != nil {
				t.Error(err)
			}
			found := 0
			for line := range strings.Lines(warnings.text()) {
				if strings.Contains(line, c.text) {
					found++
				}
			}
			if found != 1 {
				t.Errorf("%d warnings name the cause, want 1:\n%s", found, warnings.text())
			}
		})
	}
}

// checkError returns the errors of the checks of one block.
func checkError(t *testing.T, g *gateway.Gateway, key string) (text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, check := range g.Checks() {
		if _, err := check.Verify(ctx); check.Key == key && err != nil {
			text += err.Error() + "\n"
		}
	}
	return text
}
