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
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/fcm"
)

// credential is what a provider knows us by. Apps with the same one share its pool, its budget and its quota.
type credential struct {
	id         string // the same for the same credential; holds a digest where there is a secret
	quotaOwner string // whose quota it spends, where a renewed one spends the same; empty: its own
	label      string // for people: a key's ID, a project
	source     string // for people: where it was found
	cert       []tls.Certificate
}

// keyError is an error about one key of the configuration.
func keyError(path, name string, err error) error {
	return fmt.Errorf("config: %s.%s: %w", path, name, err)
}

// readFile reads a file that the configuration names under path.name.
func readFile(path, name string, file config.File) ([]byte, error) {
	text, err := os.ReadFile(string(file))
	if err == nil {
		return text, nil
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
		h.Write(strconv.AppendInt(nil, int64(len(t)), 10)) // so that no two lists of texts read the same
		h.Write([]byte{':'})
		h.Write(t)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// signer returns the token key of an APNs block, the same Signer for the same key: a second one would renew the token
// more often than Apple permits.
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

// clientCertificate returns the client certificate of an APNs block. One that has expired is refused: nothing could be sent.
func clientCertificate(path string, c *config.APNs) (credential, error) {
	certPEM, err := readFile(path, "cert_file", c.CertFile)
	if err != nil {
		return credential{}, err
	}
	keyPEM, err := readFile(path, "cert_key_file", c.CertKeyFile)
	if err != nil {
		return credential{}, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return credential{}, keyError(path, "cert_file", fmt.Errorf("%q and cert_key_file are no certificate and its key: %w", string(c.CertFile), err))
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		return credential{}, keyError(path, "cert_file", fmt.Errorf("%q is good from %s to %s only (get a new one from Apple, or mend this machine's clock)",
			string(c.CertFile), pair.Leaf.NotBefore.Format(time.DateOnly), pair.Leaf.NotAfter.Format(time.DateOnly)))
	}
	id := digest(pair.Certificate[0])
	return credential{id: id, label: "certificate " + id[:8], cert: []tls.Certificate{pair}}, nil
}

// fcmProvider returns the FCM provider of an account and a project, the same one for the same two: it keeps their access
// token.
func (b *builder) fcmProvider(path string, c *config.FCM, roots *x509.CertPool) (*fcm.Provider, credential, error) {
	cfg, from, err := serviceAccount(path, c)
	if err != nil {
		return nil, credential{}, err
	}
	cfg.Project, cfg.TokenURL, cfg.Logger = cmp.Or(c.ProjectID, cfg.Project), string(c.TokenURL), b.log
	if !cfg.MetadataServer { // which is asked in the clear
		cfg.TokenClient = tokenClient(roots)
	}
	provider, err := fcm.New(cfg)
	if err != nil {
		return nil, credential{}, keyError(path, "service_account_file", fmt.Errorf("%s: %w", from, err))
	}
	cred := credential{id: digest(cfg.Account, []byte(provider.Project()), []byte(cfg.TokenURL)), quotaOwner: provider.Project(), label: provider.Project(), source: from}
	if known, ok := b.fcmProviders[cred.id]; ok {
		return known, cred, nil
	}
	b.fcmProviders[cred.id] = provider
	return provider, cred, nil
}

// serviceAccount returns who an FCM block sends as: the account of its file, else Google's default.
func serviceAccount(path string, c *config.FCM) (cfg fcm.Config, from string, err error) {
	if c.ServiceAccountFile != "" {
		text, err := readFile(path, "service_account_file", c.ServiceAccountFile)
		return fcm.Config{Account: text}, strconv.Quote(string(c.ServiceAccountFile)), err
	}
	cfg, from, err = fcm.DefaultCredentials(context.Background())
	if err != nil {
		err = keyError(path, "service_account_file", fmt.Errorf("not given, and Google's default does not serve: %w", err))
	}
	return cfg, from, err
}

// tokenClient returns a client for the token endpoint, nil where the system's roots are to be trusted.
func tokenClient(roots *x509.CertPool) *http.Client {
	if roots == nil {
		return nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: transport}
}

// loadRoots returns the roots of a ca_file, nil where none is named.
func loadRoots(path string, file config.File) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readFile(path, "ca_file", file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, keyError(path, "ca_file", fmt.Errorf("%q holds no certificate in PEM", string(file)))
	}
	return roots, nil
}
