// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/identity"
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
