// SPDX-License-Identifier: Apache-2.0

package jetstream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	nats "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/sluice-push/sluice/internal/jetstream"
)

// startSecured starts a server with JetStream and more options.
func startSecured(t *testing.T, more nats.Options) (url string) {
	t.Helper()
	more.Host, more.Port, more.NoSigs, more.NoLog = "127.0.0.1", nats.RANDOM_PORT, true, true
	more.JetStream, more.StoreDir, more.JetStreamMaxStore, more.JetStreamMaxMemory = true, t.TempDir(), 1<<30, 1<<20
	s, err := nats.NewServer(&more)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("NATS does not start")
	}
	return "nats://" + s.Addr().String()
}

func writeFile(t *testing.T, name string, text []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// newKeys returns a key pair with its public key and its seed.
func newKeys(t *testing.T, create func() (nkeys.KeyPair, error)) (pair nkeys.KeyPair, public string, seed []byte) {
	t.Helper()
	pair, err := create()
	if err == nil {
		public, err = pair.PublicKey()
	}
	if err == nil {
		seed, err = pair.Seed()
	}
	if err != nil {
		t.Fatal(err)
	}
	return pair, public, seed
}

// connects reports whether both the check and the engine can use a server.
func connects(t *testing.T, url string, auth jetstream.Auth) error {
	t.Helper()
	cfg := jetstream.Config{URL: url, Auth: auth, SetupTimeout: time.Millisecond}
	found, verified := jetstream.Verify(t.Context(), cfg, map[string]int64{})
	e, err := jetstream.Open(t.Context(), cfg)
	if err == nil {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	if (err == nil) != (verified == nil) {
		t.Errorf("Verify returns %q, %v, and Open %v", found, verified, err)
	}
	return err
}

func TestCredentialsFile(t *testing.T) {
	operator, operatorKey, _ := newKeys(t, nkeys.CreateOperator)
	account, accountKey, _ := newKeys(t, nkeys.CreateAccount)
	_, userKey, userSeed := newKeys(t, nkeys.CreateUser)
	operatorClaims := jwt.NewOperatorClaims(operatorKey)
	accountClaims := jwt.NewAccountClaims(accountKey)
	accountClaims.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	accountJWT, err := accountClaims.Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := operatorClaims.Encode(operator); err != nil {
		t.Fatal(err)
	}
	userClaims := jwt.NewUserClaims(userKey)
	userJWT, err := userClaims.Encode(account)
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := jwt.FormatUserConfig(userJWT, userSeed)
	if err != nil {
		t.Fatal(err)
	}
	_, systemKey, _ := newKeys(t, nkeys.CreateAccount)
	systemJWT, err := jwt.NewAccountClaims(systemKey).Encode(operator)
	if err != nil {
		t.Fatal(err)
	}
	resolver := &nats.MemAccResolver{}
	for key, text := range map[string]string{accountKey: accountJWT, systemKey: systemJWT} {
		if err := resolver.Store(key, text); err != nil {
			t.Fatal(err)
		}
	}
	url := startSecured(t, nats.Options{TrustedOperators: []*jwt.OperatorClaims{operatorClaims}, AccountResolver: resolver, SystemAccount: systemKey})
	if err := connects(t, url, jetstream.Auth{CredentialsFile: writeFile(t, "user.creds", credentials)}); err != nil {
		t.Error(err)
	}
	if err := connects(t, url, jetstream.Auth{}); err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
		t.Errorf("without credentials: %v", err)
	}
	for _, broken := range []string{"", "x", strings.SplitN(string(credentials), "-----BEGIN USER NKEY", 2)[0]} {
		auth := jetstream.Auth{CredentialsFile: writeFile(t, "broken", []byte(broken))}
		if err := auth.Check(); err == nil || !strings.HasPrefix(err.Error(), "credentials_file: must contain the JWT and the seed of a user") {
			t.Errorf("%d bytes: %v", len(broken), err)
		}
	}
}

func TestNKeyFile(t *testing.T) {
	_, public, seed := newKeys(t, nkeys.CreateUser)
	_, _, other := newKeys(t, nkeys.CreateUser)
	url := startSecured(t, nats.Options{Nkeys: []*nats.NkeyUser{{Nkey: public}}})
	if err := connects(t, url, jetstream.Auth{NKeyFile: writeFile(t, "seed", seed)}); err != nil {
		t.Error(err)
	}
	if err := connects(t, url, jetstream.Auth{NKeyFile: writeFile(t, "seed", other)}); err == nil || !strings.Contains(err.Error(), "Authorization Violation") {
		t.Errorf("the key of another user: %v", err)
	}
	_, _, account := newKeys(t, nkeys.CreateAccount)
	for _, broken := range []string{"", "hunter2", string(account)} {
		auth := jetstream.Auth{NKeyFile: writeFile(t, "broken", []byte(broken))}
		if err := auth.Check(); err == nil || !strings.HasPrefix(err.Error(), "nkey_file: ") || broken != "" && strings.Contains(err.Error(), broken) {
			t.Errorf("%q: %v", broken, err)
		}
	}
}

// writeServerCertificate returns a certificate for 127.0.0.1 that is its own authority, and its files.
func writeServerCertificate(t *testing.T) (pair tls.Certificate, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
	if pair, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		t.Fatal(err)
	}
	return pair, writeFile(t, "cert.pem", certPEM), writeFile(t, "key.pem", keyPEM)
}

func TestServerWithTLS(t *testing.T) {
	pair, certFile, keyFile := writeServerCertificate(t)
	_, otherCert, otherKey := writeServerCertificate(t)
	clients := x509.NewCertPool()
	clients.AddCert(pair.Leaf)
	url := startSecured(t, nats.Options{TLS: true, TLSVerify: true, TLSTimeout: 60, TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}})
	if err := connects(t, url, jetstream.Auth{CAFile: certFile, CertFile: certFile, KeyFile: keyFile}); err != nil {
		t.Error(err)
	}
	for name, auth := range map[string]jetstream.Auth{
		"no client certificate":      {CAFile: certFile},
		"another client certificate": {CAFile: certFile, CertFile: otherCert, KeyFile: otherKey},
		"an untrusted server":        {CAFile: otherCert, CertFile: certFile, KeyFile: keyFile},
	} {
		if err := connects(t, url, auth); err == nil {
			t.Errorf("%s: connected", name)
		}
	}
	plain := startSecured(t, nats.Options{})
	if err := connects(t, plain, jetstream.Auth{CAFile: certFile}); err == nil || !strings.Contains(err.Error(), "secure connection not available") {
		t.Errorf("a server without TLS: %v", err)
	}
	for want, auth := range map[string]jetstream.Auth{
		"ca_file: ":                            {CAFile: keyFile},
		"cert_file: ":                          {CertFile: certFile, KeyFile: otherKey},
		"ca_file: open /nowhere: no such file": {CAFile: "/nowhere"},
	} {
		if err := auth.Check(); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
