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
	"hash"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/keyfile"
	"github.com/sluice-push/sluice/internal/panics"
	"github.com/sluice-push/sluice/internal/proxy"
	"github.com/sluice-push/sluice/providers/apns"
	"github.com/sluice-push/sluice/providers/fcm"
	"github.com/sluice-push/sluice/providers/webpush"
)

// credential identifies the gateway to a provider. Apps with the same credential share its pool,
// retry budget and quota.
type credential struct {
	id         string // equal for equal credentials; contains secrets only as a digest
	quotaOwner string // identifies the quota if a renewed credential uses the same quota; else empty, and id identifies it
	label      string // for display: the ID of a key, or a project
	source     string // for display: where the credential was found

	// One of these, or none for Web Push.
	cert   *tls.Certificate // of APNs
	signer *apns.Signer     // of APNs
	fcm    *fcm.Provider
}

// rootCAs are the certificates of a ca_file; nil means those of the system. Equal files share them.
type rootCAs struct{ pool *x509.CertPool }

// certPool returns the certificates, or nil for those of the system.
func (r *rootCAs) certPool() *x509.CertPool {
	if r == nil {
		return nil
	}
	return r.pool
}

// files holds what the files of a configuration contain. It parses equal contents once, also across
// reloads: parsing takes too long for many apps, and a second apns.Signer for a key would renew the
// token more often than Apple allows. It can be used by multiple goroutines.
type files struct {
	log          *slog.Logger
	roots        cache[string, rootCAs] // by digest
	credentials  cache[credentialKey, credential]
	proxies      cache[proxyKey, proxy.Proxy]
	tokenClients cache[transportKey, http.Client]
	listeners    cache[listenerKey, tls.Config]
	issuers      cache[issuerKey, tokenIssuer]
	fileProxy    *proxy.Proxy // of the block proxy; nil without one
}

// init reuses what previous contains.
func (f *files) init(previous *files) {
	f.roots.init(&previous.roots)
	f.credentials.init(&previous.credentials)
	f.proxies.init(&previous.proxies)
	f.tokenClients.init(&previous.tokenClients)
	f.listeners.init(&previous.listeners)
	f.issuers.init(&previous.issuers)
}

// release forgets the files of the previous configuration, or this one would keep what it does not use.
func (f *files) release() {
	f.roots.previous, f.credentials.previous, f.proxies.previous, f.tokenClients.previous, f.listeners.previous = nil, nil, nil, nil, nil
	f.issuers.previous = nil
}

// credentialKey is what a credential is made from.
type credentialKey struct {
	digest    string       // of the file and of the keys beside it
	transport transportKey // for the token endpoint
}

// cache holds values by key.
type cache[K comparable, V any] struct {
	previous map[K]*V // those of the configuration in use

	mu     sync.Mutex
	values map[K]*V
}

func (c *cache[K, V]) init(previous *cache[K, V]) {
	c.previous, c.values = previous.values, make(map[K]*V, len(previous.values))
}

// get returns the value of a key: a known one, or else the result of create.
func (c *cache[K, V]) get(key K, create func() (*V, error)) (*V, error) {
	c.mu.Lock()
	known := cmp.Or(c.values[key], c.previous[key])
	c.mu.Unlock()
	created := known
	if known == nil {
		var err error
		if created, err = create(); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values[key] = cmp.Or(c.values[key], created) // another goroutine may have created one in the meantime
	return c.values[key], nil
}

// blockFiles is what the files of one block contain.
type blockFiles struct {
	roots *rootCAs
	proxy *proxy.Proxy
	cred  *credential
	vapid *webpush.Key
	err   error
}

// appFiles is what the files of one app contain.
type appFiles struct{ apns, fcm, webPush blockFiles }

// readApps reads the files of the apps and of their proxies. The result has the order of names.
func readApps(cfg *config.Config, names []string, previous *files, log *slog.Logger) (_ []appFiles, f *files, err error) {
	f = &files{log: log}
	f.init(previous)
	if f.fileProxy, err = f.proxy("proxy", &cfg.Proxy); err != nil {
		return nil, nil, err
	}
	read := make([]appFiles, len(names))
	var next atomic.Int64
	var workers errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() error {
			return panics.Recover(log, "reading the files of apps", func() error {
				for i := int(next.Add(1)) - 1; i < len(names); i = int(next.Add(1)) - 1 {
					read[i] = f.readApp("apps."+names[i], cfg.Apps[names[i]])
				}
				return nil
			})
		})
	}
	return read, f, workers.Wait()
}

func (f *files) readApp(path string, app *config.App) (a appFiles) {
	if c := app.APNs; c != nil {
		a.apns = f.readBlock(path+".apns", c.CAFile, c.Proxy)
		if a.apns.err == nil {
			a.apns.cred, a.apns.err = f.apns(path+".apns", c)
		}
	}
	if c := app.FCM; c != nil {
		a.fcm = f.readBlock(path+".fcm", c.CAFile, c.Proxy)
		if a.fcm.err == nil {
			a.fcm.cred, a.fcm.err = f.fcm(path+".fcm", c, transportKey{a.fcm.roots, a.fcm.proxy})
		}
	}
	if c := app.WebPush; c != nil {
		a.webPush = f.readBlock(path+".webpush", c.CAFile, c.Proxy)
		if a.webPush.err == nil {
			a.webPush.vapid, a.webPush.err = vapidKey(path+".webpush", c)
		}
	}
	return a
}

// readBlock reads the files that all providers have.
func (f *files) readBlock(path string, caFile config.File, block *config.Proxy) (b blockFiles) {
	if b.roots, b.err = f.rootCAs(path, caFile); b.err == nil {
		b.proxy, b.err = f.proxy(path+".proxy", block)
	}
	return b
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
		hashPart(h, t)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hashPart writes a part to h so that different lists of parts never have the same digest.
func hashPart(h hash.Hash, part []byte) {
	h.Write(strconv.AppendInt(nil, int64(len(part)), 10))
	h.Write([]byte{':'})
	h.Write(part)
}

// apns returns the credential of an APNs block.
func (f *files) apns(path string, c *config.APNs) (*credential, error) {
	if c.CertFile != "" {
		return clientCertificate(path, c)
	}
	text, err := readFile(path, "key_file", c.KeyFile)
	if err != nil {
		return nil, err
	}
	id := digest(text, []byte(c.KeyID), []byte(c.TeamID))
	return f.credentials.get(credentialKey{digest: id}, func() (*credential, error) {
		signer, err := apns.NewSigner(apns.SignerConfig{Key: text, KeyID: c.KeyID, TeamID: c.TeamID, Logger: f.log})
		if err != nil {
			return nil, keyError(path, "key_file", fmt.Errorf("%q: %w", string(c.KeyFile), err))
		}
		return &credential{id: id, label: c.KeyID, signer: signer}, nil
	})
}

// clientCertificate returns the client certificate of an APNs block. An expired certificate is an
// error, because nothing could be sent with it.
func clientCertificate(path string, c *config.APNs) (*credential, error) {
	pair, err := readCertificate(path, "cert_key_file", c.CertFile, c.CertKeyFile)
	if err != nil {
		return nil, err
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
		return nil, keyError(path, "cert_file", fmt.Errorf("%q is valid only from %s to %s (get a new one from Apple, or correct this machine's clock)",
			string(c.CertFile), pair.Leaf.NotBefore.Format(time.DateOnly), pair.Leaf.NotAfter.Format(time.DateOnly)))
	}
	id := digest(pair.Certificate[0])
	return &credential{id: id, label: "certificate " + id[:8], cert: pair}, nil
}

// fcm returns the account and project of an FCM block. Its provider caches the access token.
func (f *files) fcm(path string, c *config.FCM, transport transportKey) (*credential, error) {
	cfg, source, err := serviceAccount(path, c)
	if err != nil {
		return nil, err
	}
	cfg.Project, cfg.TokenURL, cfg.Logger = cmp.Or(c.ProjectID, cfg.Project), string(c.TokenURL), f.log
	if !cfg.MetadataServer { // which no proxy can reach
		cfg.TokenClient = f.tokenClient(transport)
	}
	key := credentialKey{digest(cfg.Account, []byte(cfg.Project), []byte(cfg.TokenURL)), transport}
	return f.credentials.get(key, func() (*credential, error) {
		provider, err := fcm.New(cfg)
		if err != nil {
			return nil, keyError(path, "service_account_file", fmt.Errorf("%s: %w", source, err))
		}
		project := provider.Project()
		return &credential{id: digest(cfg.Account, []byte(project), []byte(cfg.TokenURL)), quotaOwner: project, label: project, source: source, fcm: provider}, nil
	})
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

// vapidKey returns the key of a Web Push block.
func vapidKey(path string, c *config.WebPush) (*webpush.Key, error) {
	text, err := readFile(path, "vapid_key_file", c.VAPIDKeyFile)
	if err != nil {
		return nil, err
	}
	key, err := webpush.ParseKey(text)
	if err != nil {
		return nil, keyError(path, "vapid_key_file", fmt.Errorf("%q: %w", string(c.VAPIDKeyFile), err))
	}
	return key, nil
}

// rootCAs returns the root certificates of a ca_file, or nil if file is empty.
func (f *files) rootCAs(path string, file config.File) (*rootCAs, error) {
	return f.authorities(path, "ca_file", file)
}

// authorities returns the certificates of the file that the configuration key path.key refers to, or
// nil if file is empty.
func (f *files) authorities(path, key string, file config.File) (*rootCAs, error) {
	if file == "" {
		return nil, nil
	}
	text, err := readFile(path, key, file)
	if err != nil {
		return nil, err
	}
	return f.roots.get(digest(text), func() (*rootCAs, error) {
		if err := keyfile.CheckCertificate(text); err != nil {
			return nil, keyError(path, key, fmt.Errorf("%q: %w", string(file), err))
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, keyError(path, key, fmt.Errorf("%q contains no valid certificate", string(file)))
		}
		return &rootCAs{pool}, nil
	})
}
