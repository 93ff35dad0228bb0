// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// SignInConfig configures how people sign in to the console at an issuer: with the authorization code
// flow of OpenID Connect and PKCE (RFC 7636).
type SignInConfig struct {
	// Name is that of the issuer for people. Empty means the host of its URL.
	Name string
	// ClientID and ClientSecret identify the gateway at the issuer. The secret of a public client is
	// empty.
	ClientID, ClientSecret string
	// RedirectURL is where the issuer sends the browser after a sign-in, and SignedOutURL after a
	// sign-out.
	RedirectURL, SignedOutURL string
	// Scopes are requested in addition to openid.
	Scopes []string
}

// SignIn lets people sign in at an issuer. It does not change, and is safe for concurrent use.
type SignIn struct {
	issuer *Issuer
	cfg    SignInConfig
}

// NewSignIn returns what lets people sign in at an issuer. It requests nothing.
func NewSignIn(issuer *Issuer, cfg SignInConfig) *SignIn {
	cfg.Scopes = append([]string{oidc.ScopeOpenID}, slices.DeleteFunc(slices.Clone(cfg.Scopes), func(s string) bool { return s == oidc.ScopeOpenID })...)
	if u, err := url.Parse(issuer.cfg.URL); err == nil {
		cfg.Name = cmp.Or(cfg.Name, u.Host)
	}
	return &SignIn{issuer, cfg}
}

// Issuer returns the URL of the issuer.
func (s *SignIn) Issuer() string { return s.issuer.cfg.URL }

// Name returns the name of the issuer for people.
func (s *SignIn) Name() string { return s.cfg.Name }

// Attempt is a sign-in that has begun. The browser keeps it: another gateway can finish it. Whoever knows
// it can do so only with the code that the issuer gives to the same browser.
type Attempt struct {
	Issuer, State, Nonce, Verifier string
}

// Begin returns a new attempt, and the URL at the issuer where it continues.
func (s *SignIn) Begin(ctx context.Context) (address string, attempt Attempt, refusal *Refusal) {
	found := s.issuer.document.Load()
	if found == nil {
		s.issuer.waitForRefresh(ctx)
		found = s.issuer.document.Load()
	}
	if found == nil {
		return "", attempt, &unavailable
	}
	if !isHTTPS(found.endpoint.AuthURL) || !isHTTPS(found.endpoint.TokenURL) {
		return "", attempt, &Refusal{Reason: "client_refused", Detail: errNoEndpoints.Error()}
	}
	attempt = Attempt{s.Issuer(), rand.Text(), rand.Text(), oauth2.GenerateVerifier()}
	return s.client(found).AuthCodeURL(attempt.State, oidc.Nonce(attempt.Nonce), oauth2.S256ChallengeOption(attempt.Verifier)), attempt, nil
}

var errNoEndpoints = errors.New("discovery: authorization_endpoint or token_endpoint is not an https URL")

// client returns the gateway as a client of the issuer.
func (s *SignIn) client(found *document) *oauth2.Config {
	endpoint := found.endpoint
	// RFC 8414 §2: client_secret_basic is the default. A public client has no secret for a header.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if s.cfg.ClientSecret == "" || len(found.AuthMethods) > 0 && !slices.Contains(found.AuthMethods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{ClientID: s.cfg.ClientID, ClientSecret: s.cfg.ClientSecret, Endpoint: endpoint, RedirectURL: s.cfg.RedirectURL, Scopes: s.cfg.Scopes}
}

// Finish returns the ID token of an attempt. response are the parameters with which the issuer has sent the
// browser back.
func (s *SignIn) Finish(ctx context.Context, attempt Attempt, response url.Values) (token string, refusal *Refusal) {
	found := s.issuer.document.Load()
	if state := response.Get("state"); state == "" || subtle.ConstantTimeCompare([]byte(state), []byte(attempt.State)) != 1 {
		return "", &Refusal{Reason: "expired_sign_in", Detail: "the parameter state is not that of the attempt"}
	}
	if found == nil { // the gateway has started meanwhile
		s.issuer.waitForRefresh(ctx)
		if found = s.issuer.document.Load(); found == nil {
			return "", &unavailable
		}
	}
	if iss := response.Get("iss"); iss != s.Issuer() && (iss != "" || found.IssParameter) { // RFC 9207 §2.4
		return "", &Refusal{Reason: "wrong_issuer", Detail: "the response is of another issuer, or does not say of which"}
	}
	if code := response.Get("error"); code != "" {
		return "", responseRefusal(code, response.Get("error_description"))
	}
	ctx, cancel := context.WithTimeout(oidc.ClientContext(ctx, s.issuer.client), fetchTimeout)
	defer cancel()
	answer, err := s.client(found).Exchange(ctx, response.Get("code"), oauth2.VerifierOption(attempt.Verifier))
	if err != nil {
		return "", exchangeRefusal(err)
	}
	if token, _ = answer.Extra("id_token").(string); token == "" {
		return "", &Refusal{Reason: "invalid_token", Detail: "the response of the token endpoint has no id_token"}
	}
	v, refusal := s.issuer.verify(ctx, token)
	if refusal != nil {
		return "", refusal
	}
	if nonce, _ := v.claims["nonce"].(string); subtle.ConstantTimeCompare([]byte(nonce), []byte(attempt.Nonce)) != 1 {
		return "", &Refusal{Reason: "expired_sign_in", Detail: "the claim nonce is not that of the attempt"}
	}
	return token, nil
}

// responseRefusal returns the refusal for an error code of the issuer (RFC 6749 §4.1.2.1 and §5.2, OpenID
// Connect Core §3.1.2.6). Its description is for the log only: it comes from the browser.
func responseRefusal(code, description string) *Refusal {
	refusal := &Refusal{Reason: "provider_error", Detail: printable(code)}
	if description != "" {
		refusal.Detail += ": " + printable(description)
	}
	switch code {
	case "access_denied", "interaction_required", "login_required", "account_selection_required", "consent_required":
		refusal.Reason = "access_denied"
	case "temporarily_unavailable", "server_error":
		refusal.Reason = "issuer_unavailable"
	case "invalid_grant":
		refusal.Reason = "expired_sign_in"
	case "invalid_client", "unauthorized_client", "invalid_request", "invalid_scope", "unsupported_response_type", "unsupported_grant_type":
		refusal.Reason = "client_refused"
	}
	return refusal
}

func exchangeRefusal(err error) *Refusal {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case !ok:
		return &Refusal{Reason: "issuer_unavailable", Detail: "token endpoint: " + printable(err.Error())}
	case refused.ErrorCode != "":
		return responseRefusal(refused.ErrorCode, refused.ErrorDescription)
	case refused.Response.StatusCode >= 500:
		return responseRefusal("server_error", "")
	}
	return &Refusal{Reason: "provider_error", Detail: fmt.Sprintf("the token endpoint responded %d", refused.Response.StatusCode)}
}

// SignOutURL returns where a browser signs out at the issuer (OpenID Connect RP-Initiated Logout), or "" if
// the issuer has no such URL. It contains no token.
func (s *SignIn) SignOutURL() string {
	found := s.issuer.document.Load()
	if found == nil || !isHTTPS(found.EndSession) {
		return ""
	}
	u, _ := url.Parse(found.EndSession) // isHTTPS has parsed it
	query := u.Query()
	query.Set("client_id", s.cfg.ClientID)
	query.Set("post_logout_redirect_uri", s.cfg.SignedOutURL)
	u.RawQuery = query.Encode()
	return u.String()
}

// SignIns returns the issuers at which people can sign in, in the order of the configuration.
func (a *Authenticator) SignIns() []*SignIn {
	if a.tokens == nil {
		return nil
	}
	return a.tokens.signIns
}

// SignIn returns how people sign in at an issuer, or nil.
func (a *Authenticator) SignIn(issuer string) *SignIn {
	for _, s := range a.SignIns() {
		if s.Issuer() == issuer {
			return s
		}
	}
	return nil
}

// SignedIn returns the holder of the ID token of a sign-in, and when the sign-in ends: lifetime after the
// token was issued, or when it expires.
func (a *Authenticator) SignedIn(ctx context.Context, token string, lifetime time.Duration) (caller *Caller, ends time.Time, refusal *Refusal) {
	if a.tokens == nil || !looksLikeToken(token) {
		return nil, ends, &Refusal{Reason: "invalid_token", Detail: "not the ID token of an issuer"}
	}
	found, refusal := a.token(ctx, token, tokenKey{sha256.Sum256([]byte(token)), true})
	if refusal != nil {
		return nil, ends, refusal
	}
	if ends = found.issuedAt.Add(lifetime); found.expiresAt.Before(ends) {
		ends = found.expiresAt
	}
	if !time.Now().Before(ends) {
		return nil, ends, &Refusal{Reason: "expired_token", Detail: "the sign-in has ended"}
	}
	if !found.caller.IsAdmin() && len(found.caller.Apps(all)) == 0 {
		return nil, ends, &Refusal{Reason: "no_access", Detail: "no rule of auth.oidc matches the token, or the rule grants nothing; the token has the claims " +
			truncate(printable(strings.Join(slices.Sorted(maps.Keys(found.claims)), " ")), 300)}
	}
	return found.caller, ends, nil
}

// SignInFor returns how the holder of an ID token has signed in, or nil. It does not verify the token.
func (a *Authenticator) SignInFor(token string) *SignIn {
	if !looksLikeToken(token) {
		return nil
	}
	return a.SignIn(unverifiedIssuer(token))
}

// maxRedirects is how many redirects a check follows.
const maxRedirects = 5

// CheckError is a mistake in the configuration of an issuer or of the sign-in at it.
type CheckError struct {
	// Key is the key to change, relative to the block of the issuer, such as sign_in.client_id.
	Key string
	// Seen is the response of the issuer, and Fix what to do.
	Seen, Fix string
}

// Error implements error.
func (e *CheckError) Error() string { return e.Seen + " (" + e.Fix + ")" }

// Check reports whether the discovery document has what a sign-in needs.
func (s *SignIn) Check(ctx context.Context) error {
	_, err := s.discover(ctx)
	return err
}

// discover fetches the discovery document, which must have what a sign-in needs.
func (s *SignIn) discover(ctx context.Context) (*document, error) {
	found, err := s.issuer.discover(ctx)
	if err == nil && (!isHTTPS(found.endpoint.AuthURL) || !isHTTPS(found.endpoint.TokenURL)) {
		err = errNoEndpoints
	}
	return found, err
}

// CheckClient asks the issuer whether it accepts the client, its redirect URL, its scopes and its secret.
// Nobody signs in: the first request forbids any interaction, and the second has a code that cannot be
// valid. The error can be a *CheckError.
func (s *SignIn) CheckClient(ctx context.Context) (result string, err error) {
	found, err := s.discover(ctx)
	if err != nil {
		return "", err
	}
	client, verifier := s.client(found), oauth2.GenerateVerifier()
	response, err := s.authorize(ctx, client.AuthCodeURL(rand.Text(), oidc.Nonce(rand.Text()), oauth2.S256ChallengeOption(verifier), oauth2.SetAuthURLParam("prompt", "none")))
	if err != nil {
		return "", err
	}
	if code := response.Get("error"); responseRefusal(code, "").Reason != "access_denied" && code != "" {
		return "", &CheckError{"sign_in.scopes", "the authorization endpoint responds " + responseRefusal(code, response.Get("error_description")).Detail,
			"allow the authorization code flow and the scopes for the client at the issuer, or change scopes"}
	}
	ctx = oidc.ClientContext(ctx, s.issuer.client)
	_, err = client.Exchange(ctx, "sluice-check", oauth2.VerifierOption(verifier))
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	switch {
	case err != nil && !ok:
		return "", err
	case ok && (refused.ErrorCode == "invalid_client" || refused.ErrorCode == "unauthorized_client"):
		return "", &CheckError{"sign_in.client_secret_file", "the token endpoint responds " + responseRefusal(refused.ErrorCode, refused.ErrorDescription).Detail,
			"put the secret of the client into client_secret_file; for a public client, leave the key out and make the client public at the issuer"}
	case ok && refused.ErrorCode == "invalid_grant":
		return fmt.Sprintf("%s accepts the client %s and its redirect URL", s.Issuer(), s.cfg.ClientID), nil
	}
	return fmt.Sprintf("%s accepts the redirect URL of the client %s; its secret cannot be verified", s.Issuer(), s.cfg.ClientID), nil
}

// authorize returns the parameters with which the authorization endpoint redirects to the redirect URL.
func (s *SignIn) authorize(ctx context.Context, address string) (url.Values, error) {
	client := *s.issuer.client
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if s.isRedirectURL(r.URL) {
			return http.ErrUseLastResponse
		}
		if len(via) > maxRedirects {
			return errors.New("redirected too often")
		}
		return s.issuer.client.CheckRedirect(r, via)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(r)
	if err != nil {
		// The error of the client contains the URL of the request, which is long.
		if failed, ok := errors.AsType[*url.Error](err); ok {
			err = failed.Err
		}
		return nil, fmt.Errorf("authorization endpoint: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // nothing is written
	if to, err := response.Location(); err == nil && s.isRedirectURL(to) {
		return to.Query(), nil
	}
	return nil, &CheckError{"sign_in.client_id", fmt.Sprintf("the authorization endpoint responds %d and does not redirect to %s", response.StatusCode, s.cfg.RedirectURL),
		"check client_id, and register this redirect URL for the client at the issuer; console.url is its first part"}
}

func (s *SignIn) isRedirectURL(u *url.URL) bool {
	bare := *u
	bare.RawQuery, bare.Fragment = "", ""
	return bare.String() == s.cfg.RedirectURL
}
