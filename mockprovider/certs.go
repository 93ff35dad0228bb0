// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sluice-push/sluice/mockprovider/apns"
	"github.com/sluice-push/sluice/mockprovider/oauth"
)

// serviceHosts are the host names for which the certificate of the mock is valid.
var serviceHosts = []string{
	"localhost",
	"api.push.apple.com", "api.sandbox.push.apple.com", "api.development.push.apple.com",
	"api-broadcast.push.apple.com", "api-broadcast.sandbox.push.apple.com",
	"api-manage-broadcast.push.apple.com", "api-manage-broadcast.sandbox.push.apple.com",
	"fcm.googleapis.com", "oauth2.googleapis.com", "accounts.google.com", "www.googleapis.com",
	"web.push.apple.com", "updates.push.services.mozilla.com", "push.example.net",
}

// identity holds the certificates and keys of the services and of their clients.
type identity struct {
	authority    *x509.Certificate
	authorityPEM []byte
	client       tls.Certificate
	credentials  []apns.Credential
	account      *oauth.Account
}

// newIdentity returns the identity that cfg describes, and generates what cfg leaves out.
func newIdentity(cfg Config) (*identity, error) {
	ca, err := processAuthority()
	if err != nil {
		return nil, err
	}
	id := &identity{authority: ca.cert, authorityPEM: encodePEM("CERTIFICATE", ca.cert.Raw)}
	if id.credentials, err = apns.CompleteCredentials(cfg.Credentials); err != nil {
		return nil, fmt.Errorf("mockprovider: %w", err)
	}
	if id.client, err = ca.issue(apns.CertificateTemplate(id.credentials[0].Topics[0])); err != nil {
		return nil, err
	}
	id.account, err = oauth.NewAccount(cfg.ProjectID)
	return id, err
}

// authority signs the certificates of every Mock of the process.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// processAuthority returns the authority. There is only one, because tests start many mocks.
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

// issue issues a certificate for a new key.
func (a *authority) issue(template *x509.Certificate) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, err
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().AddDate(0, 3, 0)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// newServerCertificate returns the certificate of the services. It is valid for hosts, which are names
// or addresses, for loopback addresses and for the names of the real services. An unspecified address
// stands for all addresses of the machine.
func newServerCertificate(hosts []string) (tls.Certificate, error) {
	ca, err := processAuthority()
	if err != nil {
		return tls.Certificate{}, err
	}
	ips, names := []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, slices.Clone(serviceHosts)
	for _, host := range hosts {
		addr, err := netip.ParseAddr(host)
		switch {
		case err == nil && addr.IsUnspecified():
			ips = append(ips, addr.AsSlice())
			ips = append(ips, machineIPs()...)
		case err == nil:
			ips = append(ips, addr.AsSlice())
		case host != "":
			names = append(names, host)
		}
	}
	return ca.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Mock Push Services"}, DNSNames: names, IPAddresses: ips,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// machineIPs returns the addresses of the machine.
func machineIPs() []net.IP {
	addrs, _ := net.InterfaceAddrs() // without them, the certificate is valid for fewer addresses
	var ips []net.IP
	for _, addr := range addrs {
		if network, ok := addr.(*net.IPNet); ok {
			ips = append(ips, network.IP)
		}
	}
	return ips
}

func encodePEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
