// SPDX-License-Identifier: Apache-2.0

package scorecard

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-push/sluice/mockprovider"
)

// certificateRotation is S14. Under load, the files of a client certificate are replaced with
// another valid certificate and later with an expired one. The second certificate comes from
// another mock; all mocks of a process share one certificate authority.
func certificateRotation(s *scenario) {
	const initial, valid, expired = 10 * time.Second, 15 * time.Second, 10 * time.Second
	m := s.startMock(mockprovider.Config{Endpoints: poolSize})
	s.sleep(1100 * time.Millisecond) // so that the certificates do not expire in the same second
	other := s.startMock(mockprovider.Config{Endpoints: 1})
	files, next := s.writeMockFiles(m), s.writeMockFiles(other)
	g := s.startGateway("", app{shopApp, apnsCertificateBlock(m, files, "")})
	firstExpiry := g.certificateExpiry()
	run := s.offerRate(g, loadRate, initial+valid+expired, apnsNotification)
	run.waitUntil(initial)
	replacedAt := time.Now()
	s.replaceCertificate(files, s.readFile(next.ClientCert), s.readFile(next.ClientKey))
	reloadedAfter := s.eventually("waiting until the new certificate is in use", 10*time.Second, func() bool { return len(g.eventsSince(replacedAt, "configuration reloaded", "")) > 0 })
	run.waitUntil(initial + valid)
	secondExpiry := g.certificateExpiry()
	expiredAt := time.Now()
	cert, key := s.expiredCertificate()
	s.replaceCertificate(files, cert, key)
	const notReloaded = "configuration not reloaded; the previous one stays in use"
	rejectedAfter := s.eventually("waiting until the expired certificate is rejected", 10*time.Second, func() bool { return len(g.eventsSince(expiredAt, notReloaded, "")) > 0 })
	e := collectEvidence(m, run.wait(), replacedAt)

	want := other.ClientCertificate()
	parsed, err := x509.ParseCertificate(want.Certificate[0])
	s.noError(err)
	s.expectZero("failed", s.countFailed(e.after, e.accepted))
	s.expectZero("duplicates", e.duplicates())
	atMost(&s.rowResult, "new certificate in use after", reloadedAfter, 10*time.Second)
	atMost(&s.rowResult, "expired certificate rejected after", rejectedAfter, 10*time.Second)
	s.expectZero("expired certificate used", len(g.eventsSince(expiredAt, "configuration reloaded", "")))
	s.expect("expiry metric: first certificate", firstExpiry.Format(time.DateTime), !firstExpiry.IsZero())
	s.expect("second certificate", secondExpiry.Format(time.DateTime), secondExpiry.Equal(parsed.NotAfter))
	s.expect("after the expired certificate", g.certificateExpiry().Format(time.DateTime), g.certificateExpiry().Equal(secondExpiry))
	s.expectP99(e, 50*time.Millisecond)
	atMost(&s.rowResult, "dials", s.dialCount(m), 2*poolSize)
}

func (s *scenario) readFile(file string) []byte {
	text, err := os.ReadFile(file)
	s.noError(err)
	return text
}

// replaceCertificate overwrites the certificate and then the key, as most tools do.
func (s *scenario) replaceCertificate(files mockprovider.Files, cert, key []byte) {
	s.noError(os.WriteFile(files.ClientCert, cert, 0o600))
	s.noError(os.WriteFile(files.ClientKey, key, 0o600))
}

// expiredCertificate returns a certificate that expired yesterday.
func (s *scenario) expiredCertificate() (cert, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.noError(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(14), NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(0, 0, -1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	s.noError(err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	s.noError(err)
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	_, err = tls.X509KeyPair(cert, key)
	s.noError(err)
	return cert, key
}

// certificateExpiry returns the expiry of the certificate from the metrics, or the zero time if it
// is missing.
func (g *gateway) certificateExpiry() (at time.Time) {
	resp, err := httpClient.Get(g.adminURL() + "/metrics")
	g.scenario.noError(err)
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	g.scenario.noError(err)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "sluice_certificate_expires_timestamp_seconds{") {
			words := strings.Fields(line)
			seconds, err := strconv.ParseFloat(words[len(words)-1], 64)
			g.scenario.noError(err)
			at = time.Unix(int64(seconds), 0).UTC()
		}
	}
	return at
}
