// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate writes server.pem and server.key, a new certificate for gateway.example, to a folder.
func writeCertificate(t *testing.T, folder string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: []string{"gateway.example"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"server.pem": {Type: "CERTIFICATE", Bytes: cert}, "server.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(folder, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// writeServeConfig writes a configuration with an app, and the files that it needs.
func writeServeConfig(t *testing.T, more string) (file string) {
	t.Helper()
	file = writeTemp(t, "gateway.yaml", more+strings.SplitAfterN(fmt.Sprintf(webPushConfig, 100), "\n", 3)[2])
	_, pair, _ := runGateway(t, nil, "key", "vapid")
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "vapid.pem"), []byte(pair[strings.Index(pair, "-----"):]), 0o600); err != nil {
		t.Fatal(err)
	}
	writeCertificate(t, filepath.Dir(file))
	return file
}

// TestAuditAsksARunningGateway uses an admin listener with TLS.
func TestAuditAsksARunningGateway(t *testing.T) {
	admin := fmt.Sprintf("{listen: %q, tls: {cert_file: server.pem, key_file: server.key}}", freeAddress(t))
	file := writeServeConfig(t, "listen: 127.0.0.1:0\nqueue: {dir: queue}\nadmin: "+admin+"\n")
	startGateway(t, nil, "serve", "-c", file).servingAt()
	if code, stdout, stderr := runGateway(t, nil, "audit", "-c", file); code != 0 || !strings.Contains(stdout, "ended exactly once") {
		t.Errorf("%d %s %s", code, stdout, stderr)
	}
}

// TestServeReloadsItsCertificate writes a new certificate and then a broken one.
func TestServeReloadsItsCertificate(t *testing.T) {
	file := writeServeConfig(t, "listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\ntls: {cert_file: server.pem, key_file: server.key}\n")
	p := startGateway(t, nil, "serve", "-c", file)
	p.servingAt()
	if err := os.WriteFile(filepath.Join(filepath.Dir(file), "server.pem"), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.waitForLog("configuration not reloaded; the previous one stays in use", "tls.cert_file")
	writeCertificate(t, filepath.Dir(file))
	p.waitForLog("configuration reloaded", "tls: new certificates")
}
