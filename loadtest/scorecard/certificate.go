// SPDX-License-Identifier: Apache-2.0

package main

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

// renewed is S14: under load the files of a client certificate get another one, and later one that has expired. The second
// one comes from another mock: those of one process trust the same authority.
func renewed(s *stage) {
	const calm, good, expired = 10 * time.Second, 15 * time.Second, 10 * time.Second
	m := s.mock(mockprovider.Config{Endpoints: size})
	s.sleep(1100 * time.Millisecond) // so that the two do not expire in the same second
	other := s.mock(mockprovider.Config{Endpoints: 1})
	files, next := s.files(m), s.files(other)
	g := s.serve("", app{shop, certificateTo(m, files, "")})
	before := g.expiry()
	load := s.offer(g, rate, calm+good+expired, toDevice)
	load.at(calm)
	cut := time.Now()
	s.replace(files, s.content(next.ClientCert), s.content(next.ClientKey))
	live := s.eventually("the new certificate is in force", 10*time.Second, func() bool { return len(g.since(cut, "gateway: reloaded", "")) > 0 })
	load.at(calm + good)
	told := g.expiry()
	offered := time.Now()
	cert, key := s.outdated()
	s.replace(files, cert, key)
	const not = "gateway: not reloaded; the configuration before it stays in force"
	refused := s.eventually("the expired one is refused", 10*time.Second, func() bool { return len(g.since(offered, not, "")) > 0 })
	e := gather(m, load.wait(), cut)

	want := other.ClientCertificate()
	leaf, err := x509.ParseCertificate(want.Certificate[0])
	s.need(err)
	s.none("failed", s.failed(e.after, e.accepted))
	s.none("duplicates", e.duplicates())
	atMost(&s.card, "in force after", live, 10*time.Second)
	atMost(&s.card, "the expired one refused after", refused, 10*time.Second)
	s.none("taken all the same", len(g.since(offered, "gateway: reloaded", "")))
	s.must("told when the first expires", before.Format(time.DateTime), !before.IsZero())
	s.must("the second", told.Format(time.DateTime), told.Equal(leaf.NotAfter))
	s.must("and still after the expired one", g.expiry().Format(time.DateTime), g.expiry().Equal(told))
	s.p99(e, 50*time.Millisecond)
	atMost(&s.card, "dials", s.dialled(m), 2*size)
}

func (s *stage) content(file string) []byte {
	text, err := os.ReadFile(file)
	s.need(err)
	return text
}

// replace gives the gateway's files another certificate, one after the other, as most tools do.
func (s *stage) replace(files mockprovider.Files, cert, key []byte) {
	s.need(os.WriteFile(files.ClientCert, cert, 0o600))
	s.need(os.WriteFile(files.ClientKey, key, 0o600))
}

// outdated makes a certificate that was good until yesterday.
func (s *stage) outdated() (cert, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	s.need(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(14), NotBefore: time.Now().AddDate(-1, 0, 0), NotAfter: time.Now().AddDate(0, 0, -1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	s.need(err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	s.need(err)
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	_, err = tls.X509KeyPair(cert, key)
	s.need(err)
	return cert, key
}

// expiry is when the metrics say that the certificate expires, or no time if they do not.
func (g *gateway) expiry() (at time.Time) {
	answer, err := web.Get(g.admin + "/metrics")
	g.stage.need(err)
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	g.stage.need(err)
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "sluice_certificate_expires_timestamp_seconds{") {
			words := strings.Fields(line)
			seconds, err := strconv.ParseFloat(words[len(words)-1], 64)
			g.stage.need(err)
			at = time.Unix(int64(seconds), 0).UTC()
		}
	}
	return at
}
