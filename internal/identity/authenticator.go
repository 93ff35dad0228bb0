// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Config configures an Authenticator.
type Config struct {
	// Apps are the names of all apps.
	Apps []string
	// Keys are the API keys.
	Keys []Key
	// Certificates are the client certificates that identify callers.
	Certificates []CertificateRule
	// Issuers are the issuers of tokens, each once.
	Issuers []IssuerRules
	// Previous is the authenticator that this one replaces. The limits of credentials that both have
	// continue. It may be nil.
	Previous *Authenticator
}

// Authenticator finds out who makes a request. It does not change, and is safe for concurrent use.
type Authenticator struct {
	apps         []string
	keys         keyring
	certificates []*certificate
	tokens       *tokens // nil without issuers
	counters     map[limitKey]*Limits
	previous     map[limitKey]*Limits // nil after New
}

var isAppName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`).MatchString

// limitKey identifies limits that continue after a change of the configuration.
type limitKey struct {
	kind, name string
	limit      Limit
}

// New returns an authenticator. Its error names the configuration key that is invalid.
func New(cfg Config) (*Authenticator, error) {
	a := &Authenticator{apps: cfg.Apps, keys: keyring{}, counters: map[limitKey]*Limits{}}
	if cfg.Previous != nil {
		a.previous = cfg.Previous.counters
	}
	for _, app := range cfg.Apps {
		if !isAppName(app) {
			return nil, fmt.Errorf("apps: a name must be 1 to 64 letters, digits, '.', '_' or '-', not %q", app)
		}
	}
	for _, key := range cfg.Keys {
		if err := a.add(key); err != nil {
			return nil, err
		}
	}
	for _, rule := range cfg.Certificates {
		a.addCertificate(rule)
	}
	a.addIssuers(cfg.Issuers)
	a.previous = nil
	return a, nil
}

// limits returns the counters of a credential: those of the previous authenticator, if it has them.
func (a *Authenticator) limits(limit Limit, kind, name string) *Limits {
	if limit == (Limit{}) {
		return nil
	}
	key := limitKey{kind, name, limit}
	for _, known := range []map[limitKey]*Limits{a.counters, a.previous} {
		if l := known[key]; l != nil {
			a.counters[key] = l
			return l
		}
	}
	a.counters[key] = newLimits(limit)
	return a.counters[key]
}

// grant adds scopes in apps to those of a caller. Admin is in all apps.
func (a *Authenticator) grant(c *Caller, apps []string, g grant) {
	if g.scopes&Admin != 0 {
		c.admin, apps = true, a.apps
	}
	for _, app := range apps {
		g := g
		g.scopes |= c.grants[app].scopes
		c.grants[app] = g
	}
}

// Refusal says why a request has no caller. It contains no part of the credential.
type Refusal struct {
	// Reason is a short word for metrics and the audit log, such as unknown_key.
	Reason string
	// Detail says what is wrong and what is allowed.
	Detail string
	// RetryAfter is set if the credential cannot be verified at present, and may be valid.
	RetryAfter time.Duration
}

// Authenticate returns who makes a request. A request with the header Authorization is that of the
// holder of the key or token in it; any other is that of the holder of the client certificate.
func (a *Authenticator) Authenticate(r *http.Request) (*Caller, *Refusal) {
	header := r.Header.Get("Authorization")
	if header == "" {
		if c := a.certificateOf(r); c != nil {
			return c, nil
		}
		return nil, &Refusal{Reason: "missing", Detail: mustBeKey}
	}
	scheme, credential, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, &Refusal{Reason: "invalid_header", Detail: mustBeKey}
	}
	credential = strings.TrimSpace(credential)
	var buf [128]byte // avoids an allocation
	sum := sha256.Sum256(append(buf[:0], credential...))
	if a.tokens != nil && looksLikeToken(credential) {
		found, refusal := a.token(r.Context(), credential, tokenKey{sum: sum})
		if refusal != nil {
			return nil, refusal
		}
		return found.caller, nil
	}
	return a.bearer(sum)
}

// mustBeKey is the detail of a request without a known API key.
const mustBeKey = "must be Bearer and an API key of this app (gateway key creates one; its hash goes into the configuration)"

// bearer returns the holder of the API key with this hash.
func (a *Authenticator) bearer(sum [sha256.Size]byte) (*Caller, *Refusal) {
	key := a.keys.find(sum)
	if key == nil {
		return nil, &Refusal{Reason: "unknown_key", Detail: mustBeKey}
	}
	if key.caller.Expired() {
		return nil, &Refusal{Reason: "expired_key", Detail: fmt.Sprintf("must be an API key that is valid: this one has expired on %s", key.caller.ExpiresAt.UTC().Format(time.RFC3339))}
	}
	if time.Now().Before(key.notBefore) {
		return nil, &Refusal{Reason: "early_key", Detail: fmt.Sprintf("must be an API key that is valid: this one is valid from %s", key.notBefore.UTC().Format(time.RFC3339))}
	}
	return key.caller, nil
}

// Renew returns the caller with the same credential as c, which another authenticator may have returned,
// or nil if the credential is not valid any more.
func (a *Authenticator) Renew(c *Caller) *Caller { return c.renew(a) }
