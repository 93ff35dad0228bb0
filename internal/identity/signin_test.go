// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-push/sluice/internal/identity"
	"github.com/sluice-push/sluice/internal/identity/identitytest"
	"github.com/sluice-push/sluice/internal/testwait"
)

const redirectURL = "https://push.example.com/console/sign-in/callback"

// signInEnv is a provider over TLS, and the gateway as its client.
type signInEnv struct {
	*testing.T
	*identitytest.Provider
	auth *identity.Authenticator
}

func newSignInEnv(t *testing.T, change func(*identity.IssuerConfig, *identity.SignInConfig)) *signInEnv {
	t.Helper()
	e := &signInEnv{T: t, Provider: identitytest.Start(t)}
	e.RedirectURL, e.SignedOutURL, e.ClientSecret = redirectURL, "https://push.example.com/console/sign-in", "s3cret&:%"
	client := e.Client()
	t.Cleanup(client.CloseIdleConnections)
	cfg := identity.SignInConfig{ClientID: e.ClientID, ClientSecret: e.ClientSecret, RedirectURL: redirectURL, SignedOutURL: e.SignedOutURL, Scopes: []string{"email", "openid"}}
	issuer := issuerOf(e.Provider, client, func(i *identity.IssuerConfig) {
		i.Audiences = nil
		if change != nil {
			change(i, &cfg)
		}
	})
	start(t, issuer)
	e.auth = newAuth(t, identity.Config{Apps: []string{"bank", "shop"}, Issuers: []identity.IssuerRules{{
		Issuer: issuer, NameClaim: "sub", Rules: []identity.TokenRule{{Claim: "groups", Value: "push", Apps: []string{"shop"}, Scopes: identity.Read}}, SignIn: identity.NewSignIn(issuer, cfg),
	}}})
	return e
}

// begin begins an attempt when the discovery document is known.
func (e *signInEnv) begin() (address string, attempt identity.Attempt) {
	e.Helper()
	testwait.Until(e, func() bool {
		var refusal *identity.Refusal
		address, attempt, refusal = e.auth.SignIns()[0].Begin(e.Context())
		return refusal == nil
	}, "the issuer is known")
	return address, attempt
}

// login signs in at the provider as a browser does, and returns the parameters of its response.
func (e *signInEnv) login(address, user string) url.Values {
	e.Helper()
	client := *e.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	response, err := client.PostForm(address, url.Values{"user": {user}})
	if err != nil {
		e.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	to, err := response.Location()
	if err != nil || !strings.HasPrefix(to.String(), redirectURL) {
		e.Fatalf("%d %v %v", response.StatusCode, to, err)
	}
	return to.Query()
}

// TestSignIn signs in with each way to identify the client. The ID token is for the console only.
func TestSignIn(t *testing.T) {
	for name, c := range map[string]struct {
		secret  string
		methods []string
	}{
		"basic": {"s3cret&:%", nil}, "post": {"s3cret", []string{"client_secret_post"}}, "public": {"", []string{"client_secret_basic"}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSignInEnv(t, func(_ *identity.IssuerConfig, s *identity.SignInConfig) { s.ClientSecret = c.secret })
			e.Set(func(p *identitytest.Provider) {
				p.ClientSecret, p.Document = c.secret, map[string]any{"token_endpoint_auth_methods_supported": c.methods}
				if c.methods == nil {
					p.Document["token_endpoint_auth_methods_supported"] = nil
				}
			})
			s := e.auth.SignIns()[0]
			address, attempt := e.begin()
			if u, err := url.Parse(address); err != nil || u.Query().Get("scope") != "openid email" || strings.Contains(address, attempt.Verifier) || u.Query().Get("client_secret") != "" {
				t.Error(address, err)
			}
			response := e.login(address, "ada")
			token, refusal := s.Finish(t.Context(), attempt, response)
			if refusal != nil {
				t.Fatalf("%+v", refusal)
			}
			caller, ends, refusal := e.auth.SignedIn(t.Context(), token, time.Minute)
			if refusal != nil || caller.Name != "ada" || caller.Kind != identity.Token || caller.Scopes("shop") != identity.Read || caller.Scopes("bank") != 0 || time.Until(ends) > time.Minute {
				t.Errorf("%+v %v %+v", caller, ends, refusal)
			}
			if again, ends, _ := e.auth.SignedIn(t.Context(), token, 10*time.Hour); again != caller || time.Until(ends) < 59*time.Minute || time.Until(ends) > 61*time.Minute {
				t.Error(again, ends)
			}
			if renewed := e.auth.Renew(caller); renewed == nil || renewed.Name != "ada" {
				t.Error("not renewed")
			}
			wantRefusal(t, e.auth, request(token), "wrong_audience")
			if s.Name() != strings.TrimPrefix(e.URL, "https://") || e.auth.SignInFor(token) != s || e.auth.SignInFor("x") != nil {
				t.Error(s.Name())
			}
			if u, err := url.Parse(s.SignOutURL()); err != nil || !strings.HasPrefix(u.String(), e.URL+"/logout?") || u.Query().Get("post_logout_redirect_uri") != e.SignedOutURL {
				t.Error(u, err)
			}
			// The code cannot be used twice.
			if _, refusal := s.Finish(t.Context(), attempt, response); refusal == nil || refusal.Reason != "expired_sign_in" {
				t.Errorf("%+v", refusal)
			}
		})
	}
}

func TestTokenForTheAPIIsNoSignIn(t *testing.T) {
	e := newSignInEnv(t, func(i *identity.IssuerConfig, _ *identity.SignInConfig) { i.Audiences = []string{"sluice"} })
	e.begin()
	claims := map[string]any{"groups": "push"}
	token := e.Keys[0].Sign(t, e.APIClaims(claims))
	wantCaller(t, e.auth, request(token))
	if _, _, refusal := e.auth.SignedIn(t.Context(), token, time.Hour); refusal == nil || refusal.Reason != "wrong_audience" {
		t.Errorf("%+v", refusal)
	}
	without := newAuth(t, identity.Config{})
	if _, _, refusal := without.SignedIn(t.Context(), token, time.Hour); refusal == nil || without.SignIns() != nil {
		t.Error(refusal)
	}
}

// TestRefusedSignIns changes one thing in the response of the provider or of the browser.
func TestRefusedSignIns(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		reason   string
		provider func(*identitytest.Provider)
		attempt  func(*identity.Attempt)
		response url.Values
		user     string
	}{
		"denied":                {reason: "access_denied", user: "eve"},
		"error":                 {reason: "client_refused", provider: func(p *identitytest.Provider) { p.AuthorizeError = "unauthorized_client" }},
		"unknown error":         {reason: "provider_error", provider: func(p *identitytest.Provider) { p.AuthorizeError = "<script>" }},
		"overload":              {reason: "issuer_unavailable", provider: func(p *identitytest.Provider) { p.AuthorizeError = "temporarily_unavailable" }},
		"no state":              {reason: "expired_sign_in", response: url.Values{"state": {""}}},
		"other state":           {reason: "expired_sign_in", response: url.Values{"state": {"x"}}},
		"no attempt":            {reason: "expired_sign_in", attempt: func(a *identity.Attempt) { *a = identity.Attempt{} }},
		"other issuer":          {reason: "wrong_issuer", response: url.Values{"iss": {"https://evil.example.com"}}},
		"no issuer":             {reason: "wrong_issuer", response: url.Values{"iss": {""}}},
		"other verifier":        {reason: "expired_sign_in", attempt: func(a *identity.Attempt) { a.Verifier = strings.Repeat("x", 43) }},
		"other nonce":           {reason: "expired_sign_in", attempt: func(a *identity.Attempt) { a.Nonce = "x" }},
		"no nonce":              {reason: "expired_sign_in", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"nonce": nil} }},
		"no code":               {reason: "expired_sign_in", response: url.Values{"code": {""}}},
		"secret":                {reason: "client_refused", provider: func(p *identitytest.Provider) { p.ClientSecret = "other" }},
		"token error":           {reason: "provider_error", provider: func(p *identitytest.Provider) { p.TokenError = "weird" }},
		"expired":               {reason: "expired_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"exp": now.Add(-time.Minute).Unix()} }},
		"old":                   {reason: "expired_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"iat": now.Add(-2 * time.Hour).Unix()} }},
		"without time":          {reason: "expired_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"iat": nil} }},
		"issued later":          {reason: "early_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"iat": now.Add(5 * time.Minute).Unix()} }},
		"valid later":           {reason: "early_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"nbf": now.Add(5 * time.Minute).Unix()} }},
		"other application":     {reason: "wrong_audience", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"aud": "mail"} }},
		"without name":          {reason: "unnamed_token", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"sub": nil} }},
		"without group":         {reason: "no_access", provider: func(p *identitytest.Provider) { p.Claims = map[string]any{"groups": nil} }},
		"key not published":     {reason: "unknown_signing_key", provider: func(p *identitytest.Provider) { p.Keys[0].ID = "2"; p.Keys = append(p.Keys, identitytest.RSAKey("1")) }},
		"provider stops":        {reason: "issuer_unavailable", provider: func(p *identitytest.Provider) { p.Down = true }},
		"no ID token":           {reason: "invalid_token", provider: func(p *identitytest.Provider) { p.NoIDToken = true }},
		"algorithm not allowed": {reason: "invalid_token", provider: func(p *identitytest.Provider) { p.Keys = []*identitytest.Key{identitytest.RSAKey("r1")} }},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSignInEnv(t, func(i *identity.IssuerConfig, _ *identity.SignInConfig) { i.Algorithms = []string{"ES256"} })
			address, attempt := e.begin()
			if c.provider != nil && name != "provider stops" {
				e.Set(c.provider)
			}
			user := "ada"
			if c.user != "" {
				user = c.user
			}
			response := e.login(address, user)
			if name == "provider stops" {
				e.Set(c.provider)
			}
			maps.Copy(response, c.response)
			if c.attempt != nil {
				c.attempt(&attempt)
			}
			token, refusal := e.auth.SignIns()[0].Finish(t.Context(), attempt, response)
			if refusal == nil {
				_, _, refusal = e.auth.SignedIn(t.Context(), token, time.Hour)
			}
			if refusal == nil || refusal.Reason != c.reason || strings.Contains(refusal.Detail, "eyJ") || strings.Contains(refusal.Detail, "s3cret") {
				t.Errorf("%+v, want %s", refusal, c.reason)
			}
		})
	}
}

func TestSignInNeedsKnownIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &identitytest.Provider{URL: "https://login.example.com", Down: true}
		issuer := issuerOf(p, nil)
		start(t, issuer)
		s := identity.NewSignIn(issuer, identity.SignInConfig{})
		if address, _, refusal := s.Begin(t.Context()); refusal == nil || refusal.Reason != "issuer_unavailable" || address != "" || s.SignOutURL() != "" {
			t.Errorf("%s %+v", address, refusal)
		}
		if _, refusal := s.Finish(t.Context(), identity.Attempt{State: "1"}, url.Values{"state": {"1"}}); refusal == nil || refusal.Reason != "issuer_unavailable" {
			t.Errorf("%+v", refusal)
		}
	})
}

// TestCheckClient makes each mistake that check --deep recognizes.
func TestCheckClient(t *testing.T) {
	for name, c := range map[string]struct {
		provider        func(*identitytest.Provider)
		result, mistake string // the second one is the key and a part of what was seen
	}{
		"valid":    {result: "accepts the client sluice-console and its redirect URL"},
		"client":   {mistake: "sign_in.client_id: responds 400", provider: func(p *identitytest.Provider) { p.ClientID = "other" }},
		"redirect": {mistake: "sign_in.client_id: does not redirect to " + redirectURL, provider: func(p *identitytest.Provider) { p.RedirectURL += "2" }},
		"secret":   {mistake: "sign_in.client_secret_file: invalid_client", provider: func(p *identitytest.Provider) { p.ClientSecret = "other" }},
		"scope":    {mistake: "sign_in.scopes: invalid_scope", provider: func(p *identitytest.Provider) { p.AuthorizeError = "invalid_scope" }},
		"issuer":   {mistake: "issuer: is of the issuer", provider: func(p *identitytest.Provider) { p.Document = map[string]any{"issuer": p.URL + "/"} }},
		"missing":  {mistake: "issuer: 404 Not Found", provider: func(p *identitytest.Provider) { p.Document = nil; p.NoDiscovery = true }},
		"endpoint": {mistake: "authorization_endpoint or token_endpoint", provider: func(p *identitytest.Provider) {
			p.Document = map[string]any{"token_endpoint": "http://login.example.com/token"}
		}},
		"other": {result: "its secret cannot be verified", provider: func(p *identitytest.Provider) { p.TokenError = "invalid_request" }},
	} {
		t.Run(name, func(t *testing.T) {
			e := newSignInEnv(t, nil)
			if c.provider != nil {
				e.Set(c.provider)
			}
			result, err := e.auth.SignIns()[0].CheckClient(t.Context())
			if c.mistake == "" {
				if err != nil || !strings.Contains(result, c.result) {
					t.Error(result, err)
				}
				return
			}
			key, seen, found := strings.Cut(c.mistake, ": ")
			if !found {
				key, seen = "", c.mistake
			}
			mistake, _ := err.(*identity.CheckError)
			if err == nil || !strings.Contains(err.Error(), seen) || key != "" && (mistake == nil || mistake.Key != key || mistake.Fix == "") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%v, want %s", err, c.mistake)
			}
		})
	}
}
