// SPDX-License-Identifier: Apache-2.0

package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/sluice-push/sluice/internal/gateway"
	"github.com/sluice-push/sluice/internal/proxy/proxytest"
	"github.com/sluice-push/sluice/internal/testwait"
)

// tokenIssuer is an OpenID Connect provider over TLS.
type tokenIssuer struct {
	*httptest.Server
	key     *ecdsa.PrivateKey
	fetches atomic.Int64
}

func newTokenIssuer(t *testing.T) *tokenIssuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	i := &tokenIssuer{key: key}
	encode := base64.RawURLEncoding.EncodeToString
	mux := http.NewServeMux()
	respond := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		respond(w, map[string]string{"issuer": i.URL, "jwks_uri": i.URL + "/keys"})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		respond(w, map[string]any{"keys": []any{map[string]string{"kty": "EC", "kid": "1", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])}}})
	})
	i.Server = httptest.NewTLSServer(mux)
	t.Cleanup(i.Close)
	return i
}

// caFile writes the certificate of the provider.
func (i *tokenIssuer) caFile(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "issuer.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (i *tokenIssuer) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := jwt.MapClaims{"iss": i.URL, "aud": "sluice", "sub": "orders", "exp": time.Now().Add(time.Hour).Unix()}
	for name, value := range claims {
		all[name] = value
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, all)
	token.Header["kid"] = "1"
	text, err := token.SignedString(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// authBlock returns a configuration with the issuer and one rule.
func (i *tokenIssuer) authBlock(t *testing.T, rule string) string {
	return fmt.Sprintf("auth: {oidc: [{issuer: '%s', audience: [sluice], ca_file: %q, rules: [%s]}]}\n", i.URL, i.caFile(t), rule)
}

// TestSendWithToken sends with a token of an OpenID Connect provider over TLS, and changes its rules.
func TestSendWithToken(t *testing.T) {
	s, issuer := newMockEnv(t), newTokenIssuer(t)
	apps := "apps:\n" + strings.Replace(s.appBlock("shop", s.fcmBlock()), s.keysBlock(), "weight: 1", 1)
	const allowed = "{claim: groups, value: push, apps: [shop], scopes: [send]}"
	text := listenConfig + issuer.authBlock(t, allowed)
	h := s.start(t, text+apps)
	h.key = issuer.token(t, map[string]any{"groups": []string{"push"}})
	testwait.Until(t, func() bool { code, _ := h.post("shop", fcmNotification); return code == 200 }, "the token is accepted")
	for name, c := range map[string]struct {
		claims map[string]any
		code   int
		detail string
	}{
		"other group": {map[string]any{"groups": "sales"}, 403, "only for the apps"},
		"expired":     {map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}, 401, "has expired"},
		"audience":    {map[string]any{"aud": "mail"}, 401, "its claim aud must contain sluice"},
		"issuer":      {map[string]any{"iss": "https://login.example.com"}, 401, "not of an issuer"},
	} {
		h := h
		h.key = issuer.token(t, c.claims)
		code, problem := h.post("shop", fcmNotification)
		if detail := fmt.Sprint(problem["detail"]); code != c.code || !strings.Contains(detail, c.detail) || strings.Contains(detail, "eyJ") {
			t.Errorf("%s: %d %v", name, code, problem)
		}
	}
	if code, text := h.get(h.adminURL + "/metrics"); code != 200 || !strings.Contains(text, `sluice_callers_refused_total{kind="none",reason="expired_token"} 1`) ||
		!strings.Contains(text, `sluice_oidc_fetch_failures_total{issuer="`+issuer.URL+`"} 0`) {
		t.Error("the metrics do not contain the refusals")
	}
	// A reload that leaves the issuer keeps its keys, and applies the rules.
	fetches := issuer.fetches.Load()
	changed := strings.Replace(text, "value: push", "value: sales", 1)
	if changes, err := h.reload(changed + apps); err != nil || len(changes) == 0 {
		t.Error(changes, err)
	}
	if code, _ := h.post("shop", fcmNotification); code != 403 {
		t.Errorf("%d after the rule was removed", code)
	}
	h.key = issuer.token(t, map[string]any{"groups": "sales"})
	if code, problem := h.post("shop", fcmNotification); code != 200 || issuer.fetches.Load() != fetches {
		t.Errorf("%d %v, %d fetches", code, problem, issuer.fetches.Load()-fetches)
	}
	// Without the issuer its tokens are refused.
	if _, err := h.reload(listenConfig + "apps:\n" + s.appBlock("shop", s.fcmBlock())); err != nil {
		t.Fatal(err)
	}
	if code, _ := h.post("shop", fcmNotification); code != 401 {
		t.Errorf("%d without the issuer", code)
	}
}

// TestCheckVerifiesTokenIssuer checks an issuer that responds, and one whose certificate is not trusted.
func TestCheckVerifiesTokenIssuer(t *testing.T) {
	s, issuer := newMockEnv(t), newTokenIssuer(t)
	const rule = "{apps: ['*']}"
	apps := "apps:\n" + s.appBlock("shop", s.fcmBlock())
	for text, want := range map[string]string{
		issuer.authBlock(t, rule): issuer.URL + " publishes 1 keys",
		"auth: {oidc: [{issuer: '" + issuer.URL + "', audience: [x], rules: [" + rule + "]}]}\n": "certificate signed by unknown authority",
	} {
		g, err := gateway.New(parse(t, listenConfig+text+apps), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, check := range g.Checks() {
			if check.Key != "auth.oidc[0]" {
				continue
			}
			found, err := check.Verify(t.Context())
			if got := fmt.Sprint(found, err); !strings.Contains(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			want = ""
		}
		if want != "" {
			t.Error("no check of the issuer")
		}
	}
}

// TestTokenIssuerBehindProxy fetches the keys of an issuer whose name only a proxy can resolve.
func TestTokenIssuerBehindProxy(t *testing.T) {
	s, issuer := newMockEnv(t), newTokenIssuer(t)
	p := proxytest.Start(t, proxytest.Config{Hosts: map[string]string{"example.com:443": issuer.Listener.Addr().String()}})
	issuer.URL = "https://example.com" // the certificate is for this name
	block := strings.Replace(issuer.authBlock(t, "{apps: [shop], scopes: [send]}"), "rules:", fmt.Sprintf("proxy: {url: '%s'}, rules:", p.URL()), 1)
	h := s.start(t, listenConfig+block+"apps:\n"+s.appBlock("shop", s.fcmBlock()))
	h.key = issuer.token(t, nil)
	testwait.Until(t, func() bool { code, _ := h.post("shop", fcmNotification); return code == 200 }, "the token is accepted")
	if !slices.Contains(p.Seen(), "example.com:443") {
		t.Errorf("%v", p.Seen())
	}
}

// TestTokenIssuerThatIsDown checks that a token which cannot be verified gets 503, and an API key 200.
func TestTokenIssuerThatIsDown(t *testing.T) {
	s, issuer := newMockEnv(t), newTokenIssuer(t)
	h := s.start(t, listenConfig+issuer.authBlock(t, "{apps: [shop], scopes: [send]}")+"apps:\n"+s.appBlock("shop", s.fcmBlock()))
	if code, problem := h.post("shop", fcmNotification); code != 200 {
		t.Errorf("%d %v", code, problem)
	}
	issuer.Close()
	text := strings.Replace(issuer.authBlock(t, "{apps: [shop], scopes: [send]}"), "audience: [sluice]", "audience: [sluice, push]", 1) // another issuer, without keys
	if _, err := h.reload(listenConfig + text + "apps:\n" + s.appBlock("shop", s.fcmBlock())); err != nil {
		t.Fatal(err)
	}
	key := h.key
	h.key = issuer.token(t, nil)
	if code, problem := h.post("shop", fcmNotification); code != 503 || !strings.HasSuffix(fmt.Sprint(problem["type"]), "/issuer-unavailable") {
		t.Errorf("%d %v", code, problem)
	}
	h.key = key
	if code, problem := h.post("shop", fcmNotification); code != 200 {
		t.Errorf("%d %v", code, problem)
	}
}
