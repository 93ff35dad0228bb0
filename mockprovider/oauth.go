// SPDX-License-Identifier: Apache-2.0

package mockprovider

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"
)

// oauth plays Google's token endpoint: the service account flow of RFC 7523, with the errors of RFC 6749 5.2.
type oauth struct {
	account  *serviceAccount
	access   *accessTokens
	lifetime time.Duration
	clock    func(service string) time.Time
	url      func() string // the endpoint's own, which assertions may name as their audience
}

var _ service = (*oauth)(nil)

// audiences that an assertion may name besides the endpoint's own URL.
var audiences = []string{"https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token", "https://www.googleapis.com/oauth2/v4/token"}

// messagingScopes are the scopes that allow sending.
var messagingScopes = []string{"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}

const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// oauthError is a refusal in RFC 6749's words.
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
	status      int
}

func (o *oauth) find(*request) {}

func (o *oauth) judge(_ *peer, r *request) answer {
	if r.path != "/token" && r.path != "/o/oauth2/token" && r.path != "/oauth2/v4/token" {
		return answer{status: 404, reason: "NOT_FOUND"}
	}
	if r.method != "POST" {
		return answer{status: 405, reason: "METHOD_NOT_ALLOWED"}
	}
	form, err := url.ParseQuery(string(r.body))
	if err != nil || r.tooLong {
		return (&oauthError{Code: "invalid_request", Description: "Could not parse the form.", status: 400}).answer()
	}
	scope, refused := o.verify(form)
	if refused != nil {
		return refused.answer()
	}
	return o.grant(scope)
}

func (o *oauth) scripted(_ *request, f *Fault) answer {
	reply := (&oauthError{Code: or(f.Reason, oauthReasons[f.Status]), Description: "Scripted answer.", status: f.Status}).answer()
	reply.retryAfter(f.RetryAfter)
	return reply
}

var oauthReasons = map[int]string{
	400: "invalid_grant", 401: "invalid_client", 403: "access_denied", 429: "rate_limit_exceeded",
	500: "internal_failure", 502: "bad_gateway", 503: "backend_error",
}

// verify returns the scope that a good assertion asks for.
func (o *oauth) verify(form url.Values) (scope string, refused *oauthError) {
	switch grant := form.Get("grant_type"); {
	case grant == "":
		return "", &oauthError{Code: "invalid_request", Description: "Missing required parameter: grant_type", status: 400}
	case grant != jwtBearer:
		return "", &oauthError{Code: "unsupported_grant_type", Description: "Invalid grant_type: " + grant, status: 400}
	case form.Get("assertion") == "":
		return "", &oauthError{Code: "invalid_request", Description: "Missing required parameter: assertion", status: 400}
	}
	token, err := parseJWT(form.Get("assertion"))
	if err != nil {
		return "", invalidGrant("Bad Request")
	}
	if fault := o.distrust(token); fault != "" {
		return "", invalidGrant(fault)
	}
	if token.Claims.Scope == "" {
		return "", &oauthError{Code: "invalid_scope", Description: "Invalid OAuth scope or ID token audience provided.", status: 400}
	}
	return token.Claims.Scope, nil
}

func invalidGrant(text string) *oauthError {
	return &oauthError{Code: "invalid_grant", Description: text, status: 400}
}

// distrust says what is wrong with an assertion, or "".
func (o *oauth) distrust(t *jwt) string {
	issued, expires, now := time.Unix(int64(t.Claims.Iat), 0), time.Unix(int64(t.Claims.Exp), 0), o.clock(OAuth)
	switch {
	case t.Claims.Iss != o.account.email:
		return "Invalid grant: account not found"
	case t.Header.Kid != "" && t.Header.Kid != o.account.keyID, !t.signedRS256(&o.account.key.PublicKey):
		return "Invalid JWT Signature."
	case t.Claims.Aud != o.url() && !slices.Contains(audiences, t.Claims.Aud):
		return "Invalid JWT: Failed audience check."
	case expires.Sub(issued) > time.Hour, now.After(expires), issued.Sub(now) > clockSkew:
		return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
	}
	return ""
}

// grant mints an access token.
func (o *oauth) grant(scope string) answer {
	token := "ya29.c.mock-" + rand.Text()
	messaging := slices.ContainsFunc(strings.Fields(scope), func(s string) bool { return slices.Contains(messagingScopes, s) })
	o.access.add(token, accessToken{expires: time.Now().Add(o.lifetime), messaging: messaging})
	body, _ := json.Marshal(struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		TokenType   string `json:"token_type"`
	}{token, max(int(o.lifetime/time.Second)-1, 1), "Bearer"})
	return answer{status: 200, accepted: true, header: slices.Clone(jsonUTF8), body: body}
}

var jsonUTF8 = []hpack.HeaderField{field("content-type", "application/json; charset=UTF-8")}

func (e *oauthError) answer() answer {
	body, _ := json.Marshal(e)
	return answer{status: e.status, reason: e.Code, header: slices.Clone(jsonUTF8), body: body}
}

// serviceAccount is the one account that the token endpoint knows.
type serviceAccount struct {
	email, keyID string
	key          *rsa.PrivateKey
}

func newServiceAccount(project string) (*serviceAccount, error) {
	key, err := processRSAKey()
	return &serviceAccount{email: "sluice-mock@" + project + ".iam.gserviceaccount.com", keyID: strings.ToLower(rand.Text()), key: key}, err
}

// ServiceAccount is the JSON key file of the account that may send. Its token_uri is the mock's.
func (m *Mock) ServiceAccount() ([]byte, error) {
	key, err := pkcs8(m.id.account.key)
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(map[string]string{
		"type": "service_account", "project_id": m.cfg.ProjectID, "private_key_id": m.id.account.keyID,
		"private_key": string(key), "client_email": m.id.account.email, "client_id": "100000000000000000000",
		"token_uri": m.TokenURL(), "auth_uri": "https://accounts.google.com/o/oauth2/auth", "universe_domain": "googleapis.com",
	}, "", "  ")
}

// accessToken is what a grant allows.
type accessToken struct {
	expires   time.Time
	messaging bool
}

// accessTokens are all that were granted, and not swept since.
type accessTokens struct {
	mu    sync.RWMutex
	known map[string]accessToken
}

func newAccessTokens() *accessTokens { return &accessTokens{known: map[string]accessToken{}} }

// add remembers a token, and forgets those that ended over an hour ago.
func (a *accessTokens) add(token string, t accessToken) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for old, grant := range a.known {
		if time.Since(grant.expires) > time.Hour {
			delete(a.known, old)
		}
	}
	a.known[token] = t
}

func (a *accessTokens) lookUp(token string) (accessToken, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	t, ok := a.known[token]
	return t, ok
}

// ExpireAccessTokens makes FCM refuse every access token granted so far, as ACCESS_TOKEN_EXPIRED.
func (m *Mock) ExpireAccessTokens() {
	m.access.mu.Lock()
	defer m.access.mu.Unlock()
	for token, grant := range m.access.known {
		grant.expires = time.Now().Add(-time.Second)
		m.access.known[token] = grant
	}
}
