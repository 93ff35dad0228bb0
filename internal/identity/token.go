// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"

	lru "github.com/hashicorp/golang-lru/v2"
)

// IssuerRules says what the holders of an issuer's tokens may do.
type IssuerRules struct {
	Issuer *Issuer
	// NameClaim is the claim that names the caller.
	NameClaim string
	// Rules are tried in order. The first that matches applies. A token that none matches allows nothing.
	Rules []TokenRule
	// SignIn lets people sign in to the console at the issuer. nil does not.
	SignIn *SignIn
}

// TokenRule says what the holders of some tokens may do.
type TokenRule struct {
	// Claim must contain Value. A rule without a claim matches all tokens.
	Claim, Value string
	// Apps are the apps that the holder may act for: with AppsClaim, only those that it contains too.
	Apps      []string
	AppsClaim string
	// Scopes are the permissions in these apps: with ScopesClaim, only those that it contains too, each
	// after ScopesPrefix.
	Scopes                    Scopes
	ScopesClaim, ScopesPrefix string
	// Limit limits all holders together.
	Limit Limit
}

// maxToken is the maximum length of a token. The header of a request cannot be much longer.
const maxToken = 14 << 10

// cachedTokens is how many verified tokens an authenticator keeps. A verification takes up to 0.1 ms.
const cachedTokens = 8192

// tokens finds the callers of tokens.
type tokens struct {
	issuers map[string]*issuerRules // by URL
	cache   *lru.Cache[tokenKey, *cachedToken]
	signIns []*SignIn // in the order of the configuration
}

// tokenKey identifies a verified token. The ID token of a sign-in has another audience than a token for
// the API, so that neither can be used as the other.
type tokenKey struct {
	sum    [sha256.Size]byte
	signIn bool
}

type issuerRules struct {
	IssuerRules
	limits []*Limits // of the rules
}

// cachedToken is a verified token and its caller.
type cachedToken struct {
	*verified
	caller *Caller
}

func (a *Authenticator) addIssuers(rules []IssuerRules) {
	if len(rules) == 0 {
		return
	}
	cache, _ := lru.New[tokenKey, *cachedToken](cachedTokens) // fails only without a size
	a.tokens = &tokens{issuers: map[string]*issuerRules{}, cache: cache}
	for _, r := range rules {
		added := &issuerRules{IssuerRules: r}
		for n, rule := range r.Rules {
			added.limits = append(added.limits, a.limits(rule.Limit, "token", fmt.Sprint(r.Issuer.cfg.URL, " ", n)))
		}
		a.tokens.issuers[r.Issuer.cfg.URL] = added
		if r.SignIn != nil {
			a.tokens.signIns = append(a.tokens.signIns, r.SignIn)
		}
	}
}

// looksLikeToken reports whether a credential is a JSON Web Token rather than an API key.
func looksLikeToken(credential string) bool {
	return strings.HasPrefix(credential, "eyJ") && strings.Count(credential, ".") == 2
}

// token returns a verified token and its holder.
func (a *Authenticator) token(ctx context.Context, token string, key tokenKey) (*cachedToken, *Refusal) {
	if known, ok := a.tokens.cache.Get(key); ok && known.keys == known.rules.Issuer.keys.Load() {
		if refusal := known.check(); refusal != nil {
			return nil, refusal
		}
		return known, nil
	}
	if len(token) > maxToken {
		return nil, &Refusal{Reason: "invalid_token", Detail: fmt.Sprintf("the token must have at most %d bytes", maxToken)}
	}
	rules := a.tokens.issuers[unverifiedIssuer(token)]
	if rules == nil || key.signIn && rules.SignIn == nil {
		return nil, &Refusal{Reason: "unknown_issuer", Detail: "the token is not of an issuer that the configuration of the gateway lists (auth.oidc)"}
	}
	v, refusal := rules.Issuer.verify(ctx, token)
	if refusal != nil {
		return nil, refusal
	}
	v.rules, v.signIn = rules, key.signIn
	if refusal := v.check(); refusal != nil {
		return nil, refusal
	}
	c, refusal := a.tokenCaller(v)
	if refusal != nil {
		return nil, refusal
	}
	found := &cachedToken{v, c}
	a.tokens.cache.Add(key, found)
	return found, nil
}

// unverifiedIssuer returns the claim iss of a token, whose signature is not verified.
func unverifiedIssuer(token string) string {
	parts := strings.Split(token, ".")
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Issuer string `json:"iss"`
	}
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return ""
	}
	return claims.Issuer
}

// tokenCaller returns the caller with a verified token.
func (a *Authenticator) tokenCaller(v *verified) (*Caller, *Refusal) {
	rules, name := v.rules, ""
	if values := claimValues(v.claims, rules.NameClaim); len(values) > 0 {
		name = values[0]
	}
	if name == "" {
		return nil, &Refusal{Reason: "unnamed_token", Detail: fmt.Sprintf("the token must have the claim %s, which names the caller", rules.NameClaim)}
	}
	c := &Caller{Name: printable(name), Kind: Token, ExpiresAt: v.expiresAt, grants: map[string]grant{}}
	c.renew = func(next *Authenticator) *Caller {
		if next.tokens == nil {
			return nil
		}
		renewed := *v
		renewed.rules = next.tokens.issuers[rules.Issuer.cfg.URL]
		if renewed.rules == nil || v.signIn && renewed.rules.SignIn == nil || renewed.check() != nil {
			return nil
		}
		c, _ := next.tokenCaller(&renewed)
		return c
	}
	for n, rule := range rules.Rules {
		if rule.Claim == "" || slices.Contains(claimValues(v.claims, rule.Claim), rule.Value) {
			c.Limits = rules.limits[n]
			a.grant(c, rule.apps(v.claims), grant{scopes: rule.scopes(v.claims)})
			break
		}
	}
	return c, nil
}

func (r *TokenRule) apps(claims map[string]any) []string {
	if r.AppsClaim == "" {
		return r.Apps
	}
	named := claimValues(claims, r.AppsClaim)
	return slices.DeleteFunc(slices.Clone(r.Apps), func(app string) bool { return !slices.Contains(named, app) })
}

func (r *TokenRule) scopes(claims map[string]any) (s Scopes) {
	if r.ScopesClaim == "" {
		return r.Scopes
	}
	for _, value := range claimValues(claims, r.ScopesClaim) {
		if name, ok := strings.CutPrefix(value, r.ScopesPrefix); ok {
			if scope, err := ParseScopes([]string{name}); err == nil && (scope&Admin == 0 || r.Scopes&Admin != 0) {
				s |= scope // admin includes the others only if the rule allows it
			}
		}
	}
	return s & r.Scopes
}

// claimValues returns the values of a claim: the elements of a list, or a text and its words. name is the
// name of a claim, or a path with dots, such as realm_access.roles.
func claimValues(claims map[string]any, name string) (values []string) {
	value, ok := claims[name]
	for outer, rest, more := strings.Cut(name, "."); !ok && more; outer, rest, more = strings.Cut(rest, ".") {
		if claims, ok = claims[outer].(map[string]any); !ok {
			return nil
		}
		value, ok = claims[rest]
	}
	switch value := value.(type) {
	case nil, map[string]any:
	case []any:
		for _, v := range value {
			values = append(values, fmt.Sprint(v))
		}
	case string:
		if values = []string{value}; strings.Contains(value, " ") {
			values = append(values, strings.Fields(value)...)
		}
	default:
		values = []string{fmt.Sprint(value)}
	}
	return values
}

// printable returns a name without characters that confuse the readers of a log, and of limited length.
func printable(name string) string {
	return truncate(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, name), 128)
}

func truncate(s string, maxLen int) string {
	if len(s) > maxLen {
		return strings.ToValidUTF8(s[:maxLen], "") + "…"
	}
	return s
}

func joinWords(words []string) string { return strings.Join(words, " or ") }
