// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/testwait"
)

// authority issues certificates.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

// newAuthority returns an authority with its own certificate in ca.pem.
func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.issue("ca", template)
	return a
}

// issue writes NAME.pem and NAME.key. A certificate is valid for an hour unless the template says otherwise.
func (a *authority) issue(name string, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(1, 0, 0)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(name+".pem", &pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.write(name+".key", &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(name string, block *pem.Block) {
	if err := os.WriteFile(a.file(name), pem.EncodeToMemory(block), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// issueServer writes server.pem and server.key for 127.0.0.1 and gateway.example.
func (a *authority) issueServer() *x509.Certificate {
	cert, _ := a.issue("server", &x509.Certificate{DNSNames: []string{"gateway.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	return cert
}

// block returns the keys of a TLS block; more are appended.
func (a *authority) block(more string) string {
	return fmt.Sprintf("cert_file: %q, key_file: %q%s", a.file("server.pem"), a.file("server.key"), more)
}

// client returns a client that trusts the authority and has the certificate NAME unless name is empty.
func (a *authority) client(name string, protocols ...string) *http.Client {
	a.t.Helper()
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12, NextProtos: protocols}
	cfg.RootCAs.AddCert(a.cert)
	if name != "" {
		pair, err := tls.LoadX509KeyPair(a.file(name+".pem"), a.file(name+".key"))
		if err != nil {
			a.t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: len(protocols) == 0}
	a.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: testwait.Bound}
}

// send posts a notification and returns the protocol of the response and the serial number of the server.
func send(t testing.TB, client *http.Client, h testGateway) (protocol string, server *x509.Certificate, reused bool) {
	t.Helper()
	request, err := http.NewRequest(http.MethodPost, strings.Replace(h.url, "http:", "https:", 1)+"/v1/apps/shop/notifications", strings.NewReader(apnsNotification(deviceToken)))
	if err != nil {
		t.Fatal(err)
	}
	request = request.WithContext(httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}))
	request.Header.Set("Authorization", "Bearer "+h.key)
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); response.StatusCode != http.StatusOK || err != nil {
		t.Fatalf("%d %s %v", response.StatusCode, body, err)
	}
	return response.Proto, response.TLS.PeerCertificates[0], reused
}

func TestListenerWithTLS(t *testing.T) {
	s, a := newMockEnv(t), newAuthority(t)
	a.issueServer()
	h := s.start(t, listenConfig+"tls: {"+a.block("")+"}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	if protocol, _, _ := send(t, a.client(""), h); protocol != "HTTP/2.0" {
		t.Errorf("ALPN chose %s", protocol)
	}
	if protocol, _, _ := send(t, a.client("", "http/1.1"), h); protocol != "HTTP/1.1" {
		t.Errorf("a client without HTTP/2 got %s", protocol)
	}
	old := a.client("")
	old.Transport.(*http.Transport).TLSClientConfig.MinVersion, old.Transport.(*http.Transport).TLSClientConfig.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := old.Get(strings.Replace(h.url, "http:", "https:", 1) + "/livez"); err == nil {
		t.Error("TLS 1.1 is accepted")
	}
	if response, err := http.Get(h.url + "/livez"); err == nil {
		if response.StatusCode == http.StatusOK {
			t.Error("plain HTTP is accepted")
		}
		response.Body.Close()
	}
	testwait.Until(t, func() bool { return h.gw.Status().Connections.Open <= 2 }, "closed connections are no longer counted")
}

func TestListenerRequiresClientCertificate(t *testing.T) {
	s, a, other := newMockEnv(t), newAuthority(t), newAuthority(t)
	a.issueServer()
	a.issue("named", &x509.Certificate{Subject: pkix.Name{CommonName: "billing"}})
	workload, err := url.Parse("spiffe://example.com/shop")
	if err != nil {
		t.Fatal(err)
	}
	a.issue("workload", &x509.Certificate{URIs: []*url.URL{workload}})
	other.issue("named", &x509.Certificate{Subject: pkix.Name{CommonName: "intruder"}})
	d := newLeakDetector()
	h := s.startLogging(t, listenConfig+"tls: {"+a.block(fmt.Sprintf(", client_ca_file: %q", a.file("ca.pem")))+"}\napps:\n"+s.appBlock("shop", s.apnsBlock()), d.logger())
	foreign := a.client("")
	pair, err := tls.LoadX509KeyPair(other.file("named.pem"), other.file("named.key"))
	if err != nil {
		t.Fatal(err)
	}
	foreign.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	for name, client := range map[string]*http.Client{"no certificate": a.client(""), "that of another authority": foreign} {
		if response, err := client.Get(strings.Replace(h.url, "http:", "https:", 1) + "/livez"); err == nil {
			t.Errorf("%s: %s", name, response.Status)
			response.Body.Close()
		}
	}
	send(t, a.client("named"), h)
	send(t, a.client("workload"), h)
	for _, caller := range []string{"billing", "spiffe://example.com/shop"} {
		testwait.Until(t, func() bool { return strings.Contains(d.text(), `"caller":"`+caller+`"`) }, "the log names "+caller)
	}
}

func TestCertificatesAreReloaded(t *testing.T) {
	s, a := newMockEnv(t), newAuthority(t)
	first := a.issueServer()
	text := listenConfig + "tls: {" + a.block("") + "}\napps:\n" + s.appBlock("shop", s.apnsBlock())
	h := s.start(t, text)
	client := a.client("")
	if _, cert, _ := send(t, client, h); !cert.Equal(first) {
		t.Error("another certificate than configured")
	}
	if changes, err := h.reload(text); err != nil || len(changes) != 0 {
		t.Errorf("an unchanged certificate: %q, %v", changes, err)
	}
	second := a.issueServer()
	if changes, err := h.reload(text); err != nil || !slices.Equal(changes, []string{"tls: new certificates"}) {
		t.Errorf("%q, %v", changes, err)
	}
	if _, cert, reused := send(t, client, h); !reused || !cert.Equal(first) {
		t.Error("the open connection was closed")
	}
	if _, cert, _ := send(t, a.client(""), h); !cert.Equal(second) {
		t.Error("a new connection has the previous certificate")
	}
	if err := os.WriteFile(a.file("server.pem"), []byte("half of a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.reload(text); err == nil || !strings.Contains(err.Error(), "config: tls.cert_file: ") {
		t.Errorf("an invalid file: %v", err)
	}
	if _, cert, _ := send(t, a.client(""), h); !cert.Equal(second) {
		t.Error("after an invalid file, the previous certificate is not used")
	}
	a.issueServer()
	keyOfAnother, err := os.ReadFile(a.file("ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a.file("server.key"), keyOfAnother, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.reload(text); err == nil || !strings.Contains(err.Error(), "are not a certificate and its key") || strings.Contains(err.Error(), string(bytes.Split(keyOfAnother, []byte("\n"))[1])) {
		t.Errorf("the key of another certificate: %v", err)
	}
	if _, err := h.reload(strings.Replace(text, "tls: {", "#", 1)); err == nil || !strings.Contains(err.Error(), "config: tls cannot change while the gateway runs (restart it)") {
		t.Errorf("without TLS: %v", err)
	}
}

func TestAdminListenerWithTLS(t *testing.T) {
	s, a := newMockEnv(t), newAuthority(t)
	a.issueServer()
	h := s.start(t, "listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0, tls: {"+a.block("")+"}}\napps:\n"+s.appBlock("shop", s.apnsBlock()))
	for _, path := range []string{"/livez", "/readyz"} {
		response, err := a.client("").Get(strings.Replace(h.adminURL, "http:", "https:", 1) + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Error(path, response.Status)
		}
	}
}

func TestCheckReportsCertificate(t *testing.T) {
	s, a := newMockEnv(t), newAuthority(t)
	a.issueServer()
	text := listenConfig + "tls: {" + a.block(fmt.Sprintf(", client_ca_file: %q", a.file("ca.pem"))) + "}\napps:\n" + s.appBlock("shop", s.apnsBlock())
	checks := func() string {
		g, err := gateway.New(parse(t, text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return runChecks(t, g)
	}
	if got := checks(); !strings.Contains(got, "tls.cert_file certificate for gateway.example, 127.0.0.1, valid until ") || !strings.Contains(got, "; clients need a certificate too <nil>") {
		t.Error(got)
	}
	a.issue("server", &x509.Certificate{NotBefore: time.Now().AddDate(0, 0, -9), NotAfter: time.Now().AddDate(0, 0, -1)})
	if got := checks(); !strings.Contains(got, "so clients refuse it") {
		t.Error(got)
	}
	if found := gateway.Warnings(parse(t, text)); len(found) != 1 || !strings.Contains(found[0], "tls.cert_file: ") || !strings.Contains(found[0], "renew it") {
		t.Errorf("%q", found)
	}
	for _, file := range []string{"server.pem", "server.key", "ca.pem"} {
		if !slices.Contains(gateway.ReferencedFiles(parse(t, text)), a.file(file)) {
			t.Errorf("a change of %s is not noticed", file)
		}
	}
}
