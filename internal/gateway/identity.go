// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sluice-push/sluice/internal/config"
	"github.com/sluice-push/sluice/internal/console"
	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/metrics"
	"github.com/sluice-push/sluice/internal/panics"
)

// newAuthenticator returns what identifies the callers of a configuration. The limits of callers continue
// with those of previous, which may be nil. issuers and signIns are those of auth.oidc.
func newAuthenticator(cfg *config.Config, issuers []*tokenIssuer, signIns []*identity.SignIn, previous *identity.Authenticator) (*identity.Authenticator, error) {
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
	for i, o := range cfg.Auth.OIDC {
		rules := identity.IssuerRules{Issuer: issuers[i].Issuer, NameClaim: o.NameClaim, SignIn: signIns[i]}
		for _, r := range o.Rules {
			rules.Rules = append(rules.Rules, identity.TokenRule{
				Claim: r.Claim, Value: r.Value, Apps: expandApps(r.Apps, apps), AppsClaim: r.AppsClaim, Scopes: scopes(r.Scopes),
				ScopesClaim: r.ScopesClaim, ScopesPrefix: r.ScopesPrefix, Limit: callerLimit(r.Rate, r.Concurrency),
			})
		}
		c.Issuers = append(c.Issuers, rules)
	}
	return identity.New(c)
}

// issuerKey is what an issuer of tokens is made from. An issuer that does not change keeps its keys.
type issuerKey struct {
	url, jwksURL, audiences, algorithms string
	clockSkew                           time.Duration
	transport                           transportKey
}

// tokenIssuer is an issuer of tokens and its background work. Snapshots share it.
type tokenIssuer struct {
	*identity.Issuer
	start  func()
	cancel context.CancelFunc
}

// end ends the background work.
func (i *tokenIssuer) end() { i.cancel() }

// tokenIssuers returns the issuers of a configuration, and how people sign in at each, nil if they do not.
func (g *Gateway) tokenIssuers(cfg *config.Config, f *files) (issuers []*tokenIssuer, signIns []*identity.SignIn, err error) {
	for n, o := range cfg.Auth.OIDC {
		path := fmt.Sprintf("auth.oidc[%d]", n)
		issuer, err := g.tokenIssuer(path, &o, f)
		if err != nil {
			return nil, nil, err
		}
		signIn, err := newSignIn(path+".sign_in", issuer, string(cfg.Console.URL), o.SignIn)
		if err != nil {
			return nil, nil, err
		}
		issuers, signIns = append(issuers, issuer), append(signIns, signIn)
	}
	return issuers, signIns, nil
}

// newSignIn returns how people sign in at an issuer, or nil without a block.
func newSignIn(path string, issuer *tokenIssuer, consoleURL string, block *config.SignIn) (*identity.SignIn, error) {
	if block == nil {
		return nil, nil
	}
	cfg := identity.SignInConfig{
		Name: block.Name, ClientID: block.ClientID, Scopes: block.Scopes, RedirectURL: consoleURL + console.CallbackPath, SignedOutURL: consoleURL + console.SignInPath,
	}
	if block.ClientSecretFile != "" {
		text, err := readFile(path, "client_secret_file", block.ClientSecretFile)
		if err != nil {
			return nil, err
		}
		if cfg.ClientSecret = strings.TrimSpace(string(text)); cfg.ClientSecret == "" {
			return nil, keyError(path, "client_secret_file", fmt.Errorf("%q is empty: it must contain the secret of the client", string(block.ClientSecretFile)))
		}
	}
	return identity.NewSignIn(issuer.Issuer, cfg), nil
}

func (g *Gateway) tokenIssuer(path string, o *config.OIDC, f *files) (*tokenIssuer, error) {
	roots, err := f.rootCAs(path, o.CAFile)
	if err != nil {
		return nil, err
	}
	p, err := f.proxy(path+".proxy", o.Proxy)
	if err != nil {
		return nil, err
	}
	transport := transportKey{roots, p}
	key := issuerKey{string(o.Issuer), string(o.JWKSURL), strings.Join(o.Audience, "\x00"), strings.Join(o.Algorithms, "\x00"), o.ClockSkew, transport}
	return f.issuers.get(key, func() (*tokenIssuer, error) {
		issuer := identity.NewIssuer(identity.IssuerConfig{
			URL: string(o.Issuer), JWKSURL: string(o.JWKSURL), Audiences: o.Audience, Algorithms: o.Algorithms, ClockSkew: o.ClockSkew,
			Client: f.tokenClient(transport), Logger: g.log,
		})
		ctx, cancel := context.WithCancel(context.Background())
		start := func() {
			g.background.start(func(all context.Context) error {
				defer context.AfterFunc(all, cancel)()
				return panics.Restart(ctx, g.log, "keys of token issuer "+string(o.Issuer), issuer.Run)
			})
		}
		return &tokenIssuer{issuer, sync.OnceFunc(start), cancel}, nil
	})
}

// issuerChecks returns a check for each issuer of tokens.
func issuerChecks(snap *snapshot) (checks []Check) {
	for n, issuer := range snap.issuers {
		key := fmt.Sprintf("auth.oidc[%d]", n)
		checks = append(checks, Check{Key: key, Verify: func(ctx context.Context) (string, error) {
			keys, err := issuer.Verify(ctx)
			if err != nil {
				return "", issuerProblem(key, fmt.Errorf("the keys of the issuer cannot be fetched: %w", err))
			}
			return fmt.Sprintf("%s publishes %d keys", snap.cfg.Auth.OIDC[n].Issuer, keys), nil
		}})
	}
	return checks
}

// signInChecks returns a check for each issuer at which people sign in. Deep ones ask the issuer about the
// client.
func signInChecks(snap *snapshot, deep bool) (checks []Check) {
	for n, signIn := range snap.signIns {
		if signIn == nil {
			continue
		}
		key := fmt.Sprintf("auth.oidc[%d]", n)
		checks = append(checks, Check{Key: key + ".sign_in", Verify: func(ctx context.Context) (found string, err error) {
			if deep {
				found, err = signIn.CheckClient(ctx)
			} else {
				found, err = "people sign in at "+signIn.Issuer()+"; its redirect URL is "+string(snap.cfg.Console.URL)+console.CallbackPath, signIn.Check(ctx)
			}
			if err != nil {
				return "", issuerProblem(key, err)
			}
			return found, nil
		}})
	}
	return checks
}

// issuerProblem returns a *Problem for a mistake in the block of an issuer that a check has recognized, or
// else err.
func issuerProblem(key string, err error) error {
	if mistake, ok := errors.AsType[*identity.CheckError](err); ok {
		return &Problem{key + "." + mistake.Key, mistake.Seen, mistake.Fix}
	}
	return err
}

// issuerStatuses returns the state of the issuers of tokens, for the metrics.
func (g *Gateway) issuerStatuses() (all []metrics.Issuer) {
	for _, issuer := range g.current.Load().issuers {
		s := issuer.Status()
		all = append(all, metrics.Issuer{URL: s.URL, FetchedAt: s.FetchedAt, Failures: s.Failures})
	}
	return all
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
