// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/keyfile"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/fcm"
)

// credential identifies the gateway to a provider. Apps with the same credential share its pool,
// retry budget and quota.
type credential struct {
	id         string // equal for equal credentials; contains secrets only as a digest
	quotaOwner string // identifies the quota if a renewed credential uses the same quota; else empty, and id identifies it
	label      string // for display: the ID of a key, or a project
	source     string // for display: where the credential was found
	cert       []tls.Certificate
}

// keyError returns an error about a configuration key.
func keyError(path, name string, err error) error {
	return fmt.Errorf("config: %s.%s: %w", path, name, err)
}

// readFile reads the file that the configuration key path.name refers to. It removes a byte order
// mark.
func readFile(path, name string, file config.File) ([]byte, error) {
	text, err := os.ReadFile(string(file))
	if err == nil {
		return keyfile.Text(text), nil
	}
	cause := "cannot be read"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		cause = "no such file (a relative path starts at the configuration's folder)"
	case errors.Is(err, fs.ErrPermission):
		cause = "no permission to read it (it must belong to the user that runs the gateway)"
	}
	return nil, keyError(path, name, fmt.Errorf("%q: %s", string(file), cause))
}

func digest(text ...[]byte) string {
	h := sha256.New()
	for _, t := range text {
		h.Write(strconv.AppendInt(nil, int64(len(t)), 10)) // so that different lists never have the same digest
		h.Write([]byte{':'})
		h.Write(t)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// signer returns the signer of an APNs block. Equal keys share one signer, also across reloads: a
// second signer would renew the token more often than Apple allows.
func (b *builder) signer(path string, c *config.APNs) (*apns.Signer, credential, error) {
	text, err := readFile(path, "key_file", c.KeyFile)
	if err != nil {
		return nil, credential{}, err
	}
	cred := credential{id: digest(text, []byte(c.KeyID), []byte(c.TeamID)), label: c.KeyID}
	if known, ok := b.signers[cred.id]; ok {
		return known, cred, nil
	}
	if b.current != nil && b.current.signers[cred.id] != nil {
		b.signers[cred.id] = b.current.signers[cred.id]
		return b.signers[cred.id], cred, nil
	}
	signer, err := apns.NewSigner(apns.SignerConfig{Key: text, KeyID: c.KeyID, TeamID: c.TeamID, Logger: b.log})
	if err != nil {
		return nil, cred, keyError(path, "key_file", fmt.Errorf("%q: %w", string(c.KeyFile), err))
	}
	b.signers[cred.id] = signer
	return signer, cred, nil
}

// clientCertificate returns the client certificate of an APNs block. An expired certificate is an
// error, because nothing could be sent with it.
func clientCertificate(path string, c *config.APNs) (credential, error) {
	certPEM, err := readFile(path, "cert_file", c.CertFile)
	if err != nil {
		return credential{}, err
	}
	keyPEM, err := readFile(path, "cert_key_file", c.CertKeyFile)
	if err != nil {
		return credential{}, err
	}
	if err := keyfile.CheckCertificate(certPEM); err != nil {
		return credential{}, keyError(path, "cert_file", fmt.Errorf("%q: %w", string(c.CertFile), err))
	}
	if _, err := keyfile.Key(keyPEM, "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"); err != nil {
		return credential{}, keyError(path, "cert_key_file", fmt.Errorf("%q: %w", string(c.CertKeyFile), err))
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return credential{}, keyError(path, "cert_file", fmt.Errorf("%q and cert_key_file are not a certificate and its key: %w", string(c.CertFile), err))
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		return credential{}, keyError(path, "cert_file", fmt.Errorf("%q is valid only from %s to %s (get a new one from Apple, or correct this machine's clock)",
			string(c.CertFile), pair.Leaf.NotBefore.Format(time.DateOnly), pair.Leaf.NotAfter.Format(time.DateOnly)))
	}
	id := digest(pair.Certificate[0])
	return credential{id: id, label: "certificate " + id[:8], cert: []tls.Certificate{pair}}, nil
}

// fcmProvider returns the FCM provider for an account and a project. Equal accounts and projects
// share one provider, which caches their access token, also across reloads.
func (b *builder) fcmProvider(path string, c *config.FCM, roots *x509.CertPool) (*fcm.Provider, credential, error) {
	cfg, source, err := serviceAccount(path, c)
	if err != nil {
		return nil, credential{}, err
	}
	cfg.Project, cfg.TokenURL, cfg.Logger = cmp.Or(c.ProjectID, cfg.Project), string(c.TokenURL), b.log
	if !cfg.MetadataServer { // the metadata server uses plain HTTP
		cfg.TokenClient = tokenClient(roots)
	}
	provider, err := fcm.New(cfg)
	if err != nil {
		return nil, credential{}, keyError(path, "service_account_file", fmt.Errorf("%s: %w", source, err))
	}
	cred := credential{id: digest(cfg.Account, []byte(provider.Project()), []byte(cfg.TokenURL)), quotaOwner: provider.Project(), label: provider.Project(), source: source}
	if known, ok := b.fcmProviders[cred.id]; ok {
		return known, cred, nil
	}
	if current := b.current.fcmProvider(cred.id, roots); current != nil {
		provider = current
	}
	b.fcmProviders[cred.id] = provider
	return provider, cred, nil
}

// serviceAccount returns the account of an FCM block: that of its file, else Google's application
// default credentials.
func serviceAccount(path string, c *config.FCM) (cfg fcm.Config, source string, err error) {
	if c.ServiceAccountFile != "" {
		text, err := readFile(path, "service_account_file", c.ServiceAccountFile)
		return fcm.Config{Account: text}, strconv.Quote(string(c.ServiceAccountFile)), err
	}
	cfg, source, err = fcm.DefaultCredentials(context.Background())
	if err != nil {
		err = keyError(path, "service_account_file", fmt.Errorf("not set, and Google's application default credentials cannot be used: %w", err))
	}
	return cfg, source, err
}

// tokenClient returns an HTTP client for the token endpoint, or nil if roots is nil and the
// system's roots apply.
func tokenClient(roots *x509.CertPool) *http.Client {
	if roots == nil {
		return nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // exchanges are rare, and a replaced client must not keep connections
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: transport}
}

// loadRoots returns the root certificates of a ca_file, or nil if file is empty.
func loadRoots(path string, file config.File) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readFile(path, "ca_file", file)
	if err != nil {
		return nil, err
	}
	if err := keyfile.CheckCertificate(text); err != nil {
		return nil, keyError(path, "ca_file", fmt.Errorf("%q: %w", string(file), err))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, keyError(path, "ca_file", fmt.Errorf("%q contains no valid certificate", string(file)))
	}
	return roots, nil
}
