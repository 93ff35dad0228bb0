// SPDX-License-Identifier: Apache-2.0

// Package oauth mocks Google's OAuth2 token endpoint: the service account flow of RFC 7523, with the
// errors of RFC 6749, section 5.2.
package oauth

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/sluice-push/sluice/mockprovider/h2"
	"github.com/sluice-push/sluice/mockprovider/jwt"
	"github.com/sluice-push/sluice/mockprovider/script"
)

// Service is the token endpoint. It is safe for concurrent use.
type Service struct {
	account  *Account
	tokens   *Tokens
	lifetime time.Duration
	now      func() time.Time
	url      func() string
}

var (
	_ script.Service     = (*Service)(nil)
	_ script.TokenIssuer = (*Service)(nil)
)

// New returns a token endpoint that adds the access tokens it issues to tokens. lifetime is the
// lifetime of an access token; expires_in is one second less, as with Google. now is the clock of
// the service. url returns the URL of the endpoint, which assertions may have as their audience.
func New(account *Account, tokens *Tokens, lifetime time.Duration, now func() time.Time, url func() string) *Service {
	return &Service{account: account, tokens: tokens, lifetime: lifetime, now: now, url: url}
}

// audiences are the audiences that an assertion may have besides the URL of the endpoint.
var audiences = []string{
	"https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token", "https://www.googleapis.com/oauth2/v4/token",
}

// messagingScopes are the scopes that allow sending.
var messagingScopes = []string{"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}

const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"

// maxClockSkew is how far in the future an assertion may have been issued.
const maxClockSkew = 5 * time.Minute

// oauthError is an error response of RFC 6749.
type oauthError struct {
	Code        string `json:"error"`
	Description string `json:"error_description,omitempty"`
	status      int
}

// Find does nothing: a request for an access token has no device token.
func (s *Service) Find(*h2.Request) {}

// Respond responds to a request for an access token.
func (s *Service) Respond(r *h2.Request) h2.Response {
	if r.Path != "/token" && r.Path != "/o/oauth2/token" && r.Path != "/oauth2/v4/token" {
		return h2.Response{Status: 404, Reason: "NOT_FOUND"}
	}
	if r.Method != "POST" {
		return h2.Response{Status: 405, Reason: "METHOD_NOT_ALLOWED"}
	}
	form, err := url.ParseQuery(string(r.Body))
	if err != nil || r.TooLong {
		return (&oauthError{Code: "invalid_request", Description: "Could not parse the form.", status: 400}).response()
	}
	scope, oauthErr := s.verify(form)
	if oauthErr != nil {
		return oauthErr.response()
	}
	return s.issue(scope)
}

// RespondFault responds as the fault specifies.
func (s *Service) RespondFault(_ *h2.Request, f *script.Fault) h2.Response {
	e := oauthError{Code: cmp.Or(f.Reason, commonReasons[f.Status]), Description: "Scripted answer.", status: f.Status}
	resp := e.response()
	resp.AddRetryAfter(f.RetryAfter)
	return resp
}

// commonReasons holds the most common error code for each status.
var commonReasons = map[int]string{
	400: "invalid_grant", 401: "invalid_client", 403: "access_denied", 429: "rate_limit_exceeded",
	500: "internal_failure", 502: "bad_gateway", 503: "backend_error",
}

// verify checks the form and its assertion, and returns the requested scope.
func (s *Service) verify(form url.Values) (scope string, oauthErr *oauthError) {
	switch grant := form.Get("grant_type"); {
	case grant == "":
		return "", &oauthError{Code: "invalid_request", Description: "Missing required parameter: grant_type", status: 400}
	case grant != jwtBearer:
		return "", &oauthError{Code: "unsupported_grant_type", Description: "Invalid grant_type: " + grant, status: 400}
	case form.Get("assertion") == "":
		return "", &oauthError{Code: "invalid_request", Description: "Missing required parameter: assertion", status: 400}
	}
	token, err := jwt.Parse(form.Get("assertion"))
	if err != nil {
		return "", invalidGrant("Bad Request")
	}
	if text := s.checkAssertion(token); text != "" {
		return "", invalidGrant(text)
	}
	if token.Claims.Scope == "" {
		return "", &oauthError{Code: "invalid_scope", Description: "Invalid OAuth scope or ID token audience provided.", status: 400}
	}
	return token.Claims.Scope, nil
}

func invalidGrant(text string) *oauthError {
	return &oauthError{Code: "invalid_grant", Description: text, status: 400}
}

// checkAssertion returns Google's text for the first mistake in an assertion, or "".
func (s *Service) checkAssertion(t *jwt.Token) string {
	issued, expires, now := time.Unix(int64(t.Claims.Iat), 0), time.Unix(int64(t.Claims.Exp), 0), s.now()
	switch {
	case t.Claims.Iss != s.account.email:
		return "Invalid grant: account not found"
	case t.Header.Kid != "" && t.Header.Kid != s.account.keyID, !t.VerifyRS256(&s.account.key.PublicKey):
		return "Invalid JWT Signature."
	case t.Claims.Aud != s.url() && !slices.Contains(audiences, t.Claims.Aud):
		return "Invalid JWT: Failed audience check."
	case expires.Sub(issued) > time.Hour, now.After(expires), issued.Sub(now) > maxClockSkew:
		return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."
	}
	return ""
}

// IssueToken returns a new access token for the scope of a valid request, or a token that allows
// nothing.
func (s *Service) IssueToken(r *h2.Request) string {
	form, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return s.newToken("")
	}
	scope, _ := s.verify(form)
	return s.newToken(scope)
}

// newToken issues an access token.
func (s *Service) newToken(scope string) string {
	token := "ya29.c.mock-" + rand.Text()
	messaging := slices.ContainsFunc(strings.Fields(scope), func(s string) bool { return slices.Contains(messagingScopes, s) })
	s.tokens.add(token, accessToken{expires: time.Now().Add(s.lifetime), messaging: messaging})
	return token
}

// issue responds with a new access token.
func (s *Service) issue(scope string) h2.Response {
	token := s.newToken(scope)
	body, _ := json.Marshal(struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
		TokenType   string `json:"token_type"`
	}{token, max(int(s.lifetime/time.Second)-1, 1), "Bearer"})
	return h2.Response{Status: 200, Accepted: true, Header: slices.Clone(jsonUTF8), Body: body}
}

var jsonUTF8 = []hpack.HeaderField{h2.Field("content-type", "application/json; charset=UTF-8")}

func (e *oauthError) response() h2.Response {
	body, _ := json.Marshal(e)
	return h2.Response{Status: e.status, Reason: e.Code, Header: slices.Clone(jsonUTF8), Body: body}
}
