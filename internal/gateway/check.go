// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"runtime"
	"slices"

	"github.com/sluice-push/sluice/internal/config"
)

// Check is one thing that must be so for a gateway to serve.
type Check struct {
	// Key is the key of the configuration that it is about.
	Key string
	// Verify says what it found, or why a gateway would not serve.
	Verify func(ctx context.Context) (found string, err error)
}

// Checks returns what can only be known by trying: addresses to listen on, tokens, DNS, connections. What can be known
// from files, New has refused already. The checks may be made in any order; they send no notification.
func (g *Gateway) Checks() []Check {
	h := g.current.Load()
	checks := []Check{
		{"listen", verifyListen(string(h.cfg.Listen))},
		{"admin.listen", verifyListen(string(h.cfg.Admin.Listen))},
	}
	for _, s := range h.activeServices() {
		checks = append(checks,
			Check{s.paths[0], s.verifyCredential},
			Check{s.paths[0], s.verifyReachable})
	}
	for _, o := range h.originRouters {
		checks = append(checks, o.checks()...)
	}
	return checks
}

// verifyListen verifies that an address is free, by taking it for a moment.
func verifyListen(address string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return "", fmt.Errorf("%w (is a gateway running here already?)", err)
		}
		return address + " is free", l.Close()
	}
}

func (s *service) verifyCredential(ctx context.Context) (string, error) {
	if s.cred.cert != nil {
		return "the certificate is good until " + s.cred.cert[0].Leaf.NotAfter.Format("2 January 2006"), nil
	}
	if err := s.authorize(ctx); err != nil {
		return "", err
	}
	if s.cred.source != "" {
		return "got a token for " + s.cred.label + ", by " + s.cred.source, nil
	}
	return "got a token for " + s.cred.label, nil
}

// verifyReachable connects to the service's addresses, one after the other, until one answers.
func (s *service) verifyReachable(ctx context.Context) (string, error) {
	addrs, _, err := s.resolver.Resolve(ctx)
	if err != nil {
		return "", err
	}
	var failures []error
	for i, addr := range addrs {
		conn, err := s.dial(ctx, addr)
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", addr, err))
			continue
		}
		closing, cancel := context.WithCancel(ctx)
		cancel()
		_ = conn.Run(closing) // it has served its purpose; how it ends tells nothing
		return fmt.Sprintf("connected to %s, address %d of %d of %s", addr, i+1, len(addrs), s.settings.base), nil
	}
	return "", fmt.Errorf("no address of %s lets us connect: %w", s.settings.base, errors.Join(failures...))
}

// Warnings returns what a gateway would run with, and yet should not be: by the configuration's key, with what to do.
func Warnings(cfg *config.Config) (found []string) {
	for _, name := range slices.Sorted(maps.Keys(cfg.Apps)) {
		for _, f := range secretFiles(cfg.Apps[name]) {
			info, err := os.Stat(string(f.file))
			if f.file == "" || err != nil || info.Mode().Perm()&0o077 == 0 || runtime.GOOS == "windows" {
				continue
			}
			found = append(found, fmt.Sprintf("apps.%s.%s: %q has mode %#o, so that others on this machine can read the key (chmod 600)",
				name, f.key, string(f.file), info.Mode().Perm()))
		}
	}
	return found
}

type secretFile struct {
	key  string
	file config.File
}

func secretFiles(app *config.App) (files []secretFile) {
	if app.APNs != nil {
		files = append(files, secretFile{"apns.key_file", app.APNs.KeyFile}, secretFile{"apns.cert_key_file", app.APNs.CertKeyFile})
	}
	if app.FCM != nil {
		files = append(files, secretFile{"fcm.service_account_file", app.FCM.ServiceAccountFile})
	}
	if app.WebPush != nil {
		files = append(files, secretFile{"webpush.vapid_key_file", app.WebPush.VAPIDKeyFile})
	}
	for i, w := range app.Webhooks {
		files = append(files, secretFile{fmt.Sprintf("webhooks[%d].secret_file", i), w.SecretFile})
	}
	return files
}
