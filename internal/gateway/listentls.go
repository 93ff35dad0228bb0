// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/keyfile"
)

// listenerTLS returns the TLS configuration of a listener, or nil for plain HTTP. Unchanged files have
// the same one, so that sessions can be resumed after a reload.
func (f *files) listenerTLS(path string, c *config.TLS) (*tls.Config, error) {
	if c.CertFile == "" {
		return nil, nil
	}
	pair, err := readCertificate(path, "key_file", c.CertFile, c.KeyFile)
	if err != nil {
		return nil, err
	}
	clients, err := f.authorities(path, "client_ca_file", c.ClientCAFile)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		return nil, keyError(path, "key_file", err)
	}
	parts := append([][]byte{secret}, pair.Certificate...)
	return f.listeners.get(listenerKey{digest(parts...), clients}, func() (*tls.Config, error) {
		t := &tls.Config{Certificates: []tls.Certificate{*pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12}
		if clients != nil {
			t.ClientCAs, t.ClientAuth = clients.pool, tls.RequireAndVerifyClientCert
		}
		return t, nil
	})
}

// listenerKey is what the TLS configuration of a listener is made from.
type listenerKey struct {
	digest  string
	clients *rootCAs
}

// readCertificate reads a certificate (cert_file) and its private key.
func readCertificate(path, keyName string, certFile, keyFile config.File) (*tls.Certificate, error) {
	certPEM, err := readFile(path, "cert_file", certFile)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(path, keyName, keyFile)
	if err != nil {
		return nil, err
	}
	if err := keyfile.CheckCertificate(certPEM); err != nil {
		return nil, keyError(path, "cert_file", fmt.Errorf("%q: %w", string(certFile), err))
	}
	if _, err := keyfile.Key(keyPEM, "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"); err != nil {
		return nil, keyError(path, keyName, fmt.Errorf("%q: %w", string(keyFile), err))
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, keyError(path, "cert_file", fmt.Errorf("%q and %s are not a certificate and its key: %w", string(certFile), keyName, err))
	}
	return &pair, nil
}

// setTLS makes the server of a listener use the TLS configuration that is current when a client
// connects, if the listener has TLS. i is an index of snapshot.tls.
func (g *Gateway) setTLS(s *http.Server, i int) {
	if g.current.Load().tls[i] == nil {
		return
	}
	s.TLSConfig = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return g.current.Load().tls[i], nil },
	}
}

// withoutTLS returns the connection below TLS.
func withoutTLS(conn net.Conn) net.Conn {
	if secured, ok := conn.(*tls.Conn); ok {
		return secured.NetConn()
	}
	return conn
}

// tlsChecks returns the checks of the certificates of the listeners.
func tlsChecks(snap *snapshot) (checks []Check) {
	for i, block := range snap.cfg.TLSBlocks() {
		t := snap.tls[i]
		if t == nil {
			continue
		}
		checks = append(checks, Check{Key: block.Path + ".cert_file", Verify: func(context.Context) (string, error) {
			cert := t.Certificates[0].Leaf
			found := fmt.Sprintf("certificate for %s, valid until %s", strings.Join(certificateNames(cert), ", "), cert.NotAfter.Format("2 January 2006"))
			if t.ClientCAs != nil {
				found += "; clients need a certificate too"
			}
			if now := time.Now(); now.After(cert.NotAfter) || now.Before(cert.NotBefore) {
				return "", fmt.Errorf("valid only from %s to %s, so clients refuse it", cert.NotBefore.Format(time.DateOnly), cert.NotAfter.Format(time.DateOnly))
			}
			return found, nil
		}})
	}
	return checks
}

// certificateNames returns the names that clients compare.
func certificateNames(cert *x509.Certificate) []string {
	names := cert.DNSNames
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return []string{"no name"}
	}
	return names
}

// tlsWarnings returns a warning for each listener whose certificate expires soon.
func tlsWarnings(cfg *config.Config) (found []string) {
	for _, block := range cfg.TLSBlocks() {
		if block.TLS.CertFile == "" {
			continue
		}
		pair, err := readCertificate(block.Path, "key_file", block.TLS.CertFile, block.TLS.KeyFile)
		if err != nil {
			continue // New returns it
		}
		if left := time.Until(pair.Leaf.NotAfter); left < certificateWarning {
			found = append(found, fmt.Sprintf("%s.cert_file: %q expires on %s, in %d days (renew it)",
				block.Path, string(block.TLS.CertFile), pair.Leaf.NotAfter.Format("2 January 2006"), int(left.Hours()/24)))
		}
	}
	return found
}
