// SPDX-License-Identifier: Apache-2.0

// Package identitytest contains an OpenID Connect provider for tests, with discovery, keys, the
// authorization code flow with PKCE, and sign-out. It shares no code with the package that it tests.
package identitytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"html/template"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Provider is an OpenID Connect provider. It is an http.Handler and, for tests without a network, an
// http.RoundTripper. Change its fields before it is used, or in Set.
type Provider struct {
	URL string // the issuer
	// Keys are the published keys. The first one signs ID tokens.
	Keys []*Key
	// Down makes every response 502.
	Down bool
	// Block delays requests until it is closed.
	Block chan struct{}
	// Document changes the discovery document. A nil value removes a field.
	Document map[string]any

	// ClientID, ClientSecret, RedirectURL and SignedOutURL are those of the only client. A client without
	// a secret is public.
	ClientID, ClientSecret, RedirectURL, SignedOutURL string
	// Users are the claims of the users by name. A user has any password.
	Users map[string]map[string]any
	// Claims changes the claims of ID tokens. A nil value removes a claim.
	Claims map[string]any
	// AuthorizeError is the error with which the authorization endpoint sends browsers back, and TokenError that
	// of the token endpoint.
	AuthorizeError, TokenError string
	// NoIDToken leaves the ID token out, and NoDiscovery the discovery document.
	NoIDToken, NoDiscovery bool

	server  *httptest.Server // nil without a network
	mu      sync.Mutex
	fetches int               // of the keys
	issued  map[string]grant  // by code
	signed  map[string]string // users by session
	Tokens  []string          // ID tokens that were issued
}

// grant is what a code stands for.
type grant struct{ user, challenge, nonce, redirectURL string }

// Key is a signing key of a provider.
type Key struct {
	ID      string
	method  jwt.SigningMethod
	private crypto.Signer
}

var testRSAKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// RSAKey returns a key for RS256. All have the same private key, because it takes long to make one.
func RSAKey(id string) *Key { return &Key{id, jwt.SigningMethodRS256, testRSAKey()} }

// ECKey returns a new key for ES256.
func ECKey(t testing.TB, id string) *Key {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Key{id, jwt.SigningMethodES256, key}
}

// jwk returns the public key as a JSON Web Key.
func (k *Key) jwk() map[string]any {
	encode := base64.RawURLEncoding.EncodeToString
	switch public := k.private.Public().(type) {
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "kid": k.ID, "use": "sig", "n": encode(public.N.Bytes()), "e": encode(big.NewInt(int64(public.E)).Bytes())}
	case *ecdsa.PublicKey:
		point, err := public.Bytes()
		if err != nil {
			panic(err)
		}
		return map[string]any{"kty": "EC", "kid": k.ID, "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}
	}
	return nil
}

// Sign returns a token with claims.
func (k *Key) Sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	text, err := k.sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (k *Key) sign(claims map[string]any) (string, error) {
	token := jwt.NewWithClaims(k.method, jwt.MapClaims(claims))
	if k.ID != "" {
		token.Header["kid"] = k.ID
	}
	return token.SignedString(k.private)
}

// Start starts a provider over TLS with a key and the user ada, until the end of the test.
func Start(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{Keys: []*Key{ECKey(t, "1")}, ClientID: "sluice-console", Users: map[string]map[string]any{"ada": {"email": "ada@example.com", "groups": []string{"push"}}}}
	p.server = httptest.NewTLSServer(p)
	p.URL = p.server.URL
	t.Cleanup(p.server.Close)
	return p
}

// Close stops the server.
func (p *Provider) Close() { p.server.Close() }

// Client returns a client that trusts the certificate of the server.
func (p *Provider) Client() *http.Client { return p.server.Client() }

// CAFile writes the certificate of the server and returns the name of the file.
func (p *Provider) CAFile(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "issuer.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Set changes the provider while it is used.
func (p *Provider) Set(change func(*Provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// SignOutEverywhere ends the sessions of all browsers at the provider. Call it in Set.
func (p *Provider) SignOutEverywhere() { p.signed = nil }

// Fetches returns how often the keys were requested.
func (p *Provider) Fetches() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fetches
}

// with returns claims or fields with changes. A nil value removes one.
func with(values, changes map[string]any) map[string]any {
	maps.Copy(values, changes)
	maps.DeleteFunc(values, func(_ string, v any) bool { return v == nil })
	return values
}

// APIClaims returns valid claims of a token for the API, with changes. A nil value removes a claim.
func (p *Provider) APIClaims(changes map[string]any) map[string]any {
	return with(map[string]any{"iss": p.URL, "aud": "sluice", "sub": "orders", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}, changes)
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.URL.Path == "/keys" {
		p.fetches++
	}
	if block := p.Block; block != nil {
		p.mu.Unlock()
		select {
		case <-block:
		case <-r.Context().Done():
		}
		p.mu.Lock()
	}
	if p.Down {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	if p.NoDiscovery && strings.HasPrefix(r.URL.Path, "/.well-known/") {
		http.NotFound(w, r)
		return
	}
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		respond(w, http.StatusOK, with(map[string]any{
			"issuer": p.URL, "jwks_uri": p.URL + "/keys", "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
			"end_session_endpoint": p.URL + "/logout", "response_types_supported": []string{"code"}, "authorization_response_iss_parameter_supported": true,
			"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post", "none"},
		}, p.Document))
	case "/keys":
		keys := []any{map[string]any{"kty": "future", "kid": "?"}, map[string]any{"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}}
		for _, k := range p.Keys {
			keys = append(keys, k.jwk())
		}
		respond(w, http.StatusOK, map[string]any{"keys": keys})
	case "/authorize":
		p.authorize(w, r)
	case "/token":
		p.token(w, r)
	case "/logout":
		p.logout(w, r)
	default:
		http.NotFound(w, r)
	}
}

// RoundTrip implements http.RoundTripper without a network.
func (p *Provider) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	return w.Result(), nil
}

func respond(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have disconnected
}

// loginPage asks who signs in.
var loginPage = template.Must(template.New("").Parse(`<!doctype html><html lang="en"><title>Test provider</title><h1>Test provider</h1>
<form method="post"><label>User <input name="user" autofocus></label><button>Sign in</button></form>`))

const sessionCookie = "provider_session"

// authorize is the authorization endpoint (RFC 6749 §4.1.1, RFC 7636 §4.3).
func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != p.ClientID || q.Get("redirect_uri") != p.RedirectURL {
		http.Error(w, "unknown client or redirect_uri", http.StatusBadRequest)
		return
	}
	back := func(answer url.Values) {
		answer.Set("state", q.Get("state"))
		answer.Set("iss", p.URL)
		http.Redirect(w, r, p.RedirectURL+"?"+answer.Encode(), http.StatusFound)
	}
	user := ""
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		user = p.signed[cookie.Value]
	}
	if r.Method == http.MethodPost {
		user = r.PostFormValue("user")
		id := rand.Text()
		if p.signed == nil {
			p.signed = map[string]string{}
		}
		p.signed[id] = user
		http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: id, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode})
	}
	switch {
	case q.Get("response_type") != "code" || !slices.Contains(strings.Fields(q.Get("scope")), "openid") || q.Get("nonce") == "" || q.Get("code_challenge_method") != "S256" || len(q.Get("code_challenge")) != 43:
		back(url.Values{"error": {"invalid_request"}})
	case p.AuthorizeError != "":
		back(url.Values{"error": {p.AuthorizeError}, "error_description": {"<script>alert(1)</script> described"}})
	case user == "" && q.Get("prompt") == "none":
		back(url.Values{"error": {"login_required"}})
	case user == "":
		_ = loginPage.Execute(w, nil) // the client may have disconnected
	case p.Users[user] == nil:
		back(url.Values{"error": {"access_denied"}})
	default:
		code := rand.Text()
		if p.issued == nil {
			p.issued = map[string]grant{}
		}
		p.issued[code] = grant{user, q.Get("code_challenge"), q.Get("nonce"), q.Get("redirect_uri")}
		back(url.Values{"code": {code}})
	}
}

// token is the token endpoint (RFC 6749 §4.1.3, RFC 7636 §4.6).
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	fail := func(status int, code string) {
		respond(w, status, map[string]any{"error": code, "error_description": "described"})
	}
	id, secret, basic := r.BasicAuth()
	if basic { // RFC 6749 §2.3.1
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
	} else {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	known, ok := p.issued[r.PostFormValue("code")]
	delete(p.issued, r.PostFormValue("code")) // a code can be used once
	challenge := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	switch {
	case id != p.ClientID || secret != p.ClientSecret:
		fail(http.StatusUnauthorized, "invalid_client")
		return
	case p.TokenError != "":
		fail(http.StatusBadRequest, p.TokenError)
		return
	case r.PostFormValue("grant_type") != "authorization_code" || !ok || r.PostFormValue("redirect_uri") != known.redirectURL ||
		base64.RawURLEncoding.EncodeToString(challenge[:]) != known.challenge:
		fail(http.StatusBadRequest, "invalid_grant")
		return
	}
	claims := with(map[string]any{"iss": p.URL, "aud": p.ClientID, "sub": known.user, "nonce": known.nonce, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}, p.Users[known.user])
	token, err := p.Keys[0].sign(with(claims, p.Claims))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if p.Tokens = append(p.Tokens, token); p.NoIDToken {
		token = ""
	}
	respond(w, http.StatusOK, map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 3600, "id_token": token})
}

// logout ends the session at the provider (OpenID Connect RP-Initiated Logout §2).
func (p *Provider) logout(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != p.ClientID || q.Get("post_logout_redirect_uri") != p.SignedOutURL {
		http.Error(w, "unknown client or post_logout_redirect_uri", http.StatusBadRequest)
		return
	}
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		delete(p.signed, cookie.Value)
	}
	http.Redirect(w, r, p.SignedOutURL, http.StatusFound)
}
