// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"time"
)

// Auth names callers that are not limited to one app, and ways to identify callers other than the API
// keys of the apps.
type Auth struct {
	// API keys that may act for several apps, or for the whole gateway.
	Keys []AuthKey `name:"keys"`
	// Client certificates that identify callers, if they send no key and no token. They need
	// tls.client_ca_file. The first entry that matches applies.
	Certificates []AuthCertificate `name:"certificates"`
	// OpenID Connect providers whose JSON Web Tokens identify callers.
	OIDC []OIDC `name:"oidc"`
}

// AuthKey is an API key that may act for several apps.
type AuthKey struct {
	// Name of the key in logs and metrics.
	Name string `name:"name" example:"platform-team" required:"true" allowed:"/^[A-Za-z0-9._-]{1,63}$/1 to 63 letters, digits, dots, dashes and underscores"`
	// SHA-256 of the key, as gateway key prints it. Never put the key itself here.
	Hash string `name:"hash" example:"sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752" required:"true" secret:"true" allowed:"/^sha256:[0-9a-f]{64}$/sha256: and 64 hex digits, as gateway key prints it"`
	// Apps that the key may act for; * is all of them. Required, except with the scope admin.
	Apps []string `name:"apps" example:"shop"`
	// What the key allows, as in apps.NAME.keys. admin allows everything in all apps, and reads the
	// status of all apps and the audit log.
	Scopes []string `name:"scopes" default:"send,read" allowed:"send|read|events|channels|broadcasts|approve|admin"`
	// As in apps.NAME.keys.
	NotBefore Time `name:"not_before"`
	// As in apps.NAME.keys.
	ExpiresAt Time `name:"expires_at"`
	// As in apps.NAME.keys.
	Rate Rate `name:"rate" example:"500/s"`
	// As in apps.NAME.keys.
	Concurrency int `name:"concurrency" example:"100" default:"0" allowed:"0..1000000"`
}

// AuthCertificate says what the holders of client certificates may do.
type AuthCertificate struct {
	// Name in the certificate: its first URI, or else its common name, or else its first DNS name. An
	// asterisk at the end matches any characters, such as spiffe://example.com/shop/*.
	Name string `name:"name" example:"spiffe://example.com/shop/*" required:"true" allowed:"/^[^*]+\\*?$/a name, with an asterisk at its end at most"`
	// Apps that the holders may act for; * is all of them. Required, except with the scope admin.
	Apps []string `name:"apps" example:"shop"`
	// As in auth.keys.
	Scopes []string `name:"scopes" default:"send,read" allowed:"send|read|events|channels|broadcasts|approve|admin"`
	// As in apps.NAME.keys, for all holders together.
	Rate Rate `name:"rate" example:"500/s"`
	// As in apps.NAME.keys, for all holders together.
	Concurrency int `name:"concurrency" example:"100" default:"0" allowed:"0..1000000"`
}

// OIDC is an issuer of JSON Web Tokens. The gateway fetches its public keys in the background; while the
// issuer does not respond, the known keys stay in use.
type OIDC struct {
	// The issuer, exactly as the claim iss of its tokens contains it.
	Issuer URL `name:"issuer" example:"https://login.example.com/realms/push" required:"true"`
	// Values of which the claim aud of a token must contain one. Required, except with sign_in: without
	// it, the API accepts no tokens of the issuer.
	Audience []string `name:"audience" example:"sluice"`
	// Where the issuer publishes its keys. Empty asks its discovery document,
	// ISSUER/.well-known/openid-configuration.
	JWKSURL URL `name:"jwks_url" example:"https://login.example.com/keys"`
	// Allowed signature algorithms.
	Algorithms []string `name:"algorithms" default:"RS256,ES256" allowed:"RS256|RS384|RS512|PS256|PS384|PS512|ES256|ES384|ES512|EdDSA"`
	// How much the clocks of the issuer and of the gateway may differ.
	ClockSkew time.Duration `name:"clock_skew" default:"30s" allowed:"0s..10m"`
	// Claim that names the caller in logs.
	NameClaim string `name:"name_claim" default:"sub" allowed:"/^.+$/the name of a claim"`
	// Sign-in of people in the console.
	SignIn *SignIn `name:"sign_in"`
	// What the holders of tokens may do. The first rule that matches a token applies.
	Rules []OIDCRule `name:"rules"`
	// Root certificates of the issuer to trust instead of those of the system, in PEM.
	CAFile File   `name:"ca_file" example:"login-ca.pem"`
	Proxy  *Proxy `name:"proxy"`
}

// SignIn lets people sign in to the console at an issuer, with the authorization code flow and PKCE. It needs
// console.url. The rules of the issuer decide what they may do, by the claims of the ID token.
type SignIn struct {
	// ID of the gateway as a client of the issuer. Register console.url followed by sign-in/callback as
	// its redirect URL, and console.url followed by sign-in for sign-outs.
	ClientID string `name:"client_id" example:"sluice-console" required:"true"`
	// Secret of the client, mode 0600. Not set for a public client.
	ClientSecretFile File `name:"client_secret_file" example:"sluice-console.secret"`
	// Scopes to request, in addition to openid.
	Scopes []string `name:"scopes" default:"profile,email"`
	// Name of the issuer on the sign-in page. Empty means the host of its URL.
	Name string `name:"name" example:"Example login"`
}

// OIDCRule says what the holders of some tokens of an issuer may do.
type OIDCRule struct {
	// Claim that must contain value, or a path with dots such as realm_access.roles. Empty matches every
	// token.
	Claim string `name:"claim" example:"groups"`
	// The value: the whole text of the claim, one of its words, or an element of its list.
	Value string `name:"value" example:"push-team"`
	// Apps that the holders may act for; * is all of them. Required, except with the scope admin.
	Apps []string `name:"apps" example:"shop"`
	// Claim with names of apps. The holders may act for those of apps that it contains.
	AppsClaim string `name:"apps_claim" example:"push_apps"`
	// What the holders may do, as in auth.keys.
	Scopes []string `name:"scopes" default:"send,read" allowed:"send|read|events|channels|broadcasts|approve|admin"`
	// Claim with scopes. The holders have those of scopes that it contains.
	ScopesClaim string `name:"scopes_claim" example:"scope"`
	// What stands before each scope in scopes_claim.
	ScopesPrefix string `name:"scopes_prefix" example:"sluice:"`
	// As in apps.NAME.keys, for all holders together.
	Rate Rate `name:"rate" example:"500/s"`
	// As in apps.NAME.keys, for all holders together.
	Concurrency int `name:"concurrency" example:"100" default:"0" allowed:"0..1000000"`
}

// AllApps stands for all apps in lists of apps.
const AllApps = "*"

// empty reports whether the block names no callers.
func (a *Auth) empty() bool { return len(a.Keys) == 0 && len(a.Certificates) == 0 && len(a.OIDC) == 0 }

func (d *decoder) validateAuth(cfg *Config) {
	a := &cfg.Auth
	for i, key := range a.Keys {
		path := fmt.Sprintf("auth.keys[%d]", i)
		for j, other := range a.Keys[:i] {
			if key.Name != "" && other.Name == key.Name {
				d.fail(path+".name", "%q is the name of keys[%d]: give each key its own", key.Name, j)
			}
			if key.Hash != "" && other.Hash == key.Hash {
				d.fail(path+".hash", "the same key as keys[%d]: make another with gateway key", j)
			}
		}
		d.validateGrant(cfg, path, key.Apps, key.Scopes)
		d.validateKeyTimes(path, key.NotBefore, key.ExpiresAt)
	}
	for i, c := range a.Certificates {
		path := fmt.Sprintf("auth.certificates[%d]", i)
		if cfg.TLS.ClientCAFile == "" {
			d.fail(path, "needs tls.client_ca_file, the authority of the certificates")
		}
		d.validateGrant(cfg, path, c.Apps, c.Scopes)
	}
}

func (d *decoder) validateOIDC(cfg *Config) {
	for i, o := range cfg.Auth.OIDC {
		path := fmt.Sprintf("auth.oidc[%d]", i)
		if slices.ContainsFunc(cfg.Auth.OIDC[:i], func(other OIDC) bool { return other.Issuer == o.Issuer && o.Issuer != "" }) {
			d.fail(path+".issuer", "is that of another block: put the rules into one")
		}
		switch {
		case len(o.Audience) == 0 && o.SignIn == nil:
			d.fail(path+".audience", "required: the values of which the claim aud of a token must contain one")
		case o.SignIn != nil && o.JWKSURL != "":
			d.fail(path+".sign_in", "needs the discovery document of the issuer: leave jwks_url out")
		case o.SignIn != nil && cfg.Console.URL == "":
			d.fail("console.url", "required by %s.sign_in: the URL of the console in browsers, such as https://push.example.com/console/", path)
		}
		if len(o.Algorithms) == 0 {
			d.fail(path+".algorithms", "must hold one at least")
		}
		if len(o.Rules) == 0 {
			d.fail(path+".rules", "required: without a rule its tokens allow nothing")
		}
		for j, r := range o.Rules {
			rule := fmt.Sprintf("%s.rules[%d]", path, j)
			if (r.Claim == "") != (r.Value == "") {
				d.fail(rule, "needs claim and value, or neither for every token")
			}
			if r.ScopesPrefix != "" && r.ScopesClaim == "" {
				d.fail(rule+".scopes_prefix", "needs scopes_claim")
			}
			d.validateGrant(cfg, rule, r.Apps, r.Scopes)
		}
	}
}

// validateGrant rejects unknown apps, and grants that allow nothing.
func (d *decoder) validateGrant(cfg *Config, path string, apps, scopes []string) {
	admin := slices.Contains(scopes, "admin")
	if len(scopes) == 0 {
		d.fail(path+".scopes", "must hold one at least: without a scope it allows nothing")
	}
	switch {
	case len(apps) == 0 && !admin:
		d.fail(path+".apps", `required: names of apps, or "*" for all`)
	case len(apps) > 0 && admin && !slices.Contains(apps, AllApps):
		d.fail(path+".apps", "does not limit the scope admin, which is for all apps: leave apps out")
	}
	for i, app := range apps {
		if app != AllApps && cfg.Apps[app] == nil {
			d.fail(fmt.Sprintf("%s.apps[%d]", path, i), "%q is not an app of this configuration", app)
		}
	}
}

func (d *decoder) validateKeyTimes(path string, notBefore, expiresAt Time) {
	if !notBefore.IsZero() && !expiresAt.IsZero() && !notBefore.Before(expiresAt.Time) {
		d.fail(path+".expires_at", "must be after not_before")
	}
}
