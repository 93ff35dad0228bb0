// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"sync"
	"time"
)

// Credential is an APNs key that the mock knows.
type Credential struct {
	// KeyID and TeamID are ten characters each; default made up.
	KeyID, TeamID string
	// Topics are the bundle IDs that the key may push to, without the suffixes of push types; default com.example.app.
	Topics []string
	// Environment is Production or Sandbox for a key that is good there only; default both. A client speaks to the sandbox
	// by calling its name, api.sandbox.push.apple.com, wherever the connection goes.
	Environment string
	// KeyPEM is the private key, an unencrypted P-256 key in PKCS #8 as Apple's .p8 files are; default made on the spot.
	KeyPEM []byte

	public *ecdsa.PublicKey
}

// The environments of APNs.
const (
	Production = "production"
	Sandbox    = "sandbox"
)

// services that a certificate of the mock is good for, besides localhost.
var serviceNames = []string{
	"localhost",
	"api.push.apple.com", "api.sandbox.push.apple.com", "api.development.push.apple.com",
	"api-broadcast.push.apple.com", "api-broadcast.sandbox.push.apple.com",
	"api-manage-broadcast.push.apple.com", "api-manage-broadcast.sandbox.push.apple.com",
	"fcm.googleapis.com", "oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com",
	"web.push.apple.com", "updates.push.services.mozilla.com", "push.example.net",
}

// identity is what the services prove themselves with, and what they know of their clients.
type identity struct {
	authority    *x509.Certificate
	authorityPEM []byte
	leaf         tls.Certificate
	client       tls.Certificate
	credentials  []Credential
	account      *serviceAccount
}

// newIdentity makes what the config leaves out.
func newIdentity(cfg Config) (*identity, error) {
	ca, err := processAuthority()
	if err != nil {
		return nil, err
	}
	id := &identity{authority: ca.cert, authorityPEM: pemOf("CERTIFICATE", ca.cert.Raw)}
	given := cfg.Credentials
	if len(given) == 0 {
		given = []Credential{{}}
	}
	for i, c := range given {
		made, err := c.withDefaults(i)
		if err != nil {
			return nil, err
		}
		id.credentials = append(id.credentials, made)
	}
	if id.leaf, err = ca.issue(leafTemplate(cfg.Listen, cfg.Advertise)); err != nil {
		return nil, err
	}
	if id.client, err = ca.issue(clientTemplate(id.credentials[0].Topics[0])); err != nil {
		return nil, err
	}
	id.account, err = newServiceAccount(cfg.ProjectID)
	return id, err
}

// withDefaults is the credential with index i, complete.
func (c Credential) withDefaults(i int) (Credential, error) {
	c.KeyID = or(c.KeyID, fmt.Sprintf("MOCKKEY%03d", i+1))
	c.TeamID = or(c.TeamID, fmt.Sprintf("MOCKTEAM%02d", i+1))
	if len(c.Topics) == 0 {
		c.Topics = []string{"com.example.app"}
	}
	if c.Environment != "" && c.Environment != Production && c.Environment != Sandbox {
		return c, fmt.Errorf("mockprovider: Credentials[%d].Environment is %q (allowed: production, sandbox, or nothing for both)", i, c.Environment)
	}
	if c.KeyPEM == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return c, err
		}
		c.KeyPEM, err = pkcs8(key)
		c.public = &key.PublicKey
		return c, err
	}
	block, _ := pem.Decode(c.KeyPEM)
	if block == nil {
		return c, fmt.Errorf("mockprovider: Credentials[%d].KeyPEM holds no PEM block (give an unencrypted PKCS #8 key)", i)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return c, fmt.Errorf("mockprovider: Credentials[%d].KeyPEM is no P-256 key in PKCS #8", i)
	}
	c.public = &key.PublicKey
	return c, nil
}

// authority signs the certificates of every Mock in this process.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// processAuthority is made once per process, for tests start many mocks.
var processAuthority = sync.OnceValues(func() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "Mock Push Services CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), SerialNumber: big.NewInt(1),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert: cert, key: key}, err
})

// processRSAKey signs service account assertions. It is made once per process, for making one takes long.
var processRSAKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// issue signs a certificate of a new key.
func (a *authority) issue(template *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 3, 0)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// leafTemplate is good for loopback, for the hosts given and for the real services' names.
func leafTemplate(hosts ...string) *x509.Certificate {
	ips, names := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, slices.Clone(serviceNames)
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			ips = append(ips, ip)
		} else if host != "" {
			names = append(names, host)
		}
	}
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: "Mock Push Services"}, DNSNames: names, IPAddresses: ips,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// uidAttribute of a certificate's subject names the topic that the certificate may push to.
var uidAttribute = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}

// clientTemplate is a provider certificate as Apple issues them, for one topic.
func clientTemplate(topic string) *x509.Certificate {
	subject := pkix.Name{
		CommonName: "Apple Push Services: " + topic,
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: uidAttribute, Value: topic}},
	}
	return &x509.Certificate{
		Subject: subject, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// topicOf returns the topic that a provider certificate is for, or "".
func topicOf(cert *x509.Certificate) string {
	for _, name := range cert.Subject.Names {
		if name.Type.Equal(uidAttribute) {
			topic, _ := name.Value.(string)
			return topic
		}
	}
	return ""
}

// pkcs8 writes a private key as PEM.
func pkcs8(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pemOf("PRIVATE KEY", der), err
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
