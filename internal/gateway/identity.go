// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/metrics"
)

// newAuthenticator returns what identifies the callers of a configuration. The limits of callers continue
// with those of previous, which may be nil.
func newAuthenticator(cfg *config.Config, previous *identity.Authenticator) (*identity.Authenticator, error) {
	apps := slices.Sorted(maps.Keys(cfg.Apps))
	c := identity.Config{Apps: apps, Previous: previous}
	for _, app := range apps {
		for i, k := range cfg.Apps[app].Keys {
			c.Keys = append(c.Keys, identity.Key{
				Path: fmt.Sprintf("apps.%s.keys[%d]", app, i), Name: k.Name, Hash: k.Hash, Apps: []string{app}, Scopes: scopes(k.Scopes),
				NotBefore: k.NotBefore.Time, ExpiresAt: k.ExpiresAt.Time, Limit: callerLimit(k.Rate, k.Concurrency),
			})
		}
	}
	for i, k := range cfg.Auth.Keys {
		c.Keys = append(c.Keys, identity.Key{
			Path: fmt.Sprintf("auth.keys[%d]", i), Name: k.Name, Hash: k.Hash, Apps: expandApps(k.Apps, apps), Scopes: scopes(k.Scopes),
			NotBefore: k.NotBefore.Time, ExpiresAt: k.ExpiresAt.Time, Limit: callerLimit(k.Rate, k.Concurrency),
		})
	}
	for _, cert := range cfg.Auth.Certificates {
		c.Certificates = append(c.Certificates, identity.CertificateRule{
			Name: cert.Name, Apps: expandApps(cert.Apps, apps), Scopes: scopes(cert.Scopes), Limit: callerLimit(cert.Rate, cert.Concurrency),
		})
	}
	return identity.New(c)
}

// scopes parses the scopes of a configuration, which has only known ones.
func scopes(names []string) identity.Scopes {
	s, _ := identity.ParseScopes(names)
	return s
}

// expandApps replaces the word for all apps by their names.
func expandApps(names, all []string) []string {
	if slices.Contains(names, config.AllApps) {
		return all
	}
	return names
}

func callerLimit(rate config.Rate, concurrency int) identity.Limit {
	return identity.Limit{Rate: rate.Count, RatePer: rate.Per, Concurrency: concurrency}
}

// expiringKey is an API key with expires_at.
type expiringKey struct {
	path string // of its block
	metrics.KeyExpiry
}

// expiringKeys returns the API keys of a configuration that expire.
func expiringKeys(cfg *config.Config) (keys []expiringKey) {
	add := func(path, app, name string, at config.Time) {
		if !at.IsZero() {
			keys = append(keys, expiringKey{path, metrics.KeyExpiry{App: app, Key: name, ExpiresAt: at.Time}})
		}
	}
	for _, app := range slices.Sorted(maps.Keys(cfg.Apps)) {
		for i, k := range cfg.Apps[app].Keys {
			add(fmt.Sprintf("apps.%s.keys[%d]", app, i), app, k.Name, k.ExpiresAt)
		}
	}
	for i, k := range cfg.Auth.Keys {
		add(fmt.Sprintf("auth.keys[%d]", i), "", k.Name, k.ExpiresAt)
	}
	return keys
}

// keyWarning is how long before its expiry an API key causes a warning.
const keyWarning = 7 * 24 * time.Hour

// keyWarnings returns a warning for each API key that expires soon or has expired.
func keyWarnings(cfg *config.Config) (found []string) {
	for _, k := range expiringKeys(cfg) {
		at := k.ExpiresAt.UTC().Format(time.RFC3339)
		switch left := time.Until(k.ExpiresAt); {
		case left <= 0:
			found = append(found, fmt.Sprintf("%s: the key %s has expired on %s (remove it)", k.path, k.Key, at))
		case left < keyWarning:
			found = append(found, fmt.Sprintf("%s: the key %s expires on %s (add another one for its holder)", k.path, k.Key, at))
		}
	}
	return found
}

// watchKeys logs the warnings about API keys, at the start and once a day, until ctx ends.
func (g *Gateway) watchKeys(ctx context.Context) error {
	daily := time.NewTicker(24 * time.Hour)
	defer daily.Stop()
	for {
		for _, warning := range keyWarnings(g.current.Load().cfg) {
			g.log.Warn("config: " + warning)
		}
		select {
		case <-daily.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// keyExpiries returns when API keys expire, for the metrics.
func (g *Gateway) keyExpiries() (keys []metrics.KeyExpiry) {
	for _, k := range expiringKeys(g.current.Load().cfg) {
		keys = append(keys, k.KeyExpiry)
	}
	return keys
}
